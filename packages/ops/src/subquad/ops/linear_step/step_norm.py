"""The root-mean-square norm in front of a decode step's product."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from subquad.ops import _checks
from subquad.ops._rows_on_host import host_takes_rows
from subquad.ops.errors import ArgumentOutOfRange

_FORMS = ("vortex", "standard")


class StepNorm(NamedTuple):
    """``scale * x / (sqrt(mean(x ** 2)) + eps)`` (``"vortex"``) or ``scale * x / sqrt(mean(x ** 2) + eps)``."""

    scale: Tensor  # [input]
    eps: float
    form: Literal["vortex", "standard"]


def check_norm(norm: StepNorm | None, x: Tensor) -> None:
    """Raises unless a norm fits the vectors ``[batch, input]``."""
    if norm is None:
        return
    _checks.shaped("norm.scale", norm.scale, (x.shape[1],), x)
    _checks.one_of("norm.form", norm.form, _FORMS)
    if norm.eps <= 0:
        raise ArgumentOutOfRange(f"norm.eps is {norm.eps}; it must be positive")


def normalised(x: Tensor, norm: StepNorm | None) -> Tensor:
    """Normalises ``[batch, input]`` in float32 at least; the result has the type of x."""
    if norm is None:
        return x
    wide = x.to(_checks.accumulation_dtype(x))
    root = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).div_(x.shape[1] ** 0.5)
    root = root.add_(norm.eps) if norm.form == "vortex" else root.square_().add_(norm.eps).sqrt_()
    return (wide / root).mul_(norm.scale.to(wide.dtype)).to(x.dtype)


def prepare_norm(x: Tensor, norm: StepNorm | None) -> Callable[[Tensor], Tensor]:
    """Returns ``normalised`` as a function of vectors like x; one row on the host has its root taken there.

    That saves operations, each of which takes several times as long behind a product that has emptied the caches.
    """
    if norm is None or x.shape[0] != 1 or not host_takes_rows(x, norm.scale):
        return partial(normalised, norm=norm)
    scale, eps, size, is_vortex = norm.scale, norm.eps, x.shape[1], norm.form == "vortex"

    def one_row(x: Tensor) -> Tensor:
        row = x.squeeze(0)
        square = torch.dot(row, row).item() / size
        root = math.sqrt(square) + eps if is_vortex else math.sqrt(square + eps)
        return torch.mul(x, scale).mul_(1 / root)

    return one_row
