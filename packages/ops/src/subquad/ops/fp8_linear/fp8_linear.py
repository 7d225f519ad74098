"""A linear layer in 8-bit floating point: the public function, and its exact form in plain torch."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._known_calls import implementation_for
from subquad.ops.axes import Layout
from subquad.ops.errors import ArgumentOutOfRange, DtypeMismatch, ShapeMismatch
from subquad.ops.fp8_linear.e4m3 import E4M3, RoundedRows, round_to_e4m3, row_scales


def fp8_linear(
    x: Float[Tensor, "... channel"] | RoundedRows,
    weight: Tensor,
    *,
    input_scale: Float[Tensor, ""] | None = None,
    weight_scale: Float[Tensor, ""] | Float[Tensor, " row"],
    weight_inverse: Float[Tensor, ""] | Float[Tensor, " row"] | None = None,
    bias: Float[Tensor, " row"] | None = None,
    layout: Layout = "BLH",
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Float[Tensor, "..."]:
    """Rounds input and weight to E4M3 under scales and multiplies them.

    ``y = e4m3(x * input_scale) @ e4m3(weight * weight_scale).T / (input_scale * weight_scale) + bias``

    With two numbers as scales this is what a layer of TransformerEngine computes in inference, where the scales that
    delayed scaling has left stay as they are. Every row of x is rounded and multiplied by itself: rows added for
    alignment change no other.

    Args:
      x: ``[..., channel]``, or rows that are rounded already, which have scales of their own.
      weight: ``[row, channel]`` in any floating-point type, or already rounded by ``round_to_e4m3``.
      input_scale: one positive float32 number; None scales each row of x by 448 over its largest number.
      weight_scale: one positive float32 number, or one for each row of the weight.
      weight_inverse: ``weight_scale.reciprocal()`` where the caller keeps it; None makes it at each call.
      bias: added last.
      layout: ``"BHL"`` makes ``[batch, row, length]`` of ``[batch, length, channel]``.
      dtype: that of the result; None for that of x, and for float32 where x is rounded already.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists. ``"scaled_mm"`` multiplies 8-bit numbers on the
        tensor cores of an H100 or later, in their fast accumulation; ``"torch"`` multiplies the same numbers
        anywhere, with float32 sums (float64 for float64); ``"hopper_sums"`` adds them anywhere as an H100 does, slowly.

    Returns:
      ``[..., row]``. The gradients of x and weight are those of the product without rounding, none for what is given
      rounded.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.

    Source: Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433.
    """
    is_rounded = isinstance(x, RoundedRows)
    values, inverse = x if is_rounded else (x, None)
    tensors = (values, inverse, weight, input_scale, weight_scale, weight_inverse, bias)
    chosen = implementation_for(_decide, tensors, is_rounded, layout, dtype, backend)
    run = compute_in_torch if chosen is None else chosen.run
    if torch.is_grad_enabled() and isinstance(x, Tensor) and dispatch.gradient_wanted(x, weight):
        y = _StraightThrough.apply(x, weight, input_scale, weight_scale, weight_inverse, run)
        assert isinstance(y, Tensor)
        y = (y if bias is None else y + bias).to(dtype or x.dtype)
        return y if layout == "BLH" else y.transpose(1, 2)
    return run(
        x,
        weight,
        input_scale=input_scale,
        weight_scale=weight_scale,
        weight_inverse=weight_inverse,
        bias=bias,
        layout=layout,
        dtype=dtype,
    )


def _decide(
    values: Tensor,
    inverse: Tensor | None,
    weight: Tensor,
    input_scale: Tensor | None,
    weight_scale: Tensor,
    weight_inverse: Tensor | None,
    bias: Tensor | None,
    is_rounded: bool,
    layout: Layout,
    dtype: torch.dtype | None,
    backend: str,
) -> dispatch.Implementation | None:
    """Checks a call and chooses its implementation; where x is rounded, it is values and inverse."""
    x = RoundedRows(values, inverse) if is_rounded else values  # type: ignore[arg-type]
    _check(x, weight, input_scale, weight_scale)
    _check_inverse(weight_inverse, weight_scale)
    _checks.one_of("layout", layout, ("BLH", "BHL"))
    _checks.shaped("bias", bias, (weight.shape[0],), weight, "weight")
    if layout == "BHL" and values.dim() != 3:
        raise ShapeMismatch(f"x has shape {tuple(values.shape)}; layout BHL wants 3 axes")
    call = describe(x, weight, input_scale=input_scale, weight_scale=weight_scale, dtype=dtype)
    return dispatch.choose(call, backend)[0]


def values_of(x: Tensor | RoundedRows) -> Tensor:
    """Returns the numbers that lie in memory."""
    return x.codes if isinstance(x, RoundedRows) else x


def describe(
    x: Tensor | RoundedRows,
    weight: Tensor,
    *,
    input_scale: Tensor | None = None,
    weight_scale: Tensor,
    weight_inverse: Tensor | None = None,
    bias: Tensor | None = None,
    layout: Layout = "BLH",
    dtype: torch.dtype | None = None,
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    values = values_of(x)
    return dispatch.Call(
        operator="fp8_linear",
        dtype=result_dtype(x, dtype),
        device=values.device.type,
        index=values.get_device(),
        batch=1,
        channels=weight.shape[0],
        length=values.numel() // values.shape[-1],
        taps=values.shape[-1],
        options=frozenset({"row scales"} if input_scale is None or weight_scale.dim() else ()),
        gradient=isinstance(x, Tensor) and dispatch.gradient_wanted(x, weight),
        capturing=dispatch.capturing(values),
    )


def result_dtype(x: Tensor | RoundedRows, dtype: torch.dtype | None) -> torch.dtype:
    """Returns the type of the result."""
    return dtype or (torch.float32 if isinstance(x, RoundedRows) else x.dtype)


def rounded_input(x: Tensor | RoundedRows, input_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns codes ``[row, channel]`` and the inverse of their one scale, or ``[row, 1]`` of theirs."""
    if isinstance(x, RoundedRows):
        return x.codes.reshape(-1, x.codes.shape[-1]), x.inverse.reshape(-1, 1)
    rows = x.reshape(-1, x.shape[-1])
    scale = row_scales(rows) if input_scale is None else input_scale
    return round_to_e4m3(rows, scale), scale.to(_checks.accumulation_dtype(x)).reciprocal()


def finished(y: Tensor, x: Tensor | RoundedRows, bias: Tensor | None, layout: str, dtype: torch.dtype | None) -> Tensor:
    """Gives the product ``[row, output]`` its bias, type, shape and layout."""
    y = (y if bias is None else y + bias.to(y.dtype)).to(result_dtype(x, dtype))
    y = y.reshape(*values_of(x).shape[:-1], y.shape[-1])
    return y if layout == "BLH" else y.transpose(1, 2)


def compute_in_torch(
    x: Tensor | RoundedRows,
    weight: Tensor,
    *,
    input_scale: Tensor | None,
    weight_scale: Tensor,
    weight_inverse: Tensor | None = None,
    bias: Tensor | None = None,
    layout: str = "BLH",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Computes the checked call with products that are exact: E4M3 numbers have four significant bits."""
    (codes, inverse), weights = rounded_input(x, input_scale), as_codes(weight, weight_scale)
    wide = torch.float64 if result_dtype(x, dtype) == torch.float64 else torch.float32
    y = _product(codes, weights, wide) * (inverse.to(wide) * inverse_of(weight_scale, weight_inverse, wide))
    return finished(y, x, bias, layout, dtype)


def inverse_of(weight_scale: Tensor, weight_inverse: Tensor | None, wide: torch.dtype = torch.float32) -> Tensor:
    """Returns one over the scales of a weight in ``wide``; what is kept is float32."""
    if weight_inverse is not None and wide == torch.float32:
        return weight_inverse
    return weight_scale.to(wide).reciprocal()


@without_autocast
def _product(codes: Tensor, weights: Tensor, wide: torch.dtype) -> Tensor:
    if codes.is_cuda and wide != torch.float64:  # bfloat16 holds every E4M3 number, and tensor cores multiply it
        return torch.mm(codes.bfloat16(), weights.bfloat16().t(), out_dtype=torch.float32)
    return codes.to(wide) @ weights.to(wide).t()


def as_codes(weight: Tensor, weight_scale: Tensor) -> Tensor:
    """Returns the weight in E4M3."""
    return weight if weight.dtype == E4M3 else round_to_e4m3(weight, by_row(weight_scale))


def by_row(weight_scale: Tensor) -> Tensor:
    """Returns scales that broadcast with the weight."""
    return weight_scale[:, None] if weight_scale.dim() else weight_scale


class _StraightThrough(torch.autograd.Function):
    """Passes gradients as if nothing had been rounded."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        input_scale: Tensor | None,
        weight_scale: Tensor,
        weight_inverse: Tensor | None,
        run: Any,
    ) -> Tensor:
        return run(x, weight, input_scale=input_scale, weight_scale=weight_scale, weight_inverse=weight_inverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, weight_scale, *_ = inputs
        ctx.save_for_backward(x, weight, weight_scale)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, weight_scale = ctx.saved_tensors
        (gradient,) = upstream
        plain = weight.to(x.dtype)
        if weight.dtype == E4M3:
            plain = plain / by_row(weight_scale).to(x.dtype)
        of_x = gradient @ plain if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (gradient.reshape(-1, gradient.shape[-1]).t() @ x.reshape(-1, x.shape[-1])).to(weight.dtype)
        return of_x, of_weight, None, None, None, None


def _check(given: Tensor | RoundedRows, weight: Tensor, input_scale: Tensor | None, weight_scale: Tensor) -> None:
    x = values_of(given)
    if isinstance(given, RoundedRows):
        _check_rounded(given, input_scale)
    else:
        _checks.floating("x", x)
    if weight.dtype != E4M3:
        _checks.floating("weight", weight)
    _checks.same_device("weight", weight, "x", x)
    if weight.dim() != 2:
        raise ShapeMismatch(f"weight has {weight.dim()} axes {tuple(weight.shape)}; accepted: 2 (row, channel)")
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ShapeMismatch(f"x has shape {tuple(x.shape)}, weight {tuple(weight.shape)}; their last axes must agree")
    if not weight.shape[1]:
        raise ShapeMismatch(f"weight has shape {tuple(weight.shape)}; accepted: 1 channel or more")
    for name, scale in (("input_scale", input_scale), ("weight_scale", weight_scale)):
        if scale is None:
            continue
        _checks.same_device(name, scale, "x", x)
        if scale.dtype != torch.float32:
            raise DtypeMismatch(f"{name} is {scale.dtype}; accepted: float32")
        if scale.dim() and (name == "input_scale" or scale.shape != weight.shape[:1]):
            rows = f", or {weight.shape[0]} as rows of weight" if name == "weight_scale" else ""
            raise ShapeMismatch(f"{name} has shape {tuple(scale.shape)}; accepted: one number{rows}")
        if scale.dim() or scale.device.type != "cpu" or torch.compiler.is_compiling():
            continue
        if not 0 < float(scale) < float("inf"):
            raise ArgumentOutOfRange(f"{name} is {float(scale)}; accepted: a positive number")


def _check_inverse(weight_inverse: Tensor | None, weight_scale: Tensor) -> None:
    """Raises unless what is kept fits the scales; its numbers are the caller's affair."""
    if weight_inverse is None:
        return
    _checks.shaped("weight_inverse", weight_inverse, tuple(weight_scale.shape), weight_scale, "weight_scale")
    if weight_inverse.dtype != torch.float32:
        raise DtypeMismatch(f"weight_inverse is {weight_inverse.dtype}; accepted: float32")


def _check_rounded(x: RoundedRows, input_scale: Tensor | None) -> None:
    if x.codes.dtype != E4M3:
        raise DtypeMismatch(f"x.codes is {x.codes.dtype}; accepted: {E4M3}")
    _checks.same_device("x.inverse", x.inverse, "x.codes", x.codes)
    if x.inverse.dtype != torch.float32:
        raise DtypeMismatch(f"x.inverse is {x.inverse.dtype}; accepted: float32")
    if x.inverse.shape != x.codes.shape[:-1]:
        raise ShapeMismatch(
            f"x.inverse has shape {tuple(x.inverse.shape)}; x.codes {tuple(x.codes.shape)} need one number a row"
        )
    if input_scale is not None:
        raise ArgumentOutOfRange("input_scale is given for rounded rows; accepted: None, they have scales of their own")
