"""fp8_linear with the sums of Hopper's tensor cores, on any device."""

import torch
from torch import Tensor

from subquad.ops.dispatch import Call, Implementation
from subquad.ops.fp8_linear.e4m3 import round_to_e4m3, row_scales
from subquad.ops.fp8_linear.fp8_linear import as_codes
from subquad.ops.fp8_linear.hopper_sums import hopper_product


def unavailable() -> str | None:
    """Says why it cannot run here: it always can."""
    return None


def implementations() -> tuple[Implementation, ...]:
    """Offers fp8_linear."""
    return (Implementation("hopper_sums", "fp8_linear", _refusal, _fp8_linear),)


def _refusal(call: Call) -> str | None:
    return f"dtype {str(call.dtype)[6:]}; its sums have 14 bits" if call.dtype == torch.float64 else None


def _fp8_linear(x: Tensor, weight: Tensor, *, input_scale: Tensor | None, weight_scale: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    scale = row_scales(rows) if input_scale is None else input_scale
    y = hopper_product(round_to_e4m3(rows, scale), as_codes(weight, weight_scale))
    y = y * (scale.reciprocal() * weight_scale.reciprocal())
    return y.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])
