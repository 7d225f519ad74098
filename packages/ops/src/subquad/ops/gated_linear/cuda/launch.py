"""gated_linear as a torch custom operator over the CUDA library; without gradients, which the torch form has."""

import torch
from torch import Tensor

from subquad.ops._cuda_rows import gated_linear
from subquad.ops.dispatch import runs_plainly


def _launch(x: Tensor, gate_weight: Tensor, value_weight: Tensor, activation: str) -> Tensor:
    """Arguments as in gated_linear, activation ``""`` for none."""
    return gated_linear(x, gate_weight, value_weight, activation)


gated_linear_cuda = torch.library.custom_op("subquad::gated_linear_cuda", mutates_args=())(_launch)


@gated_linear_cuda.register_fake
def _(x, gate_weight, value_weight, activation):
    return x.new_empty((*x.shape[:-1], gate_weight.shape[0]))


def plainly(x: Tensor, gate_weight: Tensor, value_weight: Tensor, *, activation: str | None) -> Tensor:
    """Does what gated_linear's torch form does, past torch's dispatcher."""
    return gated_linear(x, gate_weight, value_weight, activation or "")


def run(x: Tensor, gate_weight: Tensor, value_weight: Tensor, *, activation: str | None) -> Tensor:
    """Does what gated_linear's torch form does."""
    if runs_plainly(x, gate_weight, value_weight):
        return plainly(x, gate_weight, value_weight, activation=activation)
    return torch.ops.subquad.gated_linear_cuda(x, gate_weight, value_weight, activation or "")
