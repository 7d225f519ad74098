"""Tokens on their way to the other ranks: from device to device, so that no host waits for one."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Announced(NamedTuple):
    """What a message says of a tensor that follows it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def announced(tensor: Tensor | None) -> Announced | None:
    """Returns what the others must know before ``pass_on``; None where there is no tensor."""
    return None if tensor is None else Announced(tuple(tensor.shape), tensor.dtype)


def pass_on(tensor: Tensor | None) -> None:
    """Sends rank 0's tensor to all ranks, which call ``received`` in the same order."""
    if tensor is not None and tensor.numel():
        dist.broadcast(tensor.contiguous(), 0)


def received(what: Announced | None, device: torch.device) -> Tensor | None:
    """Returns what rank 0 passes on."""
    if what is None:
        return None
    tensor = torch.empty(what.shape, dtype=what.dtype, device=device)
    if tensor.numel():
        dist.broadcast(tensor, 0)
    return tensor
