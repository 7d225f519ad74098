"""Checkpoints on disk: the native directory format, the names that its tensors have there, and conversion."""

from subquad.inference.checkpoint.conversion import convert_checkpoint as convert_checkpoint
from subquad.inference.checkpoint.hub import fetch_checkpoint as fetch_checkpoint
from subquad.inference.checkpoint.hub import hub_address as hub_address
from subquad.inference.checkpoint.native import LoadedCheckpoint as LoadedCheckpoint
from subquad.inference.checkpoint.native import load_checkpoint as load_checkpoint
from subquad.inference.checkpoint.native import save_checkpoint as save_checkpoint
from subquad.inference.checkpoint.report import MappedTensor as MappedTensor
from subquad.inference.checkpoint.source_config import source_config as source_config
from subquad.inference.checkpoint.summary import CheckpointSummary as CheckpointSummary
from subquad.inference.checkpoint.summary import read_summary as read_summary
from subquad.inference.checkpoint.vortex_config import vortex_config as vortex_config
