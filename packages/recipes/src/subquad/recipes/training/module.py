"""The network as Lightning trains it: loss, optimiser, held-out bits per base."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from subquad.recipes.data.windows import EvaluationWindow
from subquad.recipes.errors import TrainingDiverged
from subquad.recipes.training.loss import next_token_loss, target_nats, target_weights
from subquad.recipes.training.optimizer import build_optimizer, build_schedule
from subquad.recipes.training.settings import LossSettings, OptimizerSettings

NATS_PER_BIT = math.log(2)


class LanguageModelTraining(pl.LightningModule):
    """Trains a network that maps ids [batch, length] to logits [batch, length, vocabulary].

    After each step `train_bits` holds the loss in bits per target; after each validation `held_out_bits` the mean
    over all scored held-out bases, without loss weights.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        loss: LossSettings | None = None,
        optimizer: OptimizerSettings | None = None,
    ) -> None:
        """Wraps `model`; `steps` is the length of the learning-rate schedule in optimiser steps."""
        super().__init__()
        self.model = model
        self._steps = steps
        self._loss = loss or LossSettings()
        self._optimizer = optimizer or OptimizerSettings()
        self.train_bits = math.nan
        self.held_out_bits = math.nan
        self._sums = torch.zeros(2, dtype=torch.float64)

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the logits `[batch, length, vocabulary]` of `ids`, `[batch, length]`."""
        return self.model(ids)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Returns the weighted loss of a batch of windows `[batch, window + 1]`, in nats.

        Raises:
          TrainingDiverged: It is not finite.
        """
        weights = self._weights(batch)
        loss = next_token_loss(self(batch[:, :-1]), batch, weights, normalization=self._loss.normalization)
        self.train_bits = loss.detach().item() / NATS_PER_BIT
        self._check_finite("loss", self.train_bits)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of the whole gradient, and refuses one that is not finite before it reaches a weight."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)
        self._check_finite("norm of the gradient", norm.item())

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
            raise TrainingDiverged(self.trainer.global_step + 1, what, value, rate)

    def on_validation_epoch_start(self) -> None:
        """Starts the sums over the held-out bases."""
        self._sums = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: EvaluationWindow, batch_idx: int) -> None:
        """Adds the bits of the bases that these windows score."""
        ids, scored = batch
        nats = target_nats(self(ids[:, :-1]), ids)
        counted = scored & (self._weights(ids) > 0)
        self._sums += torch.stack([nats[counted].double().sum(), counted.sum().double()])

    def on_validation_epoch_end(self) -> None:
        """Computes the held-out bits per base over all processes."""
        nats, count = self.trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        self.held_out_bits = nats / NATS_PER_BIT / count if count else math.nan

    def configure_optimizers(self) -> Any:
        """Builds AdamW and its schedule."""
        optimizer = build_optimizer(self.model, self._optimizer)
        schedule = build_schedule(optimizer, self._optimizer, self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _weights(self, ids: Tensor) -> Tensor:
        return target_weights(
            ids,
            lowercase_weight=self._loss.lowercase_weight,
            mask_end_of_document=self._loss.mask_end_of_document,
        )
