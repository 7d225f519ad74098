"""Two-dimensional fft_conv as a torch custom operator over the CUDA library."""

from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops._cuda_images import convolve, correlate, spectra
from subquad.ops.axes import Boundary
from subquad.ops.dispatch import runs_plainly
from subquad.ops.fft_conv.placement import Placement, place
from subquad.ops.fft_conv.spectral import reaching_taps


class Plan(NamedTuple):
    """The transform of a call and the places of its two axes."""

    size: int
    height: Placement
    width: Placement


def _plan(x: Tensor, taps: Tensor, centres: list[int], circular: list[bool]) -> Plan:
    boundary = ["circular" if around else "zero" for around in circular]
    size, placements = place(x.shape[2:], taps.shape[2:], centres, boundary)
    return Plan(size, *placements)


def _spectra(taps: Tensor, plan: Plan) -> Tensor:
    return spectra(taps.float().contiguous(), plan.size, plan.height.filter(plan.size), plan.width.filter(plan.size))


def _launch(x: Tensor, taps: Tensor, skip: Tensor | None, centres: list[int], circular: list[bool]) -> Tensor:
    """Returns y ``[batch, channel, height, width]`` in the dtype of x."""
    plan = _plan(x, taps, centres, circular)
    factor = None if skip is None else skip.float().contiguous()
    return convolve(x.contiguous(), _spectra(taps, plan), factor, plan.height.samples(), plan.width.samples())


image_conv_cuda = torch.library.custom_op("subquad::image_conv_cuda", mutates_args=())(_launch)


@image_conv_cuda.register_fake
def _(x, taps, skip, centres, circular):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("subquad::image_conv_turned_cuda", mutates_args=())
def image_conv_turned_cuda(
    upstream: Tensor, taps: Tensor, skip: Tensor | None, centres: list[int], circular: list[bool]
) -> Tensor:
    """Returns the gradient of x."""
    plan = _plan(upstream, taps, centres, circular)
    factor = None if skip is None else skip.float().contiguous()
    height, width = plan.height.samples(backward=True), plan.width.samples(backward=True)
    return convolve(upstream.contiguous(), _spectra(taps, plan), factor, height, width, turned=True)


@image_conv_turned_cuda.register_fake
def _(upstream, taps, skip, centres, circular):
    return torch.empty_like(upstream, memory_format=torch.contiguous_format)


@torch.library.custom_op("subquad::image_conv_taps_cuda", mutates_args=())
def image_conv_taps_cuda(x: Tensor, upstream: Tensor, taps: Tensor, centres: list[int], circular: list[bool]) -> Tensor:
    """Returns the gradient of the taps in float32."""
    plan = _plan(x, taps, centres, circular)
    axes = (plan.height.samples(), plan.width.samples(), plan.height.results(), plan.width.results())
    spectrum = correlate(x.contiguous(), upstream.to(x.dtype).contiguous(), plan.size, axes, summed=taps.shape[0] == 1)
    lags = torch.fft.irfft2(spectrum.mT, s=(plan.size, plan.size))
    lags = lags.roll((plan.height.centre, plan.width.centre), dims=(2, 3))
    return lags[..., : plan.height.taps, : plan.width.taps].contiguous()


@image_conv_taps_cuda.register_fake
def _(x, upstream, taps, centres, circular):
    return taps.new_empty(taps.shape, dtype=torch.float32)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.centres, ctx.circular = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, upstream):
    x, taps, skip = ctx.saved_tensors
    rest = ctx.centres, ctx.circular
    to_x = to_taps = to_skip = None
    if ctx.needs_input_grad[0]:
        to_x = torch.ops.subquad.image_conv_turned_cuda(upstream, taps, skip, *rest)
    if ctx.needs_input_grad[1]:
        to_taps = torch.ops.subquad.image_conv_taps_cuda(x, upstream, taps, *rest).to(taps.dtype)
    if skip is not None and ctx.needs_input_grad[2]:
        to_skip = (x.float() * upstream.float()).sum(dim=(0, 2, 3)).to(skip.dtype)
    return to_x, to_taps, to_skip, None, None


image_conv_cuda.register_autograd(_backward, setup_context=_keep)


def run(x: Tensor, taps: Tensor, *, boundary: tuple[Boundary, ...], causal: bool, skip: Tensor | None) -> Tensor:
    """Does what fft_conv's torch form does, for two axes."""
    kernel, centres = reaching_taps(x.shape[2:], taps, boundary, causal)
    circular = [kind == "circular" for kind in boundary]
    launch = _launch if runs_plainly(x, kernel, skip) else torch.ops.subquad.image_conv_cuda
    return launch(x, kernel, skip, centres, circular)
