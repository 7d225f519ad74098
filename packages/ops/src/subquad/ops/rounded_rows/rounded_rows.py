"""Rows rounded to E4M3 under a scale each, where they are made: the public functions, and their form in plain torch."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._known_calls import implementation_for
from subquad.ops.axes import Layout, Rows
from subquad.ops.errors import DtypeMismatch, ShapeMismatch
from subquad.ops.fp8_linear.e4m3 import RoundedRows, round_to_e4m3, row_scales
from subquad.ops.gated_product.gated_product import compute_in_torch as product_in_torch
from subquad.ops.linear_step.step_norm import StepNorm, check_norm
from subquad.ops.rms_norm.rms_norm import Form
from subquad.ops.rms_norm.rms_norm import compute_in_torch as norm_in_torch


def rounded_rows(x: Float[Tensor, "... _ _"], *, layout: Layout = "BLH", backend: str = "auto") -> RoundedRows:
    """Rounds rows as they are.

    Args:
      x: ``[..., length, channel]``, or ``[batch, channel, length]`` with ``layout="BHL"``.
      layout: where the channels of x are; those of the result are last.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      Codes ``[..., length, channel]`` and one number a row. Not differentiable.

    Raises:
      ShapeMismatch, DtypeMismatch, ArgumentOutOfRange: x or ``layout`` is not accepted; names it.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    chosen = implementation_for(_decide_rows, (x,), layout, backend)
    return _run(chosen, x, None, None, None, layout)[0]


def _decide_rows(x: Tensor, layout: Layout, backend: str) -> dispatch.Implementation | None:
    """Checks a call of rounded_rows and chooses its implementation."""
    _checks.floating("x", x)
    _checks.one_of("layout", layout, ("BLH", "BHL"))
    if layout == "BHL" and x.dim() != 3:
        raise ShapeMismatch(f"x has {x.dim()} axes {tuple(x.shape)}; layout BHL has 3 (batch, channel, length)")
    return dispatch.choose(_describe(x, None, None, layout), backend)[0]


def rounded_norm(
    x: Rows, norm: StepNorm, *, addend: Rows | None = None, backend: str = "auto"
) -> tuple[RoundedRows, Rows]:
    """Rounds the rows of ``rms_norm(x + addend)``.

    Args:
      x: ``[..., channel]``.
      norm: scale, eps and form of the norm.
      addend: like x; None for nothing.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      The rounded rows, and the sum in the dtype of x (x itself where there is no addend). Not differentiable.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    chosen = implementation_for(_decide_norm, (x, addend, norm.scale), norm.eps, norm.form, backend)
    return _run(chosen, x, addend, norm, None, "BLH")


def _decide_norm(
    x: Tensor, addend: Tensor | None, scale: Tensor, eps: float, form: Form, backend: str
) -> dispatch.Implementation | None:
    """Checks a call of rounded_norm and chooses its implementation."""
    _checks.floating("x", x)
    if x.dim() < 1:
        raise ShapeMismatch("x has 0 axes; accepted: 1 or more, channels last")
    norm = StepNorm(scale, eps, form)
    check_norm(norm, x.reshape(-1, x.shape[-1]))
    _checks.shaped("addend", addend, tuple(x.shape), x)
    return dispatch.choose(_describe(x, norm, None, "BLH"), backend)[0]


def rounded_product(
    gate: Rows, value: Rows, *, activation: Literal["gelu"] | None = None, backend: str = "auto"
) -> RoundedRows:
    """Rounds the rows of ``activation(gate) * value``.

    Args:
      gate: ``[..., channel]``.
      value: like gate.
      activation: ``"gelu"`` (exact, with erf) or None.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      The rounded rows. Not differentiable.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with gate; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    chosen = implementation_for(_decide_product, (gate, value), activation, backend)
    return _run(chosen, gate, value, None, activation or "identity", "BLH")[0]


def _decide_product(
    gate: Tensor, value: Tensor, activation: str | None, backend: str
) -> dispatch.Implementation | None:
    """Checks a call of rounded_product and chooses its implementation."""
    _checks.floating("gate", gate)
    _checks.one_of("activation", activation, (None, "gelu"))
    _checks.shaped("value", value, tuple(gate.shape), gate, "gate")
    if value.dtype != gate.dtype:
        raise DtypeMismatch(f"value is {value.dtype}, gate {gate.dtype}; they must agree")
    return dispatch.choose(_describe(gate, None, activation or "identity", "BLH"), backend)[0]


def _run(
    chosen: dispatch.Implementation | None,
    x: Tensor,
    other: Tensor | None,
    norm: StepNorm | None,
    activation: str | None,
    layout: str,
) -> tuple[RoundedRows, Tensor]:
    run = compute_in_torch if chosen is None else chosen.run
    if not torch.is_grad_enabled():  # to switch it off costs microseconds
        return run(x, other, norm=norm, activation=activation, layout=layout)
    with torch.no_grad():
        return run(x, other, norm=norm, activation=activation, layout=layout)


def describe(x: Tensor, *, layout: Layout = "BLH") -> dispatch.Call:
    """Describes a call of ``rounded_rows`` to the dispatcher."""
    return _describe(x, None, None, layout)


def _describe(x: Tensor, norm: StepNorm | None, activation: str | None, layout: str) -> dispatch.Call:
    channels = x.shape[1 if layout == "BHL" else -1]
    named = {"norm": norm, "product": activation, "channels first": layout == "BHL" or None}
    return dispatch.Call(
        operator="rounded_rows",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=1,
        channels=channels,
        length=x.numel() // channels if channels else 0,
        taps=0,
        options=frozenset(name for name, value in named.items() if value is not None),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    x: Tensor, other: Tensor | None, *, norm: StepNorm | None, activation: str | None, layout: str
) -> tuple[RoundedRows, Tensor]:
    """Computes the checked call in plain torch; returns the rows and the sum (x itself where nothing was added)."""
    wide, total = x.to(_checks.accumulation_dtype(x)), x
    if layout == "BHL":
        wide = wide.transpose(1, 2)
    if norm is not None:
        added = wide if other is None else wide + other.to(wide.dtype)
        total = x if other is None else added.to(x.dtype)
        wide, _ = norm_in_torch(added, None, norm.scale, eps=norm.eps, form=norm.form)
    elif activation is not None:
        assert other is not None
        wide = product_in_torch(wide, other.to(wide.dtype), activation=None if activation == "identity" else activation)
    scales = row_scales(wide)
    return RoundedRows(round_to_e4m3(wide, scales), scales[..., 0].reciprocal()), total
