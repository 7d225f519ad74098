"""gated_conv as a torch custom operator over the CUDA library."""

from collections.abc import Callable

import torch
from torch import Tensor

from subquad.ops._cuda_streams import Stream, as_gradient, history_shape, toeplitz, toeplitz_backward
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.dispatch import runs_plainly
from subquad.ops.gated_conv.gated_conv import GatedConvState


def _launch(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    skip: Tensor | None,
    projection_state: Tensor | None,
    mixer_state: Tensor | None,
    pregate: bool,
    postgate: bool,
) -> tuple[Tensor, Tensor]:
    """Returns y and the last ``min(mixer tap - 1, length)`` gated samples."""
    stream = Stream(z, projection_taps, projection_state, skip, None, pregate, postgate)
    return toeplitz(stream, mixer_taps, mixer_state)


gated_conv_cuda = torch.library.custom_op("subquad::gated_conv_cuda", mutates_args=())(_launch)


@gated_conv_cuda.register_fake
def _(z, projection_taps, mixer_taps, skip, projection_state, mixer_state, pregate, postgate):
    batch, rows, length = z.shape
    past = min(mixer_taps.shape[1] - 1, length)
    return z.new_empty(batch, rows // 3, length), z.new_empty(batch, rows // 3, past)


@torch.library.custom_op("subquad::gated_conv_backward_cuda", mutates_args=())
def gated_conv_backward_cuda(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    skip: Tensor | None,
    projection_state: Tensor | None,
    mixer_state: Tensor | None,
    upstream: Tensor,
    upstream_tail: Tensor | None,
    pregate: bool,
    postgate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of z, every row's projection taps, the mixer taps, skip and both states.

    Those of the taps and of skip are float32; a state's is empty where there is none.
    """
    stream = Stream(z, projection_taps, projection_state, skip, None, pregate, postgate)
    found = toeplitz_backward(stream, mixer_taps, mixer_state, upstream, upstream_tail)
    to_projection_state = found.shared.projection_history.view(history_shape(projection_state))
    x, projection, to_skip = found.shared.x, found.shared.projection_taps, found.shared.skip
    return x, projection, found.taps, to_skip, to_projection_state, found.history


@gated_conv_backward_cuda.register_fake
def _(
    z, projection_taps, mixer_taps, skip, projection_state, mixer_state, upstream, upstream_tail, pregate, postgate
):  # fmt: skip
    rows = z.shape[1]
    shapes = ((rows, projection_taps.shape[1]), mixer_taps.shape, (rows // 3,))
    wide = [z.new_empty(shape, dtype=torch.float32) for shape in shapes]
    return z.new_empty(z.shape), *wide, *(z.new_empty(history_shape(s)) for s in (projection_state, mixer_state))


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.pregate, ctx.postgate = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx, to_y, to_tail):
    tensors = ctx.saved_tensors
    z = tensors[0]
    upstream = z.new_zeros(z.shape[0], z.shape[1] // 3, z.shape[2]) if to_y is None else to_y
    found = torch.ops.subquad.gated_conv_backward_cuda(*tensors, upstream, to_tail, ctx.pregate, ctx.postgate)
    return *map(as_gradient, tensors, found), None, None


gated_conv_cuda.register_autograd(_backward, setup_context=_keep)


def plainly(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedConvState | None,
) -> tuple[Tensor, GatedConvState]:
    """Does what gated_conv's torch form does, past torch's dispatcher."""
    return _run(_launch, z, projection_taps, mixer_taps, skip, pregate, postgate, initial_state)


def run(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedConvState | None,
) -> tuple[Tensor, GatedConvState]:
    """Does what gated_conv's torch form does."""
    plain = runs_plainly(z, projection_taps, mixer_taps, skip, *(initial_state or ()))
    launch = _launch if plain else torch.ops.subquad.gated_conv_cuda
    return _run(launch, z, projection_taps, mixer_taps, skip, pregate, postgate, initial_state)


def _run(
    launch: Callable[..., tuple[Tensor, Tensor]],
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedConvState | None,
) -> tuple[Tensor, GatedConvState]:
    projection, mixer = initial_state if initial_state is not None else (None, None)
    y, tail = launch(z, projection_taps, mixer_taps, skip, projection, mixer, pregate, postgate)
    history, past = next_history(z, projection_taps.shape[1] - 1, projection), mixer_taps.shape[1] - 1
    # new memory of its own size is not cut out, so that nobody copies it again
    return y, GatedConvState(history, tail if tail.shape[2] == past else next_history(tail, past, mixer))
