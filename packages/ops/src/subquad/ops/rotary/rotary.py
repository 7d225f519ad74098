"""Rotary position embedding, alone or on the way into a key-value cache: the public functions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._blocks import fill_in_blocks, widened_at_once
from subquad.ops._known_calls import implementation_for
from subquad.ops.errors import ArgumentOutOfRange, ShapeMismatch

Frequencies = Float[Tensor, " pair"]  # radians that a pair of channels turns by from one position to the next
Heads = Float[Tensor, "batch length head size"]


def rotary(
    x: Heads, position: Int[Tensor, "_ length"], inv_freq: Frequencies, *, scale: float = 1.0, backend: str = "auto"
) -> Heads:
    """Turns each pair of channels by an angle proportional to the position.

    ``angle[j] = position / scale * inv_freq[j]``; ``y[j] = x[j] * cos(angle[j]) - x[j + size / 2] * sin(angle[j])``;
    ``y[j + size / 2] = x[j] * sin(angle[j]) + x[j + size / 2] * cos(angle[j])``

    Args:
      x: ``[batch, length, head, size]`` in the half-split (GPT-NeoX) order; any strides.
      position: integers ``[batch, length]``, or ``[1, length]`` where all rows share them.
      inv_freq: ``[size / 2]``.
      scale: positions are divided by it; more than 0.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      Like x; angles and rotation are float32 (float64 for float64), rounded once. Differentiable with respect to x.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    chosen = implementation_for(_decide, (x, position, inv_freq), scale, backend)
    run = compute_in_torch if chosen is None else chosen.run
    return run(x, position, inv_freq, scale=scale, into=None)


def _decide(
    x: Tensor, position: Tensor, inv_freq: Tensor, scale: float, backend: str
) -> dispatch.Implementation | None:
    """Checks a call of rotary and chooses its implementation."""
    _checks.floating("x", x)
    if x.dim() != 4:
        raise ShapeMismatch(f"x has {x.dim()} axes {tuple(x.shape)}; accepted: 4 (batch, length, head, size)")
    _check_angles(x, position, inv_freq, scale)
    return dispatch.choose(describe(x, position, inv_freq), backend)[0]


def rotary_into(
    qkv: Float[Tensor, "batch length head 3 size"],
    position: Int[Tensor, "_ length"],
    inv_freq: Frequencies,
    keys: Heads,
    values: Heads,
    *,
    scale: float = 1.0,
    backend: str = "auto",
) -> Heads:
    """Rotates queries and keys and writes keys and values where they are to lie, in one pass.

    ``q = rotary(qkv[:, :, :, 0])``; ``keys[:] = rotary(qkv[:, :, :, 1])``; ``values[:] = qkv[:, :, :, 2]``

    Args:
      qkv: ``[batch, length, head, 3, size]``: query, key and value of a head beside each other; any strides.
      position: as in rotary; so are inv_freq, scale and backend.
      keys: ``[batch, length, head, size]``, filled; a part of a key-value cache with unit stride along the channels, in
        any float dtype.
      values: like keys.

    Returns:
      The rotated queries ``[batch, length, head, size]`` in the dtype of qkv. Not differentiable.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with qkv; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    caches = keys, values
    strides = tuple(each.stride() for each in caches if isinstance(each, Tensor) and not each.is_nested)
    chosen = implementation_for(_decide_into, (qkv, position, inv_freq, keys, values), strides, scale, backend)
    run = compute_in_torch if chosen is None else chosen.run
    if not torch.is_grad_enabled():  # to switch it off costs microseconds
        return run(qkv, position, inv_freq, scale=scale, into=(keys, values))
    with torch.no_grad():
        return run(qkv, position, inv_freq, scale=scale, into=(keys, values))


def _decide_into(
    qkv: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    keys: Tensor,
    values: Tensor,
    strides: tuple[tuple[int, ...], ...],
    scale: float,
    backend: str,
) -> dispatch.Implementation | None:
    """Checks a call of rotary_into, of which strides are a part, and chooses its implementation."""
    _checks.floating("qkv", qkv)
    if qkv.dim() != 5 or qkv.shape[3] != 3:
        raise ShapeMismatch(f"qkv has shape {tuple(qkv.shape)}; accepted: batch, length, head, 3, size")
    _check_angles(qkv, position, inv_freq, scale, "qkv")
    for name, target in (("keys", keys), ("values", values)):
        _checks.kept(name, target, (*qkv.shape[:3], qkv.shape[4]), qkv, "qkv")
        if target.stride(-1) != 1:
            raise ShapeMismatch(f"{name} has stride {target.stride(-1)} along its channels; accepted: 1")
    return dispatch.choose(describe(qkv, position, inv_freq, keys, values), backend)[0]


def _check_angles(x: Tensor, position: Tensor, inv_freq: Tensor, scale: float, name: str = "x") -> None:
    """Checks what the angles are made from."""
    _checks.integral("position", position)
    _checks.same_device("position", position, name, x)
    batch, length = x.shape[:2]
    rows_fit = position.dim() == 2 and (position.shape[0] == batch or position.shape[0] == 1)
    if not rows_fit or position.shape[1] != length:
        accepted = f"{(batch, length)} or {(1, length)}"
        raise ShapeMismatch(f"position has shape {tuple(position.shape)}; {name} {tuple(x.shape)} needs {accepted}")
    if x.shape[-1] % 2:
        raise ShapeMismatch(f"{name} has heads of {x.shape[-1]} channels; a rotation needs an even number")
    _checks.shaped("inv_freq", inv_freq, (x.shape[-1] // 2,), x, name, optional=False)
    if not scale > 0:
        raise ArgumentOutOfRange(f"scale is {scale}; accepted: more than 0")


def describe(
    x: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> dispatch.Call:
    """Describes a call to the dispatcher; with keys and values that of rotary_into."""
    return dispatch.Call(
        operator="rotary",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=x.shape[0],
        channels=x.shape[2] * x.shape[-1],
        length=x.shape[1],
        taps=0,
        options=frozenset() if keys is None else frozenset({"into"}),
        gradient=dispatch.gradient_wanted(x),
        capturing=dispatch.capturing(x),
    )


def _tables(position: Tensor, inv_freq: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine, ``[batch, length, 1, pair]``."""
    angle = (position.to(dtype) / scale).unsqueeze(-1) * inv_freq.to(dtype)
    return angle.cos().unsqueeze(2), angle.sin().unsqueeze(2)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates ``[batch, length, head, size]`` by the given tables."""
    at_once = widened_at_once(x, 1, cos)
    if at_once:
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        fill_in_blocks((y,), lambda *block: (_turn(*block),), (x, cos, sin), at_once, 1)
        return y
    low, high = x.to(cos.dtype).chunk(2, dim=-1)
    if not dispatch.runs_plainly(x, cos):
        return torch.cat([low * cos - high * sin, low * sin + high * cos], dim=-1).to(x.dtype)
    y = torch.empty(x.shape, dtype=cos.dtype, device=x.device)
    first, second = y.chunk(2, dim=-1)
    torch.mul(low, cos, out=first).addcmul_(high, sin, value=-1)
    torch.mul(low, sin, out=second).addcmul_(high, cos)
    return y.to(x.dtype)


@without_autocast
def compute_in_torch(
    x: Tensor, position: Tensor, inv_freq: Tensor, *, scale: float, into: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Computes the checked call in plain torch: ``into`` is where keys and values go, None for rotary alone."""
    tables = _tables(position, inv_freq, scale, _checks.accumulation_dtype(x))
    if into is None:
        return _turn(x, *tables)
    into[0].copy_(_turn(x[:, :, :, 1], *tables))
    into[1].copy_(x[:, :, :, 2])
    return _turn(x[:, :, :, 0], *tables)
