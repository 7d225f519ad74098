"""gated_product as a torch custom operator over the CUDA library; without gradients, which Triton's kernels have."""

import torch
from torch import Tensor

from subquad.ops._cuda_rows import product
from subquad.ops.dispatch import runs_plainly


def _launch(x: Tensor, other: Tensor | None, activation: str) -> Tensor:
    """Arguments as in gated_product, activation ``""`` for none."""
    return product(x, other, activation)


gated_product_cuda = torch.library.custom_op("subquad::gated_product_cuda", mutates_args=())(_launch)


@gated_product_cuda.register_fake
def _(x, other, activation):
    return x.new_empty((*x.shape[:-1], x.shape[-1] // (2 if other is None else 1)))


def plainly(x: Tensor, other: Tensor | None, *, activation: str | None) -> Tensor:
    """Does what gated_product's torch form does, past torch's dispatcher."""
    return product(x, other, activation or "")


def run(x: Tensor, other: Tensor | None, *, activation: str | None) -> Tensor:
    """Does what gated_product's torch form does."""
    if runs_plainly(x, other):
        return plainly(x, other, activation=activation)
    return torch.ops.subquad.gated_product_cuda(x, other, activation or "")
