"""attention_step as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops import _cuda_steps
from subquad.ops._cuda_steps import StoredTokens
from subquad.ops.dispatch import runs_plainly


def _launch(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    page_size: int,
    position_scale: float,
    active: Tensor | None,
) -> Tensor:
    """Arguments as in attention_step, all contiguous."""
    stored = StoredTokens(keys, values, pages, position, page_size, active)
    return _cuda_steps.attention(qkv, stored, inv_freq, position_scale)


attention_step_cuda = torch.library.custom_op("subquad::attention_step_cuda", mutates_args=("keys", "values"))(_launch)


@attention_step_cuda.register_fake
def _(qkv, keys, values, pages, position, inv_freq, page_size, position_scale, active):
    return qkv.new_empty((*qkv.shape[:2], qkv.shape[3]))


def run(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    *,
    page_size: int,
    position_scale: float,
    active: Tensor | None,
) -> Tensor:
    """Does what attention_step's torch form does; the backend refuses keys and values with gaps."""
    pages, position = _integers(pages), _integers(position)
    plain = runs_plainly(qkv, keys, values, inv_freq)
    return (_launch if plain else torch.ops.subquad.attention_step_cuda)(
        qkv.contiguous(), keys, values, pages, position, inv_freq,
        page_size, position_scale, None if active is None else active.contiguous(),
    )  # fmt: skip


def _integers(x: Tensor) -> Tensor:
    return (x if x.dtype == torch.int32 else x.long()).contiguous()
