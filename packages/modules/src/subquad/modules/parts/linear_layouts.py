"""The product of a plain linear in the layouts and sums that its own call cannot make without a pass over memory."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def is_plain(linear: nn.Module) -> bool:
    """Says whether a module is a linear of torch and nothing more: no subclass, no parametrisation, no hook."""
    hooks = (linear._forward_hooks, linear._forward_pre_hooks, linear._backward_hooks, linear._backward_pre_hooks)
    return type(linear) is nn.Linear and not any(hooks)


def product_channels_first(
    linear: nn.Module, x: Float[Tensor, "batch length channel"]
) -> Float[Tensor, "batch rows length"]:
    """Computes ``linear(x).transpose(1, 2)`` with unit stride along the length where the linear is plain."""
    if not is_plain(linear) or linear.bias is not None:
        return linear(x).transpose(1, 2)
    batch, length, channels = x.shape
    product = torch.mm(linear.weight, x.reshape(batch * length, channels).t())
    return product.unflatten(1, (batch, length)).transpose(0, 1)


def product_of_channels_first(
    linear: nn.Module, x: Float[Tensor, "batch channel length"]
) -> Float[Tensor, "batch length rows"]:
    """Computes ``linear(x.transpose(1, 2))`` without making the transposed input where the linear is plain."""
    if not is_plain(linear) or linear.bias is None or (x.shape[0] > 1 and torch.is_grad_enabled()):
        return linear(x.transpose(1, 2))
    rows = [torch.addmm(linear.bias, row.t(), linear.weight.t()) for row in x.unbind(0)]
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)


def add_product(
    linear: nn.Module, residual: Float[Tensor, "*rows output"], x: Float[Tensor, "*rows input"]
) -> Float[Tensor, "*rows output"]:
    """Computes ``residual + linear(x)``; where no gradient is recorded, in ``residual`` itself if the linear is plain.

    The caller owns ``residual`` and does not use it afterwards.
    """
    if (
        torch.is_grad_enabled()
        or not is_plain(linear)
        or linear.bias is not None
        or torch.is_autocast_enabled(x.device.type)
        or not residual.dtype == x.dtype == linear.weight.dtype
        or not residual.is_contiguous()
    ):
        return linear(x) + residual
    residual.view(-1, residual.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), linear.weight.t())
    return residual
