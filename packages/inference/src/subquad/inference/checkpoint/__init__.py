"""Checkpoints on disk: the native directory format, and the names that its tensors have there."""

from subquad.inference.checkpoint.native import LoadedCheckpoint as LoadedCheckpoint
from subquad.inference.checkpoint.native import load_checkpoint as load_checkpoint
from subquad.inference.checkpoint.native import save_checkpoint as save_checkpoint
from subquad.inference.checkpoint.summary import CheckpointSummary as CheckpointSummary
from subquad.inference.checkpoint.summary import read_summary as read_summary
from subquad.inference.checkpoint.vortex import MappedTensor as MappedTensor
from subquad.inference.checkpoint.vortex import export_vortex as export_vortex
from subquad.inference.checkpoint.vortex import import_vortex as import_vortex
from subquad.inference.checkpoint.vortex_config import vortex_config as vortex_config
