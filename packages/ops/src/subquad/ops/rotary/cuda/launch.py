"""rotary as torch custom operators over the CUDA library; without gradients, which Triton's kernels have."""

import torch
from torch import Tensor

from subquad.ops import _cuda_rows
from subquad.ops.dispatch import runs_plainly


def _launch(x: Tensor, position: Tensor, inv_freq: Tensor, scale: float) -> Tensor:
    """Arguments as in rotary."""
    return _cuda_rows.rotary(x, position, inv_freq, scale)


rotary_cuda = torch.library.custom_op("subquad::rotary_cuda", mutates_args=())(_launch)


@rotary_cuda.register_fake
def _(x, position, inv_freq, scale):
    return x.new_empty(x.shape)


def _launch_into(qkv: Tensor, position: Tensor, inv_freq: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Arguments as in rotary_into."""
    return _cuda_rows.rotary(qkv, position, inv_freq, scale, keys, values)


rotary_into_cuda = torch.library.custom_op("subquad::rotary_into_cuda", mutates_args=("keys", "values"))(_launch_into)


@rotary_into_cuda.register_fake
def _(qkv, position, inv_freq, keys, values, scale):
    return qkv.new_empty((*qkv.shape[:3], qkv.shape[-1]))


def plainly(
    x: Tensor, position: Tensor, inv_freq: Tensor, *, scale: float, into: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Does what rotary's torch form does, past torch's dispatcher."""
    return _cuda_rows.rotary(x, position, inv_freq, float(scale), *(into or ()))


def run(x: Tensor, position: Tensor, inv_freq: Tensor, *, scale: float, into: tuple[Tensor, Tensor] | None) -> Tensor:
    """Does what rotary's torch form does."""
    if runs_plainly(x):
        return plainly(x, position, inv_freq, scale=scale, into=into)
    if into is None:
        return torch.ops.subquad.rotary_cuda(x, position, inv_freq, float(scale))
    return torch.ops.subquad.rotary_into_cuda(x, position, inv_freq, *into, float(scale))
