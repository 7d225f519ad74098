"""Trains a network on genomes with Lightning: settings, loss, optimiser, the run and its report."""

from subquad.recipes.training.loss import loss_divisor as loss_divisor
from subquad.recipes.training.loss import next_token_loss as next_token_loss
from subquad.recipes.training.loss import target_weights as target_weights
from subquad.recipes.training.metrics import Measurement as Measurement
from subquad.recipes.training.metrics import read_metrics as read_metrics
from subquad.recipes.training.module import LanguageModelTraining as LanguageModelTraining
from subquad.recipes.training.optimizer import build_optimizer as build_optimizer
from subquad.recipes.training.optimizer import build_schedule as build_schedule
from subquad.recipes.training.run import TrainingResult as TrainingResult
from subquad.recipes.training.run import train as train
from subquad.recipes.training.sequences import GenomeWindows as GenomeWindows
from subquad.recipes.training.settings import DataSettings as DataSettings
from subquad.recipes.training.settings import LoraSettings as LoraSettings
from subquad.recipes.training.settings import LossSettings as LossSettings
from subquad.recipes.training.settings import OptimizerSettings as OptimizerSettings
from subquad.recipes.training.settings import RunSettings as RunSettings
from subquad.recipes.training.settings import TrainingConfig as TrainingConfig
