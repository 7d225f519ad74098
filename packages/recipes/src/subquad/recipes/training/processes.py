"""The processes of a run on several devices: which one this is, and how they begin and end together."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from subquad.recipes.errors import RecipeError, SettingError, TrainingInterrupted

_LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")  # as Lightning leaves it behind
_SHARED = "SUBQUAD_SHARED_RUN"  # the process that has had a run on several devices


def process_rank() -> int:
    """Returns the number of this process among those of a launcher (`RANK`, else `LOCAL_RANK`), 0 without one."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


@contextmanager
def joined_processes(devices: int, *, worker: bool) -> Iterator[None]:
    """Surrounds a run on several devices.

    The first process goes on behind it as if it had been alone: with the environment that it had, and without the
    process group. A worker, whose first process is another, ends here, without a word on what that one says too.

    Args:
      devices: Those of the run; with one, nothing is done.
      worker: Whether this is not the first process.

    Raises:
      SettingError: This program has had such a run: copies of it would begin with that one.
    """
    if devices == 1:
        yield
        return
    if os.environ.get(_SHARED) == str(os.getpid()):
        raise SettingError("run.devices", devices, "1, or such a run in a program of its own; this one has had one")
    os.environ[_SHARED] = str(os.getpid())
    before = {name: os.environ.get(name) for name in _LAUNCHED}
    try:
        yield
    except (RecipeError, TrainingInterrupted):
        if not worker:
            raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}
    if worker:
        sys.exit(0)
