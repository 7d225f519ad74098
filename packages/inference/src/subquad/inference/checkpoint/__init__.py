"""Checkpoints on disk: the native directory format, and the names that its tensors have there."""

from subquad.inference.checkpoint.native import LoadedCheckpoint as LoadedCheckpoint
from subquad.inference.checkpoint.native import load_checkpoint as load_checkpoint
from subquad.inference.checkpoint.native import save_checkpoint as save_checkpoint
from subquad.inference.checkpoint.summary import CheckpointSummary as CheckpointSummary
from subquad.inference.checkpoint.summary import read_summary as read_summary
