"""A weight matrix of one byte a number, in the place of one in the type of the vectors."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from subquad.ops import _checks
from subquad.ops.errors import DtypeMismatch, ShapeMismatch
from subquad.ops.fp8_linear.e4m3 import E4M3


class RoundedWeight(NamedTuple):
    """``weight = codes / scale[:, None]``: what ``round_to_e4m3(weight, scale[:, None])`` made of a trained matrix."""

    codes: Tensor  # [output, input] in float8_e4m3fn
    scale: Tensor  # [output] in float32


def matrix_of(weight: Tensor | RoundedWeight) -> Tensor:
    """Returns the numbers that lie in memory."""
    return weight.codes if isinstance(weight, RoundedWeight) else weight


def scale_of(weight: Tensor | RoundedWeight) -> Tensor | None:
    """Returns what each row was multiplied by, or None."""
    return weight.scale if isinstance(weight, RoundedWeight) else None


def check_rounded(weight: RoundedWeight, name: str) -> None:
    """Raises unless codes and scales fit each other."""
    codes, scale = weight
    if codes.dtype != E4M3:
        raise DtypeMismatch(f"{name}.codes is {codes.dtype}; accepted: {E4M3}")
    if scale.shape != codes.shape[:1]:
        raise ShapeMismatch(f"{name}.scale has shape {tuple(scale.shape)}; codes {tuple(codes.shape)} need one a row")
    _checks.same_device(f"{name}.scale", scale, f"{name}.codes", codes)


def product_in_torch(x: Tensor, weight: Tensor | RoundedWeight, bias: Tensor | None = None) -> Tensor:
    """Returns ``weight @ x + bias`` of each row of x in plain torch; sums of rounded weights are taken in float32."""
    if not isinstance(weight, RoundedWeight):
        if bias is None or bias.dtype == x.dtype:
            return functional.linear(x, weight, bias)
        return (functional.linear(x, weight) + bias).to(x.dtype)
    wide = x.to(_checks.accumulation_dtype(x))
    y = functional.linear(wide, weight.codes.to(wide.dtype)) / weight.scale.to(wide.dtype)
    return (y if bias is None else y + bias.to(wide.dtype)).to(x.dtype)
