"""linear_step as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops import _cuda_steps
from subquad.ops._cuda_steps import Matrix, Norm
from subquad.ops.dispatch import runs_plainly
from subquad.ops.linear_step.rounded_weight import RoundedWeight
from subquad.ops.linear_step.step_norm import StepNorm


def _launch(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    norm_scale: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    norm: int,
    eps: float,
    wide: bool,
) -> Tensor:
    """One to 64 vectors; everything contiguous."""
    return _cuda_steps.linear(x, Matrix(weight, weight_scale), Norm(norm_scale, norm, eps), bias, residual, wide=wide)


linear_step_cuda = torch.library.custom_op("subquad::linear_step_cuda", mutates_args=())(_launch)


@linear_step_cuda.register_fake
def _(x, weight, weight_scale, norm_scale, bias, residual, norm, eps, wide):
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.float32 if wide else x.dtype)


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
    """Does what linear_step's torch form does; the kernel behind fetches its own weights ahead."""
    numbers, scale = _cuda_steps.matrix(weight)
    norm_scale, code, eps = _cuda_steps.norm_of(norm)
    residual = None if residual is None else residual.to(x.dtype).contiguous()
    launch = _launch if runs_plainly(x, numbers, norm_scale, bias, residual) else torch.ops.subquad.linear_step_cuda
    wide = output_dtype not in (None, x.dtype)
    return launch(x.contiguous(), numbers, scale, norm_scale, bias, residual, code, eps, wide)
