"""gated_linear_step as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops import _cuda_steps
from subquad.ops._cuda_steps import Matrix, Norm
from subquad.ops.dispatch import runs_plainly
from subquad.ops.linear_step.rounded_weight import RoundedWeight
from subquad.ops.linear_step.step_norm import StepNorm


def _launch(
    x: Tensor,
    gate_weight: Tensor,
    value_weight: Tensor,
    gate_scale: Tensor | None,
    value_scale: Tensor | None,
    norm_scale: Tensor | None,
    norm: int,
    eps: float,
    activation: str,
) -> Tensor:
    """One to 64 vectors; everything contiguous."""
    gate, value = Matrix(gate_weight, gate_scale), Matrix(value_weight, value_scale)
    return _cuda_steps.gated_linear(x, gate, value, Norm(norm_scale, norm, eps), activation)


gated_linear_step_cuda = torch.library.custom_op("subquad::gated_linear_step_cuda", mutates_args=())(_launch)


@gated_linear_step_cuda.register_fake
def _(x, gate_weight, value_weight, gate_scale, value_scale, norm_scale, norm, eps, activation):
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
    """Does what gated_linear_step's torch form does; the kernel behind fetches its own weights ahead."""
    gate, gate_scale = _cuda_steps.matrix(gate_weight)
    value, value_scale = _cuda_steps.matrix(value_weight)
    norm_scale, code, eps = _cuda_steps.norm_of(norm)
    launch = _launch if runs_plainly(x, gate, value, norm_scale) else torch.ops.subquad.gated_linear_step_cuda
    return launch(x.contiguous(), gate, value, gate_scale, value_scale, norm_scale, code, eps, activation or "")
