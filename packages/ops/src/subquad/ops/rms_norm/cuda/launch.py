"""rms_norm as a torch custom operator over the CUDA library; without gradients, which Triton's kernels have."""

import torch
from torch import Tensor

from subquad.ops._cuda_rows import NORM_CODES, row_norm
from subquad.ops.dispatch import runs_plainly


def _launch(x: Tensor, addend: Tensor | None, scale: Tensor, eps: float, norm: int) -> tuple[Tensor, Tensor]:
    """Returns y and the sum, which is empty where there is no addend."""
    y, total = row_norm(x, addend, scale, eps, norm)
    return y, x.new_empty(0) if total is None else total


rms_norm_cuda = torch.library.custom_op("subquad::rms_norm_cuda", mutates_args=())(_launch)


@rms_norm_cuda.register_fake
def _(x, addend, scale, eps, norm):
    return x.new_empty(x.shape), x.new_empty(x.shape if addend is not None else (0,))


def plainly(x: Tensor, addend: Tensor | None, scale: Tensor, *, eps: float, form: str) -> tuple[Tensor, Tensor]:
    """Does what rms_norm's torch form does, past torch's dispatcher."""
    y, total = row_norm(x, addend, scale, eps, NORM_CODES[form])
    return y, x if total is None else total


def run(x: Tensor, addend: Tensor | None, scale: Tensor, *, eps: float, form: str) -> tuple[Tensor, Tensor]:
    """Does what rms_norm's torch form does."""
    if runs_plainly(x, addend, scale):
        return plainly(x, addend, scale, eps=eps, form=form)
    y, total = torch.ops.subquad.rms_norm_cuda(x, addend, scale, eps, NORM_CODES[form])
    return y, x if addend is None else total
