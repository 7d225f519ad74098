"""gated_product as a torch custom operator over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.dispatch import runs_plainly
from subquad.ops.gated_product.triton.kernels import gated_product_backward_kernel, gated_product_kernel

_TILE = 1024


def _branches(x: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns gate and value as ``[row, channel]`` with unit stride along the channels; views where possible."""
    rows = x.reshape(-1, x.shape[-1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    if other is None:
        gate, value = rows.chunk(2, dim=1)
        return gate, value
    values = other.reshape(-1, other.shape[-1])
    return rows, values if values.stride(1) == 1 else values.contiguous()


def _launch(x: Tensor, other: Tensor | None, gelu: bool) -> Tensor:
    """Arguments as in gated_product."""
    gate, value = _branches(x, other)
    rows, channels = gate.shape
    y = torch.empty((*x.shape[:-1], channels), dtype=x.dtype, device=x.device)
    gated_product_kernel[(rows, triton.cdiv(channels, _TILE))](
        gate, value, y, gate.stride(0), value.stride(0), channels, GELU=gelu, TILE=_TILE, num_warps=4
    )
    return y


gated_product_triton = torch.library.custom_op("subquad::gated_product_triton", mutates_args=())(_launch)


@gated_product_triton.register_fake
def _(x, other, gelu):
    return x.new_empty((*x.shape[:-1], x.shape[-1] // (2 if other is None else 1)))


@torch.library.custom_op("subquad::gated_product_backward_triton", mutates_args=())
def gated_product_backward_triton(x: Tensor, other: Tensor | None, to_y: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    """Returns the gradients of x and other; the second is empty where there is no other."""
    gate, value = _branches(x, other)
    rows, channels = gate.shape
    to_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    to_other = torch.empty(x.shape if other is not None else (0,), dtype=x.dtype, device=x.device)
    flat = to_x.view(rows, -1)
    gated_product_backward_kernel[(rows, triton.cdiv(channels, _TILE))](
        gate,
        value,
        to_y.contiguous(),
        flat,
        flat[:, channels:] if other is None else to_other,
        gate.stride(0),
        value.stride(0),
        flat.stride(0),
        channels,
        GELU=gelu,
        TILE=_TILE,
        num_warps=4,
    )
    return to_x, to_other


@gated_product_backward_triton.register_fake
def _(x, other, to_y, gelu):
    return x.new_empty(x.shape), x.new_empty(x.shape if other is not None else (0,))


def _keep(ctx, inputs, output) -> None:
    x, other, ctx.gelu = inputs
    ctx.save_for_backward(x, other)


def _backward(ctx, to_y):
    x, other = ctx.saved_tensors
    to_x, to_other = torch.ops.subquad.gated_product_backward_triton(x, other, to_y, ctx.gelu)
    return to_x, None if other is None else to_other, None


gated_product_triton.register_autograd(_backward, setup_context=_keep)


def run(x: Tensor, other: Tensor | None, *, activation: str | None) -> Tensor:
    """Does what gated_product's torch form does."""
    launch = _launch if runs_plainly(x, other) else torch.ops.subquad.gated_product_triton
    return launch(x, other, activation == "gelu")
