"""Two-dimensional fft_conv as a torch custom operator over the CUDA library."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops._cuda_images import convolve, correlate, spectra
from subquad.ops.axes import Boundary
from subquad.ops.dispatch import runs_plainly
from subquad.ops.fft_conv.placement import Axis, place
from subquad.ops.fft_conv.spectral import reaching_taps


class Plan(NamedTuple):
    """The transform of a call and where it places the samples, the results and the filter; the height first."""

    size: int
    forward: tuple[Axis, Axis, Axis, Axis]
    backward: tuple[Axis, Axis, Axis, Axis]
    filter: tuple[Axis, Axis]


@functools.lru_cache(maxsize=256)
def _planned(
    space: tuple[int, ...], taps: tuple[int, ...], centres: tuple[int, ...], boundary: tuple[str, ...]
) -> Plan:
    size, (height, width) = place(space, taps, centres, boundary)
    forward = (height.samples(), width.samples(), height.results(), width.results())
    backward = (
        height.samples(backward=True),
        width.samples(backward=True),
        height.results(backward=True),
        width.results(backward=True),
    )
    return Plan(size, forward, backward, (height.filter(size), width.filter(size)))


def _plan(x: Tensor, taps: Tensor, centres: list[int], circular: list[bool]) -> Plan:
    boundary = tuple("circular" if around else "zero" for around in circular)
    return _planned(tuple(x.shape[2:]), tuple(taps.shape[2:]), tuple(centres), boundary)


def _factor(skip: Tensor | None) -> Tensor | None:
    return None if skip is None else skip.float().contiguous()


def _launch(x: Tensor, taps: Tensor, skip: Tensor | None, centres: list[int], circular: list[bool]) -> Tensor:
    """Returns y ``[batch, channel, height, width]`` in the dtype of x."""
    plan = _plan(x, taps, centres, circular)
    filters = spectra(taps.float().contiguous(), plan.size, *plan.filter)
    return convolve(x.contiguous(), filters, _factor(skip), plan.forward)


image_conv_cuda = torch.library.custom_op("subquad::image_conv_cuda", mutates_args=())(_launch)


@image_conv_cuda.register_fake
def _(x, taps, skip, centres, circular):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _launch_to_x(
    upstream: Tensor, taps: Tensor, skip: Tensor | None, centres: list[int], circular: list[bool]
) -> Tensor:
    """Returns the gradient of x."""
    plan = _plan(upstream, taps, centres, circular)
    filters = spectra(taps.float().contiguous(), plan.size, *plan.filter)
    return convolve(upstream.contiguous(), filters, _factor(skip), plan.backward, turned=True)


image_conv_to_x_cuda = torch.library.custom_op("subquad::image_conv_to_x_cuda", mutates_args=())(_launch_to_x)


@image_conv_to_x_cuda.register_fake
def _(upstream, taps, skip, centres, circular):
    return torch.empty_like(upstream, memory_format=torch.contiguous_format)


def _launch_to_taps(x: Tensor, upstream: Tensor, taps: Tensor, centres: list[int], circular: list[bool]) -> Tensor:
    """Returns the gradient of the taps in float32."""
    plan = _plan(x, taps, centres, circular)
    given = upstream.to(x.dtype).contiguous()
    return correlate(x.contiguous(), given, plan.size, plan.forward, plan.filter, summed=taps.shape[0] == 1)


image_conv_to_taps_cuda = torch.library.custom_op("subquad::image_conv_to_taps_cuda", mutates_args=())(_launch_to_taps)


@image_conv_to_taps_cuda.register_fake
def _(x, upstream, taps, centres, circular):
    return taps.new_empty(taps.shape, dtype=torch.float32)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.centres, ctx.circular = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, upstream):
    x, taps, skip = ctx.saved_tensors
    rest = ctx.centres, ctx.circular
    plainly = runs_plainly(upstream, x, taps, skip)
    to_x = to_taps = to_skip = None
    if ctx.needs_input_grad[0]:
        to_x = (_launch_to_x if plainly else torch.ops.subquad.image_conv_to_x_cuda)(upstream, taps, skip, *rest)
    if ctx.needs_input_grad[1]:
        find = _launch_to_taps if plainly else torch.ops.subquad.image_conv_to_taps_cuda
        to_taps = find(x, upstream, taps, *rest).to(taps.dtype)
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
