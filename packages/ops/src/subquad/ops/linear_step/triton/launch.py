"""linear_step as torch custom operators over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.linear_step.rounded_weight import RoundedWeight, matrix_of, scale_of
from subquad.ops.linear_step.step_norm import StepNorm
from subquad.ops.linear_step.triton.kernels import (
    linear_step_kernel,
    normalised_rows_kernel,
    wide_linear_step_kernel,
)
from subquad.ops.linear_step.triton.programmatic import dependent_launch

MOST_STREAMED_ROWS = 8
MOST_ROWS = 64
CACHED_BYTES = 2 << 20  # of the weights that the next kernel will read
_WIDE_OUTPUTS, _LINE = 64, 128
_NORMS = {"vortex": 1, "standard": 2}


def streamed(x: Tensor) -> bool:
    """Says whether these vectors meet the weights in registers; several of 16 bits are better on tensor cores."""
    return x.shape[0] <= (MOST_STREAMED_ROWS if x.dtype == torch.float32 else 1)


def norm_arguments(norm: StepNorm | None) -> tuple[Tensor | None, int, float]:
    """Returns scale, number of the form and eps, as the custom operators take them."""
    return (None, 0, 1.0) if norm is None else (norm.scale.contiguous(), _NORMS[norm.form], norm.eps)


def padded(count: int) -> int:
    """Returns the next power of two."""
    return 1 << (count - 1).bit_length()


def upcoming_arguments(upcoming: Tensor | None, weight: Tensor) -> dict[str, Tensor | int]:
    """Returns the kernel arguments that name the next kernel's weights, and how many lines of each row are fetched."""
    rows, row_bytes = (0, _LINE) if upcoming is None else (upcoming.shape[0], upcoming.stride(0) * upcoming.itemsize)
    return {
        "upcoming": weight if upcoming is None else upcoming,
        "upcoming_rows": rows,
        "upcoming_row_bytes": row_bytes,
        "upcoming_lines": max(min(row_bytes, CACHED_BYTES // max(rows, 1)) // _LINE, 1),
    }


def streamed_tile(outputs: int, inputs: int) -> tuple[int, int, int]:
    """Returns outputs and inputs of a tile of streamed weights, and warps; measured on an H100."""
    if outputs <= 1024:
        tile = (2, 2048, 4)
    elif outputs <= 2048:
        tile = (8, 1024, 8)
    elif inputs <= 2048:
        tile = (4, 512, 2)
    else:
        tile = (8, 512, 4)
    return tile[0], min(tile[1], padded(inputs)), tile[2]


def rounded_tile(outputs: int, inputs: int) -> tuple[int, int, int]:
    """Returns the same for weights of one byte."""
    out, columns, warps = streamed_tile(outputs, inputs)
    return out, min(2 * columns, padded(inputs)), warps


@torch.library.custom_op("subquad::linear_step_triton", mutates_args=())
def linear_step_triton(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    norm: int,
    eps: float,
    upcoming: Tensor | None,
    wide: bool,
) -> Tensor:
    """Vectors that are ``streamed``; everything contiguous."""
    (rows, inputs), outputs = x.shape, weight.shape[0]
    out, columns, warps = (streamed_tile if weight_scale is None else rounded_tile)(outputs, inputs)
    y = torch.empty((rows, outputs), dtype=torch.float32 if wide else x.dtype, device=x.device)
    linear_step_kernel[(triton.cdiv(outputs, out),)](
        x,
        x if scale is None else scale,
        weight,
        x if weight_scale is None else weight_scale,
        x if bias is None else bias,
        x if residual is None else residual,
        y,
        outputs,
        inputs,
        eps,
        ROWS=rows,
        PADDED=padded(rows),
        OUT=out,
        IN=columns,
        NORM=norm,
        SCALED=weight_scale is not None,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        num_warps=warps,
        **upcoming_arguments(upcoming, weight),
        **dependent_launch(),
    )
    return y


@linear_step_triton.register_fake
def _(x, weight, weight_scale, scale, bias, residual, norm, eps, upcoming, wide):
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.float32 if wide else x.dtype)


@torch.library.custom_op("subquad::normalised_rows_triton", mutates_args=())
def normalised_rows_triton(x: Tensor, scale: Tensor, norm: int, eps: float) -> Tensor:
    """The norm alone, for products that take normalised vectors."""
    y = torch.empty_like(x)
    normalised_rows_kernel[(x.shape[0],)](
        x, scale, y, x.shape[1], eps, IN=padded(x.shape[1]), NORM=norm, num_warps=8, **dependent_launch()
    )
    return y


@normalised_rows_triton.register_fake
def _(x, scale, norm, eps):
    return torch.empty_like(x)


@torch.library.custom_op("subquad::wide_linear_step_triton", mutates_args=())
def wide_linear_step_triton(
    x: Tensor, weight: Tensor, weight_scale: Tensor | None, bias: Tensor | None, residual: Tensor | None, wide: bool
) -> Tensor:
    """Up to ``MOST_ROWS`` vectors of a 16-bit type, on tensor cores."""
    (rows, inputs), outputs = x.shape, weight.shape[0]
    y = torch.empty((rows, outputs), dtype=torch.float32 if wide else x.dtype, device=x.device)
    wide_linear_step_kernel[(triton.cdiv(outputs, _WIDE_OUTPUTS),)](
        x,
        weight,
        x if weight_scale is None else weight_scale,
        x if bias is None else bias,
        x if residual is None else residual,
        y,
        rows,
        outputs,
        inputs,
        ROWS=max(16, padded(rows)),
        OUT=_WIDE_OUTPUTS,
        IN=128,
        STAGES=6,
        SCALED=weight_scale is not None,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        num_warps=4,
        **dependent_launch(),
    )
    return y


@wide_linear_step_triton.register_fake
def _(x, weight, weight_scale, bias, residual, wide):
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.float32 if wide else x.dtype)


def normalised_rows(x: Tensor, norm: StepNorm | None) -> Tensor:
    """Returns the normalised vectors."""
    if norm is None:
        return x
    scale, form, eps = norm_arguments(norm)
    return torch.ops.subquad.normalised_rows_triton(x.contiguous(), scale, form, eps)


def run(
    x: Tensor,
    weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None,
    bias: Tensor | None,
    residual: Tensor | None,
    upcoming: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """Does what linear_step's torch form does."""
    wide = output_dtype not in (None, x.dtype)
    matrix, weight_scale = matrix_of(weight).contiguous(), scale_of(weight)
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else residual.contiguous()
    if streamed(x):
        scale, form, eps = norm_arguments(norm)
        return torch.ops.subquad.linear_step_triton(
            x.contiguous(), matrix, weight_scale, scale, bias, residual, form, eps, upcoming, wide
        )
    return torch.ops.subquad.wide_linear_step_triton(
        normalised_rows(x, norm).contiguous(), matrix, weight_scale, bias, residual, wide
    )
