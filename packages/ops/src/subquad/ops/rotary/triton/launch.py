"""rotary as torch custom operators over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.dispatch import runs_plainly
from subquad.ops.rotary.triton.kernels import rotary_into_kernel, rotary_kernel

_TILE = 512  # pairs a program


def _tokens(length: int, pairs: int) -> int:
    return max(1, min(_TILE // pairs, int(triton.next_power_of_2(length))))


def _channels_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _launch(x: Tensor, position: Tensor, inv_freq: Tensor, scale: float, direction: float) -> Tensor:
    """Arguments as in rotary; ``direction`` is 1, or -1 to turn back."""
    stream = _channels_contiguous(x)
    batch, length, heads, size = x.shape
    pairs = triton.next_power_of_2(size // 2)
    tokens = _tokens(length, pairs)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rotary_kernel[(triton.cdiv(length, tokens), batch)](
        stream,
        position,
        inv_freq.float().contiguous(),
        y,
        scale,
        direction,
        length,
        heads,
        size // 2,
        *stream.stride()[:3],
        0 if position.shape[0] == 1 else position.stride(0),
        position.stride(1),
        TOKENS=tokens,
        PAIRS=pairs,
        num_warps=4,
    )
    return y


rotary_triton = torch.library.custom_op("subquad::rotary_triton", mutates_args=())(_launch)


@rotary_triton.register_fake
def _(x, position, inv_freq, scale, direction):
    return x.new_empty(x.shape)


def _keep(ctx, inputs, output) -> None:
    _, position, inv_freq, ctx.scale, ctx.direction = inputs
    ctx.save_for_backward(position, inv_freq)


def _backward(ctx, to_y):
    position, inv_freq = ctx.saved_tensors
    to_x = torch.ops.subquad.rotary_triton(to_y, position, inv_freq, ctx.scale, -ctx.direction)
    return to_x, None, None, None, None


rotary_triton.register_autograd(_backward, setup_context=_keep)


def _launch_into(qkv: Tensor, position: Tensor, inv_freq: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Arguments as in rotary_into."""
    stream = _channels_contiguous(qkv)
    batch, length, heads, _, size = qkv.shape
    pairs = triton.next_power_of_2(size // 2)
    tokens = _tokens(length, pairs)
    y = torch.empty((batch, length, heads, size), dtype=qkv.dtype, device=qkv.device)
    rotary_into_kernel[(triton.cdiv(length, tokens), batch)](
        stream,
        position,
        inv_freq.float().contiguous(),
        y,
        keys,
        values,
        scale,
        length,
        heads,
        size // 2,
        *stream.stride()[:4],
        0 if position.shape[0] == 1 else position.stride(0),
        position.stride(1),
        *keys.stride()[:3],
        *values.stride()[:3],
        TOKENS=tokens,
        PAIRS=pairs,
        num_warps=4,
    )
    return y


rotary_into_triton = torch.library.custom_op("subquad::rotary_into_triton", mutates_args=("keys", "values"))(
    _launch_into
)


@rotary_into_triton.register_fake
def _(qkv, position, inv_freq, keys, values, scale):
    return qkv.new_empty((*qkv.shape[:3], qkv.shape[-1]))


def run(x: Tensor, position: Tensor, inv_freq: Tensor, *, scale: float, into: tuple[Tensor, Tensor] | None) -> Tensor:
    """Does what rotary's torch form does."""
    plainly = runs_plainly(x)
    if into is None:
        launch = _launch if plainly else torch.ops.subquad.rotary_triton
        return launch(x, position, inv_freq, float(scale), 1.0)
    keys, values = into
    launch = _launch_into if plainly else torch.ops.subquad.rotary_into_triton
    return launch(x, position, inv_freq, keys, values, float(scale))
