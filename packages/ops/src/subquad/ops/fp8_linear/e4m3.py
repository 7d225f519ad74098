"""Rounding to E4M3: four bits of exponent, three of mantissa, largest number 448, no infinity."""

from typing import NamedTuple

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0


class RoundedRows(NamedTuple):
    """``rows = codes * inverse[..., None]``: what ``fp8_linear`` takes in the place of its input."""

    codes: Tensor  # [..., channel] in float8_e4m3fn
    inverse: Tensor  # [...] in float32: one over the scale of each row


def round_to_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    """Computes ``e4m3(x * scale)``: the product in float32, to nearest even, what is too large becomes 448.

    Args:
      x: any floating-point tensor.
      scale: positive float32 numbers on the device of x that broadcast with it, usually one, or one a row ``[row, 1]``.

    Returns:
      A ``torch.float8_e4m3fn`` tensor of the shape of x; NaN stays NaN.
    """
    return (x.float() * scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def row_scales(x: Tensor) -> Tensor:
    """Returns for each row of x the scale that makes its largest number 448, ``[..., 1]`` in float32; 1 for zeros."""
    largest = x.abs().amax(dim=-1, keepdim=True).float()
    quotient = torch.full_like(largest, E4M3_MAX) / largest  # a number over a tensor would be rounded twice
    return torch.where(largest > 0, quotient, 1.0)
