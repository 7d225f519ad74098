"""The tiny StripedHyena 2 with random weights: as an engine, as a scheduler, and as a checkpoint."""

from pathlib import Path
from typing import Any

import torch

from subquad.inference import ByteTokenizer, Engine, Scheduler, SchedulerLimits, save_checkpoint
from subquad.lazy_config import from_yaml, instantiate

CONFIG = Path(__file__).parent / "data" / "tiny.yaml"


def tiny_engine(seed: int = 0) -> Engine:
    """An engine over random weights."""
    return Engine(_model(seed), ByteTokenizer())


def tiny_scheduler(engine: Engine, **limits: Any) -> Scheduler:
    """A started scheduler; freed states are filled with NaN."""
    scheduler = Scheduler(engine, SchedulerLimits(**({"max_sequence_tokens": 1024} | limits)), poison_freed=True)
    scheduler.start()
    return scheduler


def tiny_checkpoint(folder: Path) -> Path:
    """Saves the tiny network with random weights as `folder`."""
    save_checkpoint(folder, _model(0), from_yaml(CONFIG.read_text()))
    return folder


def _model(seed: int) -> Any:
    torch.manual_seed(seed)
    return instantiate(from_yaml(CONFIG.read_text()))
