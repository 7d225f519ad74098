"""The root-mean-square norm in front of a decode step's product."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from subquad.ops import _checks
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
