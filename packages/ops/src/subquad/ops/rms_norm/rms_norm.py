"""Root-mean-square normalisation, alone or of a sum: the public functions."""

from typing import Literal, get_args

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._blocks import widened_at_once
from subquad.ops._known_calls import implementation_for
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
    if addend is None:
        _checks.floating("addend", addend)
    return _run(x, addend, scale, eps, form, backend)


def _run(
    x: Tensor, addend: Tensor | None, scale: Tensor, eps: float, form: Form, backend: str
) -> tuple[Tensor, Tensor]:
    chosen = implementation_for(_decide, (x, addend, scale), eps, form, backend)
    run = compute_in_torch if chosen is None else chosen.run
    return run(x, addend, scale, eps=eps, form=form)


def _decide(
    x: Tensor, addend: Tensor | None, scale: Tensor, eps: float, form: Form, backend: str
) -> dispatch.Implementation | None:
    """Checks a call and chooses its implementation."""
    _checks.floating("x", x)
    if addend is not None:
        _checks.shaped("addend", addend, tuple(x.shape), x)
    if x.dim() < 1:
        raise ShapeMismatch("x has 0 axes; accepted: 1 or more, channels last")
    _checks.shaped("scale", scale, (x.shape[-1],), x, optional=False)
    _checks.one_of("form", form, _FORMS)
    if not eps >= 0:
        raise ArgumentOutOfRange(f"eps is {eps}; accepted: 0 or more")
    return dispatch.choose(_describe(x, addend, scale), backend)[0]


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
    rows = x.flatten(0, -2) if x.dim() > 1 else x[None]
    at_once = widened_at_once(rows, 0, addend, scale)
    if not at_once:
        wide = x.to(_checks.accumulation_dtype(x))
        wide = wide if addend is None else wide + addend.to(wide.dtype)
        return _normalised(wide, scale, eps, form).to(x.dtype), x if addend is None else wide.to(x.dtype)
    y, total = torch.empty_like(rows), x if addend is None else torch.empty_like(rows)
    others = None if addend is None else addend.flatten(0, -2)
    for first in range(0, rows.shape[0], at_once):
        own = slice(first, first + at_once)
        wide = rows[own].to(_checks.accumulation_dtype(x))
        if others is not None:
            total[own] = wide.add_(others[own])
        y[own] = _normalised(wide, scale, eps, form, out=wide)
    return y.view(x.shape), total.view(x.shape)


def _normalised(wide: Tensor, scale: Tensor, eps: float, form: str, out: Tensor | None = None) -> Tensor:
    """Normalises rows in the type of their statistics, in the memory of ``out`` if it is given."""
    size, factor = max(wide.shape[-1], 1), scale.to(wide.dtype)
    if torch.is_grad_enabled() and (wide.requires_grad or scale.requires_grad):
        mean_square = wide.square().mean(dim=-1, keepdim=True)  # its gradient at 0 is finite, unlike that of a norm
    else:
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(size)
    y = torch.div(wide, mean_square.sqrt() + eps if form == "vortex" else torch.sqrt(mean_square + eps), out=out)
    return y * factor if y.requires_grad or factor.requires_grad else y.mul_(factor)
