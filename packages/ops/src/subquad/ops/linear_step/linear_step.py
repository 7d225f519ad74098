"""One decode step of a linear layer, with the norm in front of it and the residual behind: the public function."""

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops.axes import Products, Vectors, Weight
from subquad.ops.errors import ShapeMismatch
from subquad.ops.linear_step.step_norm import StepNorm, check_norm, normalised


def linear_step(
    x: Vectors,
    weight: Weight,
    *,
    norm: StepNorm | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    upcoming: Tensor | None = None,
    backend: str = "auto",
) -> Products:
    """Multiplies one vector of each row by a matrix.

    ``y = weight @ norm(x) + bias + residual``

    Args:
      x: ``[batch, input]``.
      weight: ``[output, input]`` in the dtype of x.
      norm: applied to x first; None takes x as it is.
      bias: ``[output]``.
      residual: ``[batch, output]``.
      upcoming: weights that the next operator will read; a GPU brings the first megabytes of them to its cache while
        it has time. Changes no result.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[batch, output]`` in the dtype of x. Not differentiable. On CUDA each row is computed from itself alone.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    check_product(x, weight, norm)
    _checks.shaped("bias", bias, (weight.shape[0],), x)
    _checks.shaped("residual", residual, (x.shape[0], weight.shape[0]), x)
    chosen, _ = dispatch.choose(describe(x, weight, norm=norm, bias=bias, residual=residual), backend)
    run = compute_in_torch if chosen is None else chosen.run
    with torch.no_grad():
        return run(x, weight, norm=norm, bias=bias, residual=residual, upcoming=upcoming)


def check_product(x: Tensor, weight: Tensor, norm: StepNorm | None, name: str = "weight") -> None:
    """Raises unless ``weight @ norm(x)`` can be taken."""
    _checks.step(x)
    _checks.floating(name, weight)
    _checks.same_device(name, weight, "x", x)
    if weight.dim() != 2 or weight.shape[1] != x.shape[1] or weight.dtype != x.dtype:
        raise ShapeMismatch(
            f"{name} is {weight.dtype} {tuple(weight.shape)}; x {x.dtype} {tuple(x.shape)} needs (output, {x.shape[1]})"
            " in its dtype"
        )
    check_norm(norm, x)


def describe(
    x: Tensor,
    weight: Tensor,
    *,
    norm: StepNorm | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    upcoming: Tensor | None = None,
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    named = {"norm": norm, "bias": bias, "residual": residual}
    return dispatch.Call(
        operator="linear_step",
        dtype=x.dtype,
        device=x.device.type,
        batch=x.shape[0],
        channels=weight.shape[0],
        length=1,
        taps=x.shape[1],
        options=frozenset(name for name, value in named.items() if value is not None),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    x: Tensor,
    weight: Tensor,
    *,
    norm: StepNorm | None,
    bias: Tensor | None,
    residual: Tensor | None,
    upcoming: Tensor | None = None,
) -> Tensor:
    """Computes the checked call in plain torch."""
    y = functional.linear(normalised(x, norm), weight, bias)
    return y if residual is None else y + residual
