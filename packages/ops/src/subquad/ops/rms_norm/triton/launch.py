"""rms_norm as a torch custom operator over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.dispatch import runs_plainly
from subquad.ops.rms_norm.triton.kernels import rms_norm_backward_kernel, rms_norm_kernel

MOST_CHANNELS = 32768  # a row lies in the registers of one program
_BACKWARD_PROGRAMS = 264  # two a multiprocessor of an H100


def _rows(x: Tensor) -> Tensor:
    """Returns ``[row, channel]`` with unit stride along the channels; a view where x allows it."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _warps(channels: int) -> int:
    return 4 if channels <= 2048 else 8 if channels <= 8192 else 16


def _launch(x: Tensor, addend: Tensor | None, scale: Tensor, eps: float, vortex: bool) -> tuple[Tensor, Tensor]:
    """Returns y and the sum, which is empty where there is no addend."""
    channels = x.shape[-1]
    rows, added = _rows(x), None if addend is None else _rows(addend)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty(x.shape if added is not None else (0,), dtype=x.dtype, device=x.device)
    rms_norm_kernel[(rows.shape[0],)](
        rows,
        rows if added is None else added,
        scale.contiguous(),
        y,
        total,
        rows.stride(0),
        0 if added is None else added.stride(0),
        channels,
        eps,
        ADD=added is not None,
        VORTEX=vortex,
        CHANNELS=triton.next_power_of_2(channels),
        num_warps=_warps(channels),
    )
    return y, total


rms_norm_triton = torch.library.custom_op("subquad::rms_norm_triton", mutates_args=())(_launch)


@rms_norm_triton.register_fake
def _(x, addend, scale, eps, vortex):
    return x.new_empty(x.shape), x.new_empty(x.shape if addend is not None else (0,))


@torch.library.custom_op("subquad::rms_norm_backward_triton", mutates_args=())
def rms_norm_backward_triton(
    total: Tensor, scale: Tensor, to_y: Tensor, to_total: Tensor | None, eps: float, vortex: bool
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of the sum and of scale."""
    rows, channels = total.numel() // total.shape[-1], total.shape[-1]
    programs = min(rows, _BACKWARD_PROGRAMS)
    to_x = torch.empty(total.shape, dtype=total.dtype, device=total.device)
    to_scale = torch.empty((programs, channels), dtype=torch.float32, device=total.device)
    rms_norm_backward_kernel[(programs,)](
        total.contiguous(),
        scale.contiguous(),
        to_y.contiguous(),
        to_y if to_total is None else to_total.contiguous(),
        to_x,
        to_scale,
        rows,
        channels,
        eps,
        UPSTREAM=to_total is not None,
        VORTEX=vortex,
        CHANNELS=triton.next_power_of_2(channels),
        num_warps=_warps(channels),
    )
    return to_x, to_scale.sum(0).to(scale.dtype)


@rms_norm_backward_triton.register_fake
def _(total, scale, to_y, to_total, eps, vortex):
    return total.new_empty(total.shape), scale.new_empty(scale.shape)


def _keep(ctx, inputs, output) -> None:
    x, addend, scale, ctx.eps, ctx.vortex = inputs
    ctx.addend_dtype = None if addend is None else addend.dtype
    ctx.save_for_backward(x if addend is None else output[1], scale)


def _backward(ctx, to_y, to_total):
    total, scale = ctx.saved_tensors
    to_total = None if ctx.addend_dtype is None else to_total
    to_x, to_scale = torch.ops.subquad.rms_norm_backward_triton(total, scale, to_y, to_total, ctx.eps, ctx.vortex)
    return to_x, None if ctx.addend_dtype is None else to_x.to(ctx.addend_dtype), to_scale, None, None


rms_norm_triton.register_autograd(_backward, setup_context=_keep)


def run(x: Tensor, addend: Tensor | None, scale: Tensor, *, eps: float, form: str) -> tuple[Tensor, Tensor]:
    """Does what rms_norm's torch form does."""
    launch = _launch if runs_plainly(x, addend, scale) else torch.ops.subquad.rms_norm_triton
    y, total = launch(x, addend, scale, eps, form == "vortex")
    return y, x if addend is None else total
