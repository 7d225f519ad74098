"""The ring of a FIR filter in decoding: the sample of absolute time t lies in slot ``t % (tap - 1)``."""

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._known_calls import implementation_for
from subquad.ops.axes import History, Position
from subquad.ops.dispatch import Implementation
from subquad.ops.errors import ShapeMismatch

_MOST_BATCH = 65_535  # rows that the CUDA library's kernel takes


def ring_from_history(history: History, position: Position) -> History:
    """Turns the last ``tap - 1`` samples (oldest first) of rows that have seen ``position`` tokens into rings.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch: position does not hold one integer a row of history; names both.
    """
    _check("history", history, position)
    kernel = _kernel(history)
    if kernel is not None:
        ring = torch.empty_like(history, memory_format=torch.contiguous_format)
        kernel.run(history, ring, position, 0, True)
        return ring
    past = history.shape[-1]
    if past == 0:
        return history.clone()
    index = _slots(past, position)[:, None, :].expand_as(history)
    return torch.empty_like(history).scatter_(-1, index, history)


def history_from_ring(ring: History, position: Position) -> History:
    """Undoes ring_from_history: returns the samples of a ring, oldest first.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch: position does not hold one integer a row of ring; names both.
    """
    _check("ring", ring, position)
    kernel = _kernel(ring)
    if kernel is not None:
        history = torch.empty_like(ring, memory_format=torch.contiguous_format)
        kernel.run(ring, history, position, 0, False)
        return history
    past = ring.shape[-1]
    if past == 0:
        return ring.clone()
    return ring.gather(-1, _slots(past, position)[:, None, :].expand_as(ring))


def fill_ring(ring: History, history: History, position: Position, length: int = 0) -> None:
    """Overwrites rings with the last ``tap - 1`` samples of rows that have seen ``position + length`` tokens.

    Args:
      ring: ``[batch, channel, tap - 1]``, changed in place; may be a view.
      history: like ring, oldest first, in any float dtype.
      position: ``[batch]``, the tokens that each row had seen before its last ``length``.
      length: tokens that all rows have read since.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch: history or position disagrees with ring; names both.
    """
    strides = ring.stride() if isinstance(ring, Tensor) and not ring.is_nested else ()
    kernel = implementation_for(_decide, (ring, history, position), strides)
    if kernel is not None:
        kernel.run(history, ring, position, length, True)
    else:
        ring.copy_(ring_from_history(history, position + length))


def _decide(ring: Tensor, history: Tensor, position: Tensor, strides: tuple[int, ...]) -> Implementation | None:
    """Checks a call of fill_ring, of which strides are a part, and chooses its kernel."""
    _check("ring", ring, position)
    _checks.floating("history", history)
    _checks.kept("ring", ring, tuple(ring.shape), history, "history")
    _checks.shaped("history", history, tuple(ring.shape), ring, "ring")
    return _kernel(ring, history)


def _check(name: str, samples: Tensor, position: Tensor) -> None:
    """Raises unless samples are ``[batch, channel, tap - 1]`` and positions integers, one a row."""
    _checks.floating(name, samples)
    if samples.dim() != 3:
        raise ShapeMismatch(
            f"{name} has {samples.dim()} axes {tuple(samples.shape)}; accepted: 3 (batch, channel, past)"
        )
    dtypes = (torch.int64, torch.int32)
    _checks.row_values("position", position, samples.shape[0], samples, dtypes, name, optional=False)


def _slots(past: int, position: Tensor) -> Tensor:
    """Returns ``[batch, past]``: the slot of each sample of a history (oldest first) that ends at time position - 1."""
    offsets = torch.arange(past, device=position.device)
    return torch.remainder(position[:, None] - past + offsets, past)


def _kernel(ring: Tensor, history: Tensor | None = None) -> Implementation | None:
    """Returns the kernel that takes these, the CUDA library's before Triton's; it has no gradient.

    It takes source, target, position, length, and whether it turns into the ring or out.
    """
    if (
        not ring.is_cuda
        or dispatch.transformed()
        or ring.dtype == torch.float64
        or not ring.numel()
        or (torch.is_grad_enabled() and ring.requires_grad)
    ):
        return None
    wide = history is not None and history.dtype == torch.float64
    if not wide and ring.shape[0] <= _MOST_BATCH and dispatch.load_backend("cuda")[0] is None:
        from subquad.ops.fir_step.cuda.ring import turn as turn_in_cuda
        from subquad.ops.fir_step.cuda.ring import turn_ring

        return Implementation("cuda", "turn_ring", lambda _: None, turn_in_cuda, plainly=turn_ring)
    if dispatch.load_backend("triton")[0] is not None:
        return None
    from subquad.ops.fir_step.triton.ring import turn as turn_in_triton

    return Implementation("triton", "turn_ring", lambda _: None, turn_in_triton)
