"""The one file that knows ``torch._scaled_mm``, torch's product of 8-bit floating-point matrices."""

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops.dispatch import Call, Implementation
from subquad.ops.fp8_linear.e4m3 import round_to_e4m3
from subquad.ops.fp8_linear.fp8_linear import as_codes

_OLDEST_CAPABILITY = (9, 0)
_ALIGNMENT = 16
_OUTPUTS = (torch.bfloat16, torch.float16, torch.float32)


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Says why 8-bit products cannot run here, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < _OLDEST_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}; accepted: 9.0 and later"
    return None


def implementations() -> tuple[Implementation, ...]:
    """Offers fp8_linear."""
    return (Implementation("scaled_mm", "fp8_linear", _refusal, _fp8_linear),)


def _refusal(call: Call) -> str | None:
    if call.device != "cuda":
        return f"the tensors are on {call.device}; accepted: cuda"
    if call.dtype not in _OUTPUTS:
        return f"dtype {str(call.dtype)[6:]}; accepted: bfloat16, float16, float32"
    if not call.length * call.channels:
        return "the call is empty"
    return None


def _fp8_linear(x: Tensor, weight: Tensor, *, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Multiplies with the scales applied inside; zeros fill every axis up to a multiple of 16, as the kernel wants."""
    codes = round_to_e4m3(x.reshape(-1, x.shape[-1]), input_scale)
    weights = as_codes(weight, weight_scale)
    product = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        _aligned(codes),
        _aligned(weights).t(),
        scale_a=input_scale.reciprocal(),
        scale_b=weight_scale.reciprocal(),
        out_dtype=x.dtype,
        use_fast_accum=True,
    )
    return product[: len(codes), : len(weights)].reshape(*x.shape[:-1], len(weights))


def _aligned(matrix: Tensor) -> Tensor:
    rows, columns = (-size % _ALIGNMENT for size in matrix.shape)
    if not rows and not columns:
        return matrix.contiguous()
    padded = functional.pad(matrix.view(torch.uint8), (0, columns, 0, rows))  # the byte 0 is the number 0
    return padded.view(matrix.dtype)
