"""The gate of a two-branch MLP: the public function."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._known_calls import implementation_for
from subquad.ops.axes import Rows
from subquad.ops.errors import DtypeMismatch, ShapeMismatch

GateActivation = Literal["gelu"]
_ACTIVATIONS = (None, *get_args(GateActivation))  # once: asking costs a microsecond


def gated_product(
    x: Float[Tensor, "*rows gates"],
    other: Rows | None = None,
    *,
    activation: GateActivation | None = None,
    backend: str = "auto",
) -> Rows:
    """Multiplies two branches, one of them through an activation: ``y = activation(gate) * value``.

    Args:
      x: the gate ``[..., channel]`` with the value in ``other``; or both beside each other, ``[..., 2 * channel]``, the
        gate first, as one matrix product makes them.
      other: the value ``[..., channel]``, in the dtype of x; None where x holds both.
      activation: ``"gelu"`` (exact, with erf) or None.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[..., channel]`` in the dtype of x, made in float32 (float64 for float64) and rounded once.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    chosen = implementation_for(_decide, (x, other), activation, backend)
    run = compute_in_torch if chosen is None else chosen.run
    return run(x, other, activation=activation)


def _decide(x: Tensor, other: Tensor | None, activation: str | None, backend: str) -> dispatch.Implementation | None:
    """Checks a call and chooses its implementation."""
    _checks.floating("x", x)
    _checks.one_of("activation", activation, _ACTIVATIONS)
    if other is None and (x.dim() < 1 or x.shape[-1] % 2):
        raise ShapeMismatch(f"x has shape {tuple(x.shape)}; without other its last axis holds gate and value: even")
    if other is not None:
        _checks.shaped("other", other, tuple(x.shape), x)
        if other.dtype != x.dtype:
            raise DtypeMismatch(f"other is {other.dtype}, x {x.dtype}; they must agree")
    return dispatch.choose(describe(x, other, activation=activation), backend)[0]


def describe(x: Tensor, other: Tensor | None = None, *, activation: str | None = None) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    channels = x.shape[-1] // (2 if other is None else 1)
    return dispatch.Call(
        operator="gated_product",
        dtype=x.dtype,
        device=x.device.type,
        batch=1,
        channels=channels,
        length=x.numel() // x.shape[-1] if channels else 0,
        taps=0,
        options=frozenset() if activation is None else frozenset({activation}),
        gradient=dispatch.gradient_wanted(x, other),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(x: Tensor, other: Tensor | None, *, activation: str | None) -> Tensor:
    """Computes the checked call in plain torch."""
    gate, value = x.chunk(2, dim=-1) if other is None else (x, other)
    if activation is None:
        return gate * value
    wide = _checks.accumulation_dtype(x)
    return (torch.nn.functional.gelu(gate.to(wide)) * value.to(wide)).to(x.dtype)
