"""Root-mean-square normalisation, alone or of a sum: the public functions."""

from typing import Literal, get_args

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops.axes import PerChannel, Rows
from subquad.ops.errors import ArgumentOutOfRange, ShapeMismatch

Form = Literal["standard", "vortex"]
_FORMS = get_args(Form)  # once: asking costs a microsecond


def rms_norm(x: Rows, scale: PerChannel, *, eps: float = 1e-6, form: Form = "standard", backend: str = "auto") -> Rows:
    """Divides each row by the root mean square of its channels.

    ``"standard"``: ``y = scale * x / sqrt(mean(x ** 2) + eps)``; ``"vortex"``: ``y = scale * x / (sqrt(mean(x ** 2)) +
    eps)``, as the reference engine of Evo 2 has it.

    Args:
      x: ``[..., channel]``.
      scale: factor ``[channel]``, in any float dtype.
      eps: keeps the quotient finite; 0 or more.
      form: where ``eps`` is added.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[..., channel]`` in the dtype of x; statistics and product are float32 (float64 for float64), rounded once.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    return _run(x, None, scale, eps, form, backend)[0]


def rms_norm_of_sum(
    x: Rows, addend: Rows, scale: PerChannel, *, eps: float = 1e-6, form: Form = "standard", backend: str = "auto"
) -> tuple[Rows, Rows]:
    """Adds two streams and normalises the sum, in one pass over both: a residual connection and the norm behind it.

    ``total = x + addend``; ``y = rms_norm(total)``

    Args:
      x: ``[..., channel]``.
      addend: like x, in any float dtype.
      scale, eps, form, backend: as in rms_norm.

    Returns:
      y and total, both in the dtype of x. y is made from the sum before it is rounded.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    _checks.shaped("addend", addend, tuple(x.shape), x)
    return _run(x, addend, scale, eps, form, backend)


def _run(
    x: Tensor, addend: Tensor | None, scale: Tensor, eps: float, form: Form, backend: str
) -> tuple[Tensor, Tensor]:
    _checks.floating("x", x)
    if x.dim() < 1:
        raise ShapeMismatch("x has 0 axes; accepted: 1 or more, channels last")
    _checks.shaped("scale", scale, (x.shape[-1],), x)
    _checks.one_of("form", form, _FORMS)
    if not eps >= 0:
        raise ArgumentOutOfRange(f"eps is {eps}; accepted: 0 or more")
    chosen, _ = dispatch.choose(_describe(x, addend, scale), backend)
    run = compute_in_torch if chosen is None else chosen.run
    return run(x, addend, scale, eps=eps, form=form)


def describe(x: Tensor, scale: Tensor, *, eps: float = 1e-6, form: Form = "standard") -> dispatch.Call:
    """Describes a call to the dispatcher."""
    return _describe(x, None, scale)


def _describe(x: Tensor, addend: Tensor | None, scale: Tensor) -> dispatch.Call:
    channels = x.shape[-1]
    return dispatch.Call(
        operator="rms_norm",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=1,
        channels=channels,
        length=x.numel() // channels if channels else 0,
        taps=0,
        options=frozenset() if addend is None else frozenset({"addend"}),
        gradient=dispatch.gradient_wanted(x, addend, scale),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    x: Tensor, addend: Tensor | None, scale: Tensor, *, eps: float, form: str
) -> tuple[Tensor, Tensor]:
    """Computes the checked call in plain torch; returns y and the sum (x itself where there is no addend)."""
    wide = x.to(_checks.accumulation_dtype(x))
    if addend is not None:
        wide = wide + addend.to(wide.dtype)
    size = max(x.shape[-1], 1)
    if torch.is_grad_enabled() and (wide.requires_grad or scale.requires_grad):
        mean_square = wide.square().mean(dim=-1, keepdim=True)  # its gradient at 0 is finite, unlike that of a norm
    else:
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(size)
    y = wide / (mean_square.sqrt() + eps if form == "vortex" else torch.sqrt(mean_square + eps))
    factor = scale.to(wide.dtype)
    y = y * factor if y.requires_grad or factor.requires_grad else y.mul_(factor)
    return y.to(x.dtype), x if addend is None else wide.to(x.dtype)
