"""One decode step of a gated pair of linear layers, with the norm in front of it: the public function."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops.axes import Products, Vectors, Weight
from subquad.ops.errors import ShapeMismatch
from subquad.ops.linear_step.linear_step import check_product
from subquad.ops.linear_step.rounded_weight import RoundedWeight, matrix_of, product_in_torch
from subquad.ops.linear_step.step_norm import StepNorm, prepare_norm


def gated_linear_step(
    x: Vectors,
    gate_weight: Weight | RoundedWeight,
    value_weight: Weight | RoundedWeight,
    *,
    norm: StepNorm | None = None,
    activation: Literal["gelu"] | None = None,
    upcoming: Tensor | None = None,
    backend: str = "auto",
) -> Products:
    """Multiplies one vector of each row by two matrices and the results with each other.

    ``y = activation(gate_weight @ norm(x)) * (value_weight @ norm(x))``

    Args:
      x: ``[batch, input]``.
      gate_weight: ``[output, input]`` in the dtype of x, or rounded to one byte a number.
      value_weight: likewise.
      norm: applied to x first; None takes x as it is.
      activation: ``"gelu"`` (exact, with erf) or None, which leaves the gate as it is.
      upcoming: weights that the next operator will read; a GPU brings the first megabytes of them to its cache while
        it has time. Changes no result.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[batch, output]`` in the dtype of x. Not differentiable. On CUDA each row is computed from itself alone.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    check(x, gate_weight, value_weight, norm=norm, activation=activation)
    call = describe(x, gate_weight, value_weight, norm=norm, activation=activation)
    chosen, _ = dispatch.choose(call, backend)
    run = compute_in_torch if chosen is None else chosen.run
    with torch.no_grad():
        return run(x, gate_weight, value_weight, norm=norm, activation=activation, upcoming=upcoming)


def check(
    x: Tensor,
    gate_weight: Tensor | RoundedWeight,
    value_weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None = None,
    activation: str | None = None,
    upcoming: Tensor | None = None,
) -> None:
    """Raises unless the arguments of a call fit each other."""
    outputs, values = (
        check_product(x, gate_weight, norm, "gate_weight"),
        check_product(x, value_weight, None, "value_weight"),
    )
    if values != outputs or isinstance(gate_weight, RoundedWeight) != isinstance(value_weight, RoundedWeight):
        shapes = " and ".join(f"{tuple(m.shape)} of {m.dtype}" for m in map(matrix_of, (gate_weight, value_weight)))
        raise ShapeMismatch(f"gate_weight and value_weight are {shapes}; they must agree")
    _checks.one_of("activation", activation, (None, "gelu"))


def describe(
    x: Tensor,
    gate_weight: Tensor | RoundedWeight,
    value_weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None = None,
    activation: str | None = None,
    upcoming: Tensor | None = None,
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    rounded = gate_weight if isinstance(gate_weight, RoundedWeight) else None
    named = {"norm": norm, "activation": activation, "rounded weight": rounded}
    return dispatch.Call(
        operator="gated_linear_step",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=x.shape[0],
        channels=matrix_of(gate_weight).shape[0],
        length=1,
        taps=x.shape[1],
        inputs=x.shape[1],
        options=frozenset(name for name, value in named.items() if value is not None),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    x: Tensor,
    gate_weight: Tensor | RoundedWeight,
    value_weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None,
    activation: str | None,
    upcoming: Tensor | None = None,
) -> Tensor:
    """Computes the checked call in plain torch."""
    return prepare_in_torch(x, gate_weight, value_weight, norm=norm, activation=activation)(x)


def prepare_in_torch(
    x: Tensor,
    gate_weight: Tensor | RoundedWeight,
    value_weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None,
    activation: str | None,
    upcoming: Tensor | None = None,
) -> Callable[[Tensor], Tensor]:
    """Returns the checked call as a function of x."""
    normalise = prepare_norm(x, norm)

    def multiply(x: Tensor) -> Tensor:
        x = normalise(x)
        gate = product_in_torch(x, gate_weight)
        if activation == "gelu":
            gate = functional.gelu(gate)
        return gate.mul_(product_in_torch(x, value_weight))

    return multiply
