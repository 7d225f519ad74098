"""Runs a function in several processes of this machine that form one gloo group."""

import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_ranks(worker: Callable[[], Any], size: int) -> list[Any]:
    """Calls `worker()` in `size` processes and returns their results in the order of the ranks; any failure fails."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_run, (worker, size, folder), nprocs=size)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _run(rank: int, worker: Callable[[], Any], size: int, folder: str) -> None:
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size, timeout=timeout)
    try:
        torch.save(worker(), Path(folder) / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
