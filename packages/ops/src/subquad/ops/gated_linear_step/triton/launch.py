"""gated_linear_step as torch custom operators over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.gated_linear_step.triton.kernels import gated_linear_step_kernel, wide_gated_linear_step_kernel
from subquad.ops.linear_step.rounded_weight import RoundedWeight, matrix_of, scale_of
from subquad.ops.linear_step.step_norm import StepNorm
from subquad.ops.linear_step.triton.launch import (
    norm_arguments,
    normalised_rows,
    padded,
    streamed,
    upcoming_arguments,
)
from subquad.ops.linear_step.triton.programmatic import dependent_launch

_WIDE_OUTPUTS = 64


def streamed_tile(inputs: int) -> tuple[int, int, int]:
    """Returns outputs and inputs of a tile of either matrix, and warps; measured on an H100."""
    return (4, 512, 4) if inputs <= 2048 else (4, 1024, 4)


def rounded_tile(inputs: int) -> tuple[int, int, int]:
    """Returns the same for weights of one byte."""
    return (4, 1024, 4) if inputs <= 2048 else (4, 2048, 8)


@torch.library.custom_op("subquad::gated_linear_step_triton", mutates_args=())
def gated_linear_step_triton(
    x: Tensor,
    gate_weight: Tensor,
    value_weight: Tensor,
    gate_scale: Tensor | None,
    value_scale: Tensor | None,
    scale: Tensor | None,
    norm: int,
    eps: float,
    gelu: bool,
    upcoming: Tensor | None,
) -> Tensor:
    """Vectors that are ``streamed``; everything contiguous."""
    (rows, inputs), outputs = x.shape, gate_weight.shape[0]
    out, columns, warps = (streamed_tile if gate_scale is None else rounded_tile)(inputs)
    y = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    gated_linear_step_kernel[(triton.cdiv(outputs, out),)](
        x,
        x if scale is None else scale,
        gate_weight,
        value_weight,
        x if gate_scale is None else gate_scale,
        x if value_scale is None else value_scale,
        y,
        outputs,
        inputs,
        eps,
        ROWS=rows,
        PADDED=padded(rows),
        OUT=out,
        IN=min(columns, padded(inputs)),
        NORM=norm,
        SCALED=gate_scale is not None,
        GELU=gelu,
        num_warps=warps,
        **upcoming_arguments(upcoming, gate_weight),
        **dependent_launch(),
    )
    return y


@gated_linear_step_triton.register_fake
def _(x, gate_weight, value_weight, gate_scale, value_scale, scale, norm, eps, gelu, upcoming):
    return x.new_empty((x.shape[0], gate_weight.shape[0]))


@torch.library.custom_op("subquad::wide_gated_linear_step_triton", mutates_args=())
def wide_gated_linear_step_triton(
    x: Tensor,
    gate_weight: Tensor,
    value_weight: Tensor,
    gate_scale: Tensor | None,
    value_scale: Tensor | None,
    gelu: bool,
) -> Tensor:
    """Up to ``MOST_ROWS`` vectors of a 16-bit type, on tensor cores."""
    (rows, inputs), outputs = x.shape, gate_weight.shape[0]
    y = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    wide_gated_linear_step_kernel[(triton.cdiv(outputs, _WIDE_OUTPUTS),)](
        x,
        gate_weight,
        value_weight,
        x if gate_scale is None else gate_scale,
        x if value_scale is None else value_scale,
        y,
        rows,
        outputs,
        inputs,
        ROWS=max(16, padded(rows)),
        OUT=_WIDE_OUTPUTS,
        IN=128,
        STAGES=4,
        SCALED=gate_scale is not None,
        GELU=gelu,
        num_warps=4,
        **dependent_launch(),
    )
    return y


@wide_gated_linear_step_triton.register_fake
def _(x, gate_weight, value_weight, gate_scale, value_scale, gelu):
    return x.new_empty((x.shape[0], gate_weight.shape[0]))


def run(
    x: Tensor,
    gate_weight: Tensor | RoundedWeight,
    value_weight: Tensor | RoundedWeight,
    *,
    norm: StepNorm | None,
    activation: str | None,
    upcoming: Tensor | None,
) -> Tensor:
    """Does what gated_linear_step's torch form does."""
    gate, value, gelu = matrix_of(gate_weight).contiguous(), matrix_of(value_weight).contiguous(), activation == "gelu"
    scales = scale_of(gate_weight), scale_of(value_weight)
    if streamed(x):
        scale, form, eps = norm_arguments(norm)
        return torch.ops.subquad.gated_linear_step_triton(
            x.contiguous(), gate, value, *scales, scale, form, eps, gelu, upcoming
        )
    return torch.ops.subquad.wide_gated_linear_step_triton(
        normalised_rows(x, norm).contiguous(), gate, value, *scales, gelu
    )
