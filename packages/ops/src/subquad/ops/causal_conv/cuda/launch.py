"""causal_conv as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops._cuda_library import load_cuda_library
from subquad.ops._cuda_streams import Stream, as_gradient, history_shape, toeplitz, toeplitz_backward
from subquad.ops.causal_conv.causal_conv import compute_in_torch
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.dispatch import gradients_by_recomputing, runs_plainly


def _launch(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: str,
    initial_state: Tensor | None,
) -> Tensor:
    """Filters ``[batch, channel, length]``; arguments as in causal_conv, activation ``""`` for none."""
    if x.dtype == torch.float16:
        return load_cuda_library().causal_fir(
            x, taps, bias=bias, skip=skip, initial_state=initial_state, activation="silu" if activation else None
        )
    stream = Stream(x, skip=skip, bias=bias, activation=activation)
    return toeplitz(stream, taps, initial_state)[0]


causal_conv_cuda = torch.library.custom_op("subquad::causal_conv_cuda", mutates_args=())(_launch)


@causal_conv_cuda.register_fake
def _(x, taps, bias, skip, activation, initial_state):
    return x.new_empty(x.shape)


@torch.library.custom_op("subquad::causal_conv_backward_cuda", mutates_args=())
def causal_conv_backward_cuda(
    x: Tensor, taps: Tensor, skip: Tensor | None, initial_state: Tensor | None, upstream: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of x, taps, bias, skip (these in float32) and the initial state (empty without)."""
    found = toeplitz_backward(Stream(x, skip=skip), taps, initial_state, upstream, None)
    return found.shared.x, found.taps, found.shared.bias, found.shared.skip, found.history


@causal_conv_backward_cuda.register_fake
def _(x, taps, skip, initial_state, upstream):
    channels = x.shape[1]
    wide = [x.new_empty(shape, dtype=torch.float32) for shape in (taps.shape, (channels,), (channels,))]
    return x.new_empty(x.shape), *wide, x.new_empty(history_shape(initial_state))


def _keep(ctx, inputs, output) -> None:
    x, taps, bias, skip, ctx.activation, initial_state = inputs
    ctx.save_for_backward(x, taps, bias, skip, initial_state)


def _backward(ctx, gradient):
    saved = ctx.saved_tensors  # once: what was checkpointed is computed again when it is read
    x, taps, bias, skip, before = saved
    if x.dtype != torch.float16 and not ctx.activation:
        found = torch.ops.subquad.causal_conv_backward_cuda(x, taps, skip, before, gradient)
        *gradients, to_before = map(as_gradient, saved, found)
        return *gradients, None, to_before

    def again(*tensors):
        return compute_in_torch(
            *tensors[:2], bias=tensors[2], skip=tensors[3], activation=ctx.activation or None, initial_state=tensors[4]
        )[:1]

    to_x, to_taps, to_bias, to_skip, to_before = gradients_by_recomputing(
        again, (x, taps, bias, skip, before), (gradient,)
    )
    return to_x, to_taps, to_bias, to_skip, None, to_before


causal_conv_cuda.register_autograd(_backward, setup_context=_keep)


def run(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Does what causal_conv's torch form does."""
    launch = _launch if runs_plainly(x, taps, bias, skip, initial_state) else torch.ops.subquad.causal_conv_cuda
    y = launch(x, taps, bias, skip, activation or "", initial_state)
    return y, next_history(x, taps.shape[1] - 1, initial_state)
