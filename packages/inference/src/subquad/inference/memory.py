"""Whether the state of a sequence fits into memory, asked before any work starts."""

import os
from collections.abc import Iterator

import torch
from torch import Tensor

from subquad.inference.errors import InsufficientMemory
from subquad.inference.network import Network


def state_bytes(network: Network, rows: int, length: int) -> int:
    """Returns the bytes of the state of ``rows`` sequences of up to ``length`` tokens, without making it."""
    state = network.init_state(rows, max_length=length, device=torch.device("meta"))
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
    """Returns what can still be taken: free memory of a CUDA device with torch's own reserve, else of the machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_memory(network: Network, device: torch.device, *, rows: int, length: int, field: str) -> None:
    """Refuses a job whose state does not fit.

    Args:
      network: Makes the state.
      device: Where it will be.
      rows: Sequences at once.
      length: Tokens of the longest one, new ones included.
      field: What the error calls the longest sequence.

    Raises:
      InsufficientMemory: Names the tokens, what they need and what is free.
    """
    needed, free = state_bytes(network, rows, length), free_bytes(device)
    if needed > free:
        raise InsufficientMemory(field, length, needed, free, str(device))
