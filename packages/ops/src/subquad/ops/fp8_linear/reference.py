"""The definition of fp8_linear in float64, with a rounding to E4M3 of its own."""

import torch
from torch import Tensor


def e4m3_reference(x: Tensor, scale: Tensor) -> Tensor:
    """Returns ``x * scale`` (a float32 product) as the nearest E4M3 number, in float64.

    With ``e = floor(log2 |v|)``, at least -6, neighbours are ``2 ** (e - 3)`` apart; ties go to the even multiple.
    """
    product = (x.float() * scale.float()).double()
    exponent = torch.frexp(product.abs())[1] - 1
    spacing = torch.ldexp(torch.ones_like(product), exponent.clamp(min=-6) - 3)
    return ((product / spacing).round() * spacing).clamp(-448, 448)


def fp8_linear_reference(x: Tensor, weight: Tensor, input_scale: Tensor | None, weight_scale: Tensor) -> Tensor:
    """Returns the float64 product of the rounded input and the rounded weight, each divided by its scale.

    Without ``input_scale`` every row of x is scaled by 448 over its largest number, a float32 quotient.
    """
    if input_scale is None:
        largest = x.abs().amax(dim=-1, keepdim=True).float()
        input_scale = torch.full_like(largest, 448) / largest
    by_row = weight_scale[:, None] if weight_scale.dim() else weight_scale
    rounded = e4m3_reference(x, input_scale) @ e4m3_reference(weight, by_row).t()
    return rounded / (input_scale.double() * weight_scale.double())
