"""gated_modal_conv as a torch custom operator over the CUDA library."""

from collections.abc import Callable

import torch
from torch import Tensor

from subquad.ops._cuda_streams import (
    MOST_STATES,
    Stream,
    as_gradient,
    history_shape,
    modal,
    modal_backward,
    tiles_kept,
)
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.dispatch import gradient_wanted, runs_plainly
from subquad.ops.gated_modal_conv.gated_modal_conv import GatedModalState


def _launch(
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    skip: Tensor | None,
    projection_state: Tensor | None,
    modal_state: Tensor | None,
    pregate: bool,
    postgate: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y, the modal state ``[batch, channel, state]`` and, with ``keep``, the states that gradients need."""
    stream = Stream(z, projection_taps, projection_state, skip, None, pregate, postgate)
    return modal(stream, log_poles, residues, modal_state, keep=keep)


gated_modal_conv_cuda = torch.library.custom_op("subquad::gated_modal_conv_cuda", mutates_args=())(_launch)


@gated_modal_conv_cuda.register_fake
def _(z, projection_taps, log_poles, residues, skip, projection_state, modal_state, pregate, postgate, keep):
    batch, rows, length = z.shape
    channels = rows // 3
    return (
        z.new_empty(batch, channels, length),
        z.new_empty(batch, channels, log_poles.shape[1], dtype=torch.float32),
        z.new_empty(batch, channels, tiles_kept(length, keep), MOST_STATES, dtype=torch.float32),
    )


@torch.library.custom_op("subquad::gated_modal_conv_backward_cuda", mutates_args=())
def gated_modal_conv_backward_cuda(
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    skip: Tensor | None,
    projection_state: Tensor | None,
    entries: Tensor,
    upstream: Tensor,
    upstream_state: Tensor | None,
    pregate: bool,
    postgate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of z, every row's projection taps, log_poles, residues, skip and both states.

    All but those of z and of its history are float32; the history's is empty where there is none.
    """
    stream = Stream(z, projection_taps, projection_state, skip, None, pregate, postgate)
    found = modal_backward(stream, log_poles, residues, entries, upstream, upstream_state)
    to_projection_state = found.shared.projection_history.view(history_shape(projection_state))
    x, projection, to_skip = found.shared.x, found.shared.projection_taps, found.shared.skip
    return x, projection, found.log_poles, found.residues, to_skip, to_projection_state, found.history


@gated_modal_conv_backward_cuda.register_fake
def _(
    z, projection_taps, log_poles, residues, skip, projection_state, entries, upstream, to_state, pregate, postgate
):  # fmt: skip
    rows = z.shape[1]
    shapes = ((rows, projection_taps.shape[1]), log_poles.shape, log_poles.shape, (rows // 3,))
    wide = [z.new_empty(shape, dtype=torch.float32) for shape in shapes]
    state = z.new_empty(z.shape[0], *log_poles.shape, dtype=torch.float32)
    return z.new_empty(z.shape), *wide, z.new_empty(history_shape(projection_state)), state


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.pregate, ctx.postgate, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, to_y, to_state, _):
    *tensors, modal_state, entries = ctx.saved_tensors
    z = tensors[0]
    upstream = z.new_zeros(z.shape[0], z.shape[1] // 3, z.shape[2]) if to_y is None else to_y
    found = torch.ops.subquad.gated_modal_conv_backward_cuda(
        *tensors, entries, upstream, to_state, ctx.pregate, ctx.postgate
    )
    return *map(as_gradient, (*tensors, modal_state), found), None, None, None


gated_modal_conv_cuda.register_autograd(_backward, setup_context=_keep)


def plainly(
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedModalState | None,
) -> tuple[Tensor, GatedModalState]:
    """Does what gated_modal_conv's torch form does, past torch's dispatcher; no gradient is wanted."""
    return _run(_launch, z, projection_taps, log_poles, residues, skip, pregate, postgate, initial_state, keep=False)


def run(
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedModalState | None,
) -> tuple[Tensor, GatedModalState]:
    """Does what gated_modal_conv's torch form does."""
    tensors = (z, projection_taps, log_poles, residues, skip)
    launch = _launch if runs_plainly(*tensors, *(initial_state or ())) else torch.ops.subquad.gated_modal_conv_cuda
    keep = gradient_wanted(*tensors, *(initial_state or ()))
    return _run(launch, *tensors, pregate, postgate, initial_state, keep=keep)


def _run(
    launch: Callable[..., tuple[Tensor, Tensor, Tensor]],
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedModalState | None,
    *,
    keep: bool,
) -> tuple[Tensor, GatedModalState]:
    projection, state = initial_state if initial_state is not None else (None, None)
    y, state, _ = launch(z, projection_taps, log_poles, residues, skip, projection, state, pregate, postgate, keep)
    return y, GatedModalState(next_history(z, projection_taps.shape[1] - 1, projection), state)
