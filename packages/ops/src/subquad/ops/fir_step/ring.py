"""The ring of a FIR filter in decoding: the sample of absolute time t lies in slot ``t % (tap - 1)``."""

import torch
from torch import Tensor

from subquad.ops.axes import History, Position


def _slots(past: int, position: Tensor) -> Tensor:
    """Returns ``[batch, past]``: the slot of each sample of a history (oldest first) that ends at time position - 1."""
    offsets = torch.arange(past, device=position.device)
    return torch.remainder(position[:, None] - past + offsets, past)


def ring_from_history(history: History, position: Position) -> History:
    """Turns the last ``tap - 1`` samples (oldest first) of rows that have seen ``position`` tokens into rings."""
    past = history.shape[-1]
    if past == 0:
        return history.clone()
    index = _slots(past, position)[:, None, :].expand_as(history)
    return torch.empty_like(history).scatter_(-1, index, history)


def history_from_ring(ring: History, position: Position) -> History:
    """Undoes ring_from_history: returns the samples of a ring, oldest first."""
    past = ring.shape[-1]
    if past == 0:
        return ring.clone()
    return ring.gather(-1, _slots(past, position)[:, None, :].expand_as(ring))
