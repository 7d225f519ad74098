"""attention_step as a torch custom operator over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
from torch import Tensor

from subquad.ops._triton_backend import interpreting
from subquad.ops.attention_step.triton.kernels import attention_join_kernel, attention_split_kernel
from subquad.ops.linear_step.triton.launch import padded
from subquad.ops.linear_step.triton.programmatic import dependent_launch

_PROGRAMS = 512  # a few for every multiprocessor
_LEAST_SPLITS, _MOST_SPLITS = 4, 32


def splits_of(batch: int, heads: int) -> int:
    """Returns how many programs share the tokens of one head of one row."""
    return max(_LEAST_SPLITS, min(_MOST_SPLITS, padded(-(-_PROGRAMS // (batch * heads)))))


def tile_of(splits: int) -> tuple[int, int, int]:
    """Returns tokens in a tile, tiles under way, and warps of a program; measured on an H100."""
    if interpreting():
        return 4, 1, 1
    return (64, 2, 4) if splits > _LEAST_SPLITS else (32, 2, 2)


@torch.library.custom_op("subquad::attention_step_triton", mutates_args=("keys", "values"))
def attention_step_triton(
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
    """Arguments as in attention_step, all contiguous; sizes of heads are powers of two."""
    batch, heads, _, size = qkv.shape
    splits = splits_of(batch, heads)
    block, stages, warps = tile_of(splits)
    partial = torch.empty((batch, heads, splits, size), dtype=torch.float32, device=qkv.device)
    weight = torch.empty((batch, heads, splits, 2), dtype=torch.float32, device=qkv.device)
    y = torch.empty((batch, heads, size), dtype=qkv.dtype, device=qkv.device)
    attention_split_kernel[(heads, splits, batch)](
        qkv,
        keys,
        values,
        pages,
        position,
        inv_freq,
        position if active is None else active.view(torch.uint8),
        partial,
        weight,
        heads,
        page_size,
        pages.shape[1],
        position_scale,
        size**-0.5,
        HALF=size // 2,
        SPLITS=splits,
        BLOCK=block,
        STAGES=stages,
        ACTIVE=active is not None,
        num_warps=warps,
        **dependent_launch(),
    )
    attention_join_kernel[(heads, batch)](
        partial, weight, y, heads, HALF=size // 2, SPLITS=splits, num_warps=2, **dependent_launch()
    )
    return y


@attention_step_triton.register_fake
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
    """Does what attention_step's torch form does; keys and values must be contiguous."""
    return torch.ops.subquad.attention_step_triton(
        qkv.contiguous(),
        keys,
        values,
        pages.contiguous(),
        position.contiguous(),
        inv_freq.contiguous(),
        page_size,
        position_scale,
        None if active is None else active.contiguous(),
    )
