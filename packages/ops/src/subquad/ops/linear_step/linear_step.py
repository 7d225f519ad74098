"""One decode step of a linear layer, with the norm in front of it and the residual behind: the public function."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops.axes import Products, Vectors, Weight
from subquad.ops.errors import DtypeMismatch, ShapeMismatch
from subquad.ops.linear_step.rounded_weight import RoundedWeight, check_rounded, matrix_of, product_in_torch
from subquad.ops.linear_step.step_norm import StepNorm, check_norm, prepare_norm

OTHER_DTYPE = "dtype beside that of x"  # option of a call: what is added, or held in a state, has another one


def linear_step(
    x: Vectors,
    weight: Weight | RoundedWeight,
    *,
    norm: StepNorm | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    upcoming: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Products:
    """Multiplies one vector of each row by a matrix.

    ``y = weight @ norm(x) + bias + residual``

    Args:
      x: ``[batch, input]``.
      weight: ``[output, input]`` in the dtype of x, or rounded to one byte a number.
      norm: applied to x first; None takes x as it is.
      bias: ``[output]``.
      residual: ``[batch, output]``.
      upcoming: weights that the next operator will read; a GPU brings the first megabytes of them to its cache while
        it has time. Changes no result.
      output_dtype: that of x (None, the default), or float32 for x of 16 bits, whose sums are then not rounded to them.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[batch, output]`` in ``output_dtype``. Not differentiable. On CUDA each row is computed from itself alone.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    check(x, weight, norm=norm, bias=bias, residual=residual, output_dtype=output_dtype)
    chosen, _ = dispatch.choose(describe(x, weight, norm=norm, bias=bias, residual=residual), backend)
    run = compute_in_torch if chosen is None else chosen.run
    with torch.no_grad():
        return run(x, weight, norm=norm, bias=bias, residual=residual, upcoming=upcoming, output_dtype=output_dtype)


def check(
    x: Tensor,
    weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    upcoming: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
) -> None:
    """Raises unless the arguments of a call fit each other."""
    outputs = check_product(x, weight, norm)
    accepted = {x.dtype: None, _checks.accumulation_dtype(x): None}
    if output_dtype is not None and output_dtype not in accepted:
        raise DtypeMismatch(
            f"output_dtype is {output_dtype}; accepted for x of {x.dtype}: {', '.join(map(str, accepted))}"
        )
    _checks.shaped("bias", bias, (outputs,), x)
    _checks.shaped("residual", residual, (x.shape[0], outputs), x)


def check_product(x: Tensor, weight: Tensor | RoundedWeight, norm: StepNorm | None, name: str = "weight") -> int:
    """Raises unless ``weight @ norm(x)`` can be taken; returns the outputs."""
    _checks.step(x)
    rounded, matrix = isinstance(weight, RoundedWeight), matrix_of(weight)
    if isinstance(weight, RoundedWeight):
        check_rounded(weight, name)
    else:
        _checks.floating(name, weight)
    _checks.same_device(name, matrix, "x", x)
    if matrix.dim() != 2 or matrix.shape[1] != x.shape[1] or (matrix.dtype != x.dtype and not rounded):
        accepted = f"(output, {x.shape[1]})" + ("" if rounded else " in its dtype")
        raise ShapeMismatch(
            f"{name} is {matrix.dtype} {tuple(matrix.shape)}; x {x.dtype} {tuple(x.shape)} needs {accepted}"
        )
    check_norm(norm, x)
    return matrix.shape[0]


def describe(
    x: Tensor,
    weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    upcoming: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    rounded = weight if isinstance(weight, RoundedWeight) else None
    other = residual if residual is not None and residual.dtype != x.dtype else None
    named = {"norm": norm, "bias": bias, "residual": residual, "rounded weight": rounded, OTHER_DTYPE: other}
    return dispatch.Call(
        operator="linear_step",
        dtype=x.dtype,
        device=x.device.type,
        batch=x.shape[0],
        channels=matrix_of(weight).shape[0],
        length=1,
        taps=x.shape[1],
        inputs=x.shape[1],
        options=frozenset(name for name, value in named.items() if value is not None),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    x: Tensor,
    weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None,
    bias: Tensor | None,
    residual: Tensor | None,
    upcoming: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """Computes the checked call in plain torch."""
    run = prepare_in_torch(x, weight, norm=norm, bias=bias, residual=residual, output_dtype=output_dtype)
    return run(x) if residual is None else run(x, residual=residual)


def prepare_in_torch(
    x: Tensor,
    weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None,
    bias: Tensor | None,
    residual: Tensor | None,
    upcoming: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
) -> Callable[..., Tensor]:
    """Returns the checked call as a function of x, and of the residual where there is one."""
    normalise = prepare_norm(x, norm)
    if output_dtype not in (None, x.dtype):
        return lambda x, *, residual=None: _sums_in_torch(normalise(x), weight, bias, residual)
    fused = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if fused and residual is not None and residual.dtype == x.dtype and not isinstance(weight, RoundedWeight):
        turned = weight.t()

        def multiply_add(x: Tensor, *, residual: Tensor) -> Tensor:
            return torch.addmm(residual if bias is None else residual + bias, normalise(x), turned)

        return multiply_add

    def multiply(x: Tensor, *, residual: Tensor | None = None) -> Tensor:
        y = product_in_torch(normalise(x), weight, bias)
        return y if residual is None else y + residual

    return multiply


def _sums_in_torch(x: Tensor, weight: Tensor | RoundedWeight, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """Returns ``weight @ x + bias + residual`` of vectors of 16 bits in float32."""
    if isinstance(weight, RoundedWeight):
        y = product_in_torch(x.float(), weight)
    elif x.is_cuda:
        y = torch.mm(x, weight.t(), out_dtype=torch.float32)
    else:
        y = functional.linear(x.float(), weight.float())
    for added in (bias, residual):
        y = y if added is None else y + added
    return y
