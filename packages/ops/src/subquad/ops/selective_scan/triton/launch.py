"""selective_scan as a torch custom operator over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.causal_conv.triton.launch import time_contiguous
from subquad.ops.dispatch import gradient_wanted, runs_plainly
from subquad.ops.selective_scan.triton.kernels import selective_scan_backward_kernel, selective_scan_kernel

MOST_STATES = 256
_BLOCK = 64  # samples of a tile
_ELEMENTS, _BACKWARD_ELEMENTS = 4096, 2048  # states of all samples of a tile that a program holds
_COUNT = 8  # blocks of channels that a program of the backward kernel adds up


def _tile(states: int, repeat: int, elements: int) -> tuple[int, int]:
    """Returns the padded number of states and the channels of a program."""
    padded = 1 << (states - 1).bit_length()
    return padded, max(1, min(4, elements // (padded * _BLOCK), 1 << (repeat - 1).bit_length()))


def _streams(x: Tensor, step_size: Tensor, into: Tensor, out: Tensor) -> tuple[list[Tensor], list[int]]:
    """Returns the streams as the kernels read them, and their strides."""
    streams = [time_contiguous(x), time_contiguous(step_size), time_contiguous(into), time_contiguous(out)]
    strides = [stride for stream in streams for stride in stream.stride()[:-1]]
    return streams, strides


def _launch(
    x: Tensor,
    step_size: Tensor,
    decay: Tensor,
    into: Tensor,
    out: Tensor,
    skip: Tensor | None,
    initial: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y, the last state and, with ``keep``, the states before each tile."""
    batch, channels, length = x.shape
    groups, states = into.shape[1:3]
    streams, strides = _streams(x, step_size, into, out)
    repeat, tiles = channels // groups, triton.cdiv(length, _BLOCK)
    padded, width = _tile(states, repeat, _ELEMENTS)
    y = torch.empty((batch, channels, length), dtype=x.dtype, device=x.device)
    state = torch.empty((batch, channels, states), dtype=torch.float32, device=x.device)
    entries = torch.empty((batch, channels, tiles if keep else 0, states), dtype=torch.float32, device=x.device)
    selective_scan_kernel[(groups * triton.cdiv(repeat, width), batch)](
        *streams[:2],
        decay.contiguous(),
        *streams[2:],
        x if skip is None else skip.contiguous(),
        x if initial is None else initial.contiguous(),
        y,
        state,
        entries,
        length,
        channels,
        repeat,
        states,
        tiles,
        *strides,
        CHANNELS=width,
        STATES=padded,
        BLOCK=_BLOCK,
        SKIP=skip is not None,
        HISTORY=initial is not None,
        KEEP=keep,
        num_warps=4,
    )
    return y, state, entries


selective_scan_triton = torch.library.custom_op("subquad::selective_scan_triton", mutates_args=())(_launch)


@selective_scan_triton.register_fake
def _(x, step_size, decay, into, out, skip, initial, keep):
    batch, channels, length = x.shape
    tiles = -(-length // _BLOCK) if keep else 0
    return (
        x.new_empty(x.shape),
        x.new_empty(batch, channels, decay.shape[1], dtype=torch.float32),
        x.new_empty(batch, channels, tiles, decay.shape[1], dtype=torch.float32),
    )


@torch.library.custom_op("subquad::selective_scan_backward_triton", mutates_args=())
def selective_scan_backward_triton(
    x: Tensor,
    step_size: Tensor,
    decay: Tensor,
    into: Tensor,
    out: Tensor,
    skip: Tensor | None,
    entries: Tensor,
    to_y: Tensor,
    to_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of x, step sizes, decay, input weights, output weights and the initial state."""
    batch, channels, length = x.shape
    groups, states = into.shape[1:3]
    streams, strides = _streams(x, step_size, into, out)
    repeat, tiles = channels // groups, triton.cdiv(length, _BLOCK)
    padded, width = _tile(states, repeat, _BACKWARD_ELEMENTS)
    parts = triton.cdiv(repeat, width * _COUNT)
    upstream = time_contiguous(to_y)
    to_x, to_step = (torch.empty((batch, channels, length), dtype=s.dtype, device=x.device) for s in (x, step_size))
    carry, to_decay = torch.empty(2, batch, channels, states, dtype=torch.float32, device=x.device).unbind(0)
    sums = torch.empty(2, parts, batch, groups, states, length, dtype=torch.float32, device=x.device)
    selective_scan_backward_kernel[(groups * parts, batch)](
        *streams[:2],
        decay.contiguous(),
        *streams[2:],
        x if skip is None else skip.contiguous(),
        entries,
        upstream,
        x if to_state is None else to_state.contiguous(),
        carry,
        to_x,
        to_step,
        to_decay,
        sums[0],
        sums[1],
        length,
        channels,
        repeat,
        states,
        tiles,
        *strides,
        *upstream.stride()[:-1],
        CHANNELS=width,
        COUNT=_COUNT,
        STATES=padded,
        BLOCK=_BLOCK,
        SKIP=skip is not None,
        STATE=to_state is not None,
        num_warps=4,
    )
    to_into, to_out = sums.sum(dim=1).unbind(0)
    first = torch.exp(step_size[..., :1].float() * decay.float())
    return to_x, to_step, to_decay.sum(dim=0), to_into.clone(), to_out.clone(), carry * first


@selective_scan_backward_triton.register_fake
def _(x, step_size, decay, into, out, skip, entries, to_y, to_state):
    wide = {"dtype": torch.float32}
    return (
        x.new_empty(x.shape),
        step_size.new_empty(x.shape),
        decay.new_empty(decay.shape, **wide),
        into.new_empty(into.shape, **wide),
        out.new_empty(out.shape, **wide),
        x.new_empty(*x.shape[:2], decay.shape[1], **wide),
    )


def _keep(ctx, inputs, output) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, to_y, to_state, _):
    *tensors, entries = ctx.saved_tensors
    x, step_size, decay, into, out, skip, initial = tensors
    upstream = torch.zeros_like(x) if to_y is None else to_y
    to_x, to_step, to_decay, to_into, to_out, to_initial = torch.ops.subquad.selective_scan_backward_triton(
        x, step_size, decay, into, out, skip, entries, upstream, to_state
    )
    to_skip = None if skip is None else (x.float() * upstream.float()).sum(dim=(0, 2)).to(skip.dtype)
    return (
        to_x,
        to_step,
        to_decay.to(decay.dtype),
        to_into.to(into.dtype),
        to_out.to(out.dtype),
        to_skip,
        None if initial is None else to_initial.to(initial.dtype),
        None,
    )


selective_scan_triton.register_autograd(_backward, setup_context=_keep)


def run(
    x: Tensor,
    step_size: Tensor,
    decay: Tensor,
    input_weights: Tensor,
    output_weights: Tensor,
    *,
    skip: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Does what selective_scan's torch form does."""
    tensors = (x, step_size, decay, input_weights, output_weights, skip, initial_state)
    launch = _launch if runs_plainly(*tensors) else torch.ops.subquad.selective_scan_triton
    y, state, _ = launch(*tensors, gradient_wanted(*tensors))
    return y, state
