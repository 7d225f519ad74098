"""Whether the state of a sequence fits into memory, asked before any work starts."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from subquad.inference.errors import InsufficientMemory
from subquad.inference.network import Network

GROUP = Path("/sys/fs/cgroup")
GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),  # version 2 of control groups, then version 1
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def state_bytes(network: Network, rows: int, length: int, page_count: int | None = None) -> int:
    """Returns the bytes of the state of ``rows`` sequences of up to ``length`` tokens, without making it.

    With ``page_count`` their keys and values lie in that many pages.
    """
    state = network.init_state(rows, max_length=length, page_count=page_count, device=torch.device("meta"))
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in _tensors(state)}.values())


def _tensors(state: object) -> Iterator[Tensor]:
    """Yields every tensor of a state, those that it holds twice included."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)
    elif hasattr(state, "__dict__"):
        for value in vars(state).values():
            yield from _tensors(value)


def free_bytes(device: torch.device) -> int:
    """Returns what can still be taken: free memory of a CUDA device with torch's own reserve, else of the machine.

    Of the machine only as much as its control group allows, which is how containers are limited.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = next(line for line in lines if line.startswith("MemAvailable:"))
        free = int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([free, *(_left_of_group(*names) for names in GROUP_FILES)])


def _left_of_group(limit: str, usage: str, unneeded: str) -> int:
    """Returns what a control group still allows, files that are kept in memory for reading only not counted.

    Args:
      limit, usage: Files with one number each.
      unneeded: What the bytes of such files are called in ``memory.stat``.
    """
    try:
        most, used = int((GROUP / limit).read_text()), int((GROUP / usage).read_text())
        counts = dict(line.split() for line in (GROUP / Path(usage).parent / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(counts.get(unneeded, 0)))
    except (OSError, ValueError):  # no such group, or one without a limit, which is a word
        return sys.maxsize


def require_memory(
    network: Network, device: torch.device, *, rows: int, length: int, field: str, page_count: int | None = None
) -> None:
    """Refuses a job whose state does not fit.

    Args:
      network: Makes the state.
      device: Where it will be.
      rows: Sequences at once.
      length: Tokens of the longest one, new ones included.
      field: What the error calls the longest sequence.
      page_count: Pages for all rows together; None for as many as each may need.

    Raises:
      InsufficientMemory: Names the tokens, what they need and what is free.
    """
    needed, free = state_bytes(network, rows, length, page_count), free_bytes(device)
    if needed > free:
        raise InsufficientMemory(field, length, needed, free, str(device))
