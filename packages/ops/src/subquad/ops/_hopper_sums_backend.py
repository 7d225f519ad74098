"""fp8_linear with the sums of Hopper's tensor cores, on any device."""

import torch
from torch import Tensor

from subquad.ops.dispatch import Call, Implementation
from subquad.ops.fp8_linear.e4m3 import RoundedRows
from subquad.ops.fp8_linear.fp8_linear import as_codes, finished, inverse_of, rounded_input
from subquad.ops.fp8_linear.hopper_sums import hopper_product


def unavailable() -> str | None:
    """Says why it cannot run here: it always can."""
    return None


def implementations() -> tuple[Implementation, ...]:
    """Offers fp8_linear."""
    return (Implementation("hopper_sums", "fp8_linear", _refusal, _fp8_linear),)


def _refusal(call: Call) -> str | None:
    return f"dtype {str(call.dtype)[6:]}; its sums have 14 bits" if call.dtype == torch.float64 else None


def _fp8_linear(
    x: Tensor | RoundedRows,
    weight: Tensor,
    *,
    input_scale: Tensor | None,
    weight_scale: Tensor,
    weight_inverse: Tensor | None = None,
    bias: Tensor | None = None,
    layout: str = "BLH",
    dtype: torch.dtype | None = None,
) -> Tensor:
    codes, inverse = rounded_input(x, input_scale)
    y = hopper_product(codes, as_codes(weight, weight_scale))
    return finished(y * (inverse * inverse_of(weight_scale, weight_inverse)), x, bias, layout, dtype)
