"""Packed batches: several sequences one after the other in one row, told apart by ``cu_seqlens``."""

import itertools

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops.errors import ArgumentOutOfRange, ShapeMismatch


def check_cu_seqlens(cu_seqlens: Tensor, stream: Tensor) -> None:
    """Raises unless ``cu_seqlens`` ``[sequences + 1]`` runs from 0 to the length of the one row of ``stream``."""
    _checks.integral("cu_seqlens", cu_seqlens)
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ShapeMismatch(f"cu_seqlens has shape {tuple(cu_seqlens.shape)}; accepted: (sequences + 1,)")
    if stream.shape[0] != 1:
        raise ShapeMismatch(f"x has batch {stream.shape[0]} with cu_seqlens; accepted: 1 (all sequences in one row)")
    # Reading the values of a CUDA tensor would wait for the device, and a traced one has none.
    if cu_seqlens.device.type == "cpu" and dispatch.runs_plainly(cu_seqlens):
        values = cu_seqlens.tolist()
        if values[0] != 0 or values[-1] != stream.shape[-1]:
            raise ArgumentOutOfRange(
                f"cu_seqlens runs from {values[0]} to {values[-1]}; accepted: from 0 to the length {stream.shape[-1]}"
            )
        for earlier, later in itertools.pairwise(values):
            if later < earlier:
                raise ArgumentOutOfRange(
                    f"cu_seqlens falls from {earlier} to {later}; accepted: values that never fall"
                )


def spread_sequences(
    stream: Tensor, cu_seqlens: Tensor, past: int, before: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Puts ``past`` samples of history in front of each packed sequence.

    Returns:
      The widened row ``[1, channel, total + sequences * past]``, the index in it of each output of a causal filter
      ``[total]`` (counted from the first output), and the index of each sequence's last ``past`` samples
      ``[sequences, past]``.
    """
    _, channels, total = stream.shape
    sequences = cu_seqlens.shape[0] - 1
    bounds = cu_seqlens.to(device=stream.device, dtype=torch.int64)
    t = torch.arange(total, device=stream.device)
    sequence = torch.searchsorted(bounds[1:].contiguous(), t, right=True)
    outputs = t + sequence * past
    wide = stream.new_zeros(1, channels, total + sequences * past).index_copy(2, outputs + past, stream)
    lags = torch.arange(past, device=stream.device)
    order = torch.arange(sequences, device=stream.device)[:, None]
    if before is not None and past:
        slots = (bounds[:-1, None] + order * past + lags).flatten()
        wide = wide.index_copy(2, slots, before.to(stream.dtype).transpose(0, 1).reshape(1, channels, -1))
    return wide, outputs, bounds[1:, None] + order * past + lags
