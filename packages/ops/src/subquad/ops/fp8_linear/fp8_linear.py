"""A linear layer in 8-bit floating point: the public function, and its exact form in plain torch."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops.errors import ArgumentOutOfRange, DtypeMismatch, ShapeMismatch
from subquad.ops.fp8_linear.e4m3 import E4M3, round_to_e4m3, row_scales


def fp8_linear(
    x: Float[Tensor, "... channel"],
    weight: Tensor,
    *,
    input_scale: Float[Tensor, ""] | None = None,
    weight_scale: Float[Tensor, ""] | Float[Tensor, " row"],
    backend: str = "auto",
) -> Float[Tensor, "... row"]:
    """Rounds input and weight to E4M3 under scales and multiplies them.

    ``y = e4m3(x * input_scale) @ e4m3(weight * weight_scale).T / (input_scale * weight_scale)``

    With two numbers as scales this is what a layer of TransformerEngine computes in inference, where the scales that
    delayed scaling has left stay as they are. Every row of x is rounded and multiplied by itself: rows added for
    alignment change no other.

    Args:
      x: ``[..., channel]``.
      weight: ``[row, channel]`` in any floating-point type, or already rounded by ``round_to_e4m3``.
      input_scale: one positive float32 number; None scales each row of x by 448 over its largest number.
      weight_scale: one positive float32 number, or one for each row of the weight.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists. ``"scaled_mm"`` multiplies 8-bit numbers on the
        tensor cores of an H100 or later, in their fast accumulation; ``"torch"`` multiplies the same numbers
        anywhere, with float32 sums (float64 for float64); ``"hopper_sums"`` adds them anywhere as an H100 does, slowly.

    Returns:
      ``[..., row]`` in the dtype of x. The gradients of x and weight are those of the product without rounding, none
      where the weight is given rounded.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.

    Source: Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433.
    """
    _check(x, weight, input_scale, weight_scale)
    chosen, _ = dispatch.choose(describe(x, weight, input_scale=input_scale, weight_scale=weight_scale), backend)
    run = compute_in_torch if chosen is None else chosen.run
    if dispatch.gradient_wanted(x, weight):
        return _StraightThrough.apply(x, weight, input_scale, weight_scale, run)  # pyright: ignore[reportReturnType]
    return run(x, weight, input_scale=input_scale, weight_scale=weight_scale)


def describe(x: Tensor, weight: Tensor, *, input_scale: Tensor | None = None, weight_scale: Tensor) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    return dispatch.Call(
        operator="fp8_linear",
        dtype=x.dtype,
        device=x.device.type,
        batch=1,
        channels=weight.shape[0],
        length=x.numel() // x.shape[-1],
        taps=x.shape[-1],
        options=frozenset({"row scales"} if input_scale is None or weight_scale.dim() else ()),
        gradient=dispatch.gradient_wanted(x, weight),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(x: Tensor, weight: Tensor, *, input_scale: Tensor | None, weight_scale: Tensor) -> Tensor:
    """Computes the checked call with products that are exact: E4M3 numbers have four significant bits."""
    rows = x.reshape(-1, x.shape[-1])
    scale = row_scales(rows) if input_scale is None else input_scale
    codes, weights = round_to_e4m3(rows, scale), as_codes(weight, weight_scale)
    if x.is_cuda and x.dtype != torch.float64:  # bfloat16 holds every E4M3 number, and tensor cores multiply it
        y = torch.mm(codes.bfloat16(), weights.bfloat16().t(), out_dtype=torch.float32)
    else:
        wide = _checks.accumulation_dtype(x)
        y = codes.to(wide) @ weights.to(wide).t()
    y = y * (scale.to(y.dtype).reciprocal() * weight_scale.to(y.dtype).reciprocal())
    return y.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


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
        ctx: Any, x: Tensor, weight: Tensor, input_scale: Tensor | None, weight_scale: Tensor, run: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight, weight_scale)
        return run(x, weight, input_scale=input_scale, weight_scale=weight_scale)

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
        return of_x, of_weight, None, None, None


def _check(x: Tensor, weight: Tensor, input_scale: Tensor | None, weight_scale: Tensor) -> None:
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
