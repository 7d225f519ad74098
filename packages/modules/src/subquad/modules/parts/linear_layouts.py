"""The product of a plain linear in the layouts and sums that its own call cannot make without a pass over memory."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.modules.parts.low_rank_linear import LowRankLinear, is_plain
from subquad.modules.traced_sizes import size_is_unknown

_ALIGNED = 8  # elements; off this grid cuBLAS takes kernels eight times slower where the length is the inner axis
_SHORT = 64  # tokens below which a transposing pass costs nothing
_LONG = 1024  # tokens from which a product per sequence costs no more than one for the batch


def _plain_parts(linear: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Returns weight and bias of a linear of torch and nothing more, whose call is their product; None of any other.

    No subclass, no correction that is being trained, no parametrisation, no hook, no autocast between.
    """
    if (
        not is_plain(linear)
        or linear._forward_hooks
        or linear._forward_pre_hooks
        or linear._backward_hooks
        or linear._backward_pre_hooks
        or torch.is_autocast_enabled("cuda" if x.is_cuda else x.device.type)  # to ask for the name takes longer
    ):
        return None
    assert isinstance(linear, nn.Linear | LowRankLinear)
    stored = linear._parameters  # where Module.__getattr__ finds them, after a while
    weight, bias = stored.get("weight"), stored.get("bias")
    if weight is None or "bias" not in stored:  # something else was put in their place
        weight, bias = linear.weight, linear.bias
    return (weight, bias) if weight.dtype == x.dtype else None


def _aligned(x: Tensor, axis: int) -> Tensor:
    """Appends zeros along an axis up to a length that cuBLAS takes at full speed."""
    if not x.is_cuda:
        return x
    missing = -x.shape[axis] % _ALIGNED
    if not missing:
        return x
    return functional.pad(x, [0, 0] * (x.dim() - 1 - axis) + [0, missing])


def _is_short(length: int) -> bool:
    return not size_is_unknown(length) and length < _SHORT


def plain_weight(linear: nn.Module, x: Tensor) -> Tensor | None:
    """Returns the weight of a linear whose call is ``x @ weight.T`` and nothing more; None of any other."""
    plain = _plain_parts(linear, x)
    return None if plain is None or plain[1] is not None else plain[0]


def product_channels_first(
    linear: nn.Module, x: Float[Tensor, "batch length channel"]
) -> Float[Tensor, "batch rows length"]:
    """Computes ``linear(x).transpose(1, 2)`` with unit stride along the length where the linear is plain."""
    length = x.shape[1]
    plain = None if _is_short(length) else _plain_parts(linear, x)
    if plain is None or plain[1] is not None:
        return linear(x).transpose(1, 2)
    x, weight = _aligned(x, 1), plain[0]
    if x.shape[0] == 1:
        product = functional.linear(weight, x[0]).unsqueeze(0)  # weight @ x[0].T
    else:
        product = torch.bmm(weight.expand(x.shape[0], -1, -1), x.transpose(1, 2))
    return product if x.shape[1] == length else product[:, :, :length]


def product_of_channels_first(
    linear: nn.Module, x: Float[Tensor, "batch channel length"]
) -> Float[Tensor, "batch length rows"]:
    """Computes ``linear(x.transpose(1, 2))`` without making the transposed input where the linear is plain."""
    length = x.shape[2]
    plain = None if _is_short(length) else _plain_parts(linear, x)
    if plain is None:
        return linear(x.transpose(1, 2))
    x = _aligned(x, 2)
    weight, bias = plain
    if bias is not None and x.shape[0] == 1:
        product = functional.linear(x[0].t(), weight, bias).unsqueeze(0)
        return product if x.shape[2] == length else product[:, :length]
    weight = weight.t()
    if bias is None:
        product = x.transpose(1, 2) @ weight
    elif x.is_cuda and length >= _LONG and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        product = torch.empty(x.shape[0], x.shape[2], weight.shape[1], dtype=x.dtype, device=x.device)
        for row, out in zip(x, product, strict=True):
            torch.addmm(bias, row.t(), weight, out=out)
    else:
        product = torch.baddbmm(bias, x.transpose(1, 2), weight.expand(x.shape[0], -1, -1))
    return product[:, :length]


def add_product(
    linear: nn.Module, residual: Float[Tensor, "*rows output"], x: Float[Tensor, "*rows input"]
) -> Float[Tensor, "*rows output"]:
    """Computes ``residual + linear(x)``; where no gradient is recorded, in ``residual`` itself if the linear is plain.

    The caller owns ``residual`` and does not use it afterwards.
    """
    plain = None if torch.is_grad_enabled() else _plain_parts(linear, x)
    if plain is None or plain[1] is not None or residual.dtype != x.dtype or not residual.is_contiguous():
        return linear(x) + residual
    residual.view(-1, residual.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), plain[0].t())
    return residual
