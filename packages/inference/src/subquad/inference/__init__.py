"""Generates from and scores with causal DNA networks: engine, continuous batching, checkpoints and commands.

The names below are loaded when they are first used, so that a command line answers before torch is imported.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subquad.inference.checkpoint import LoadedCheckpoint as LoadedCheckpoint
    from subquad.inference.checkpoint import load_checkpoint as load_checkpoint
    from subquad.inference.checkpoint import save_checkpoint as save_checkpoint
    from subquad.inference.embedding import Pooling as Pooling
    from subquad.inference.embedding import tensor_bytes as tensor_bytes
    from subquad.inference.engine import Engine as Engine
    from subquad.inference.jobs import Embedded as Embedded
    from subquad.inference.jobs import EmbedJob as EmbedJob
    from subquad.inference.jobs import Event as Event
    from subquad.inference.jobs import Failed as Failed
    from subquad.inference.jobs import Finished as Finished
    from subquad.inference.jobs import GenerateJob as GenerateJob
    from subquad.inference.jobs import Scored as Scored
    from subquad.inference.jobs import ScoreJob as ScoreJob
    from subquad.inference.jobs import Started as Started
    from subquad.inference.jobs import Timing as Timing
    from subquad.inference.jobs import Tokens as Tokens
    from subquad.inference.likelihood_track import Track as Track
    from subquad.inference.likelihood_track import draw_tracks as draw_tracks
    from subquad.inference.likelihood_track import write_bedgraph as write_bedgraph
    from subquad.inference.lineage_tags import phylogenetic_tag as phylogenetic_tag
    from subquad.inference.options import Generation as Generation
    from subquad.inference.options import GenerationOptions as GenerationOptions
    from subquad.inference.options import StreamEvent as StreamEvent
    from subquad.inference.scheduler import Scheduler as Scheduler
    from subquad.inference.scheduler import SchedulerLimits as SchedulerLimits
    from subquad.inference.scheduler import SchedulerStats as SchedulerStats
    from subquad.inference.scoring import Score as Score
    from subquad.inference.scoring import reverse_complement as reverse_complement
    from subquad.inference.ticket import Ticket as Ticket
    from subquad.inference.tokenizer import ByteTokenizer as ByteTokenizer
    from subquad.inference.tokenizer import NucleotideTokenizer as NucleotideTokenizer

_MODULE_OF = {
    "LoadedCheckpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "Engine": "engine",
    "EmbedJob": "jobs",
    "Embedded": "jobs",
    "Event": "jobs",
    "Failed": "jobs",
    "Finished": "jobs",
    "GenerateJob": "jobs",
    "Scored": "jobs",
    "ScoreJob": "jobs",
    "Started": "jobs",
    "Timing": "jobs",
    "Tokens": "jobs",
    "Generation": "options",
    "GenerationOptions": "options",
    "StreamEvent": "options",
    "Scheduler": "scheduler",
    "SchedulerLimits": "scheduler",
    "SchedulerStats": "scheduler",
    "Score": "scoring",
    "reverse_complement": "scoring",
    "Ticket": "ticket",
    "ByteTokenizer": "tokenizer",
    "NucleotideTokenizer": "tokenizer",
    "Pooling": "embedding",
    "tensor_bytes": "embedding",
    "Track": "likelihood_track",
    "draw_tracks": "likelihood_track",
    "write_bedgraph": "likelihood_track",
    "phylogenetic_tag": "lineage_tags",
}
__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
