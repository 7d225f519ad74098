"""The one file that knows ``torch._scaled_mm``, torch's product of 8-bit floating-point matrices."""

import functools
import importlib.util

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops.dispatch import Call, Implementation, runs_plainly
from subquad.ops.fp8_linear.e4m3 import round_to_e4m3, row_scales
from subquad.ops.fp8_linear.fp8_linear import as_codes

_OLDEST_CAPABILITY = (9, 0)
_ALIGNMENT = 16
_OUTPUTS = (torch.bfloat16, torch.float16, torch.float32)
_MOST_CHANNELS = 32768  # of the Triton kernel that rounds


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Says why 8-bit products cannot run here, or None."""
    return _unavailable()


@functools.cache
def _unavailable() -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < _OLDEST_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}; accepted: 9.0 and later"
    return None


def implementations() -> tuple[Implementation, ...]:
    """Offers fp8_linear."""
    return (Implementation("scaled_mm", "fp8_linear", _refusal, _fp8_linear),)


@torch.compiler.assume_constant_result
def _has_triton() -> bool:
    return _finds_triton()


@functools.cache
def _finds_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _refusal(call: Call) -> str | None:
    if call.device != "cuda":
        return f"the tensors are on {call.device}; accepted: cuda"
    if "row scales" in call.options and call.dtype != torch.bfloat16:
        return f"scales of rows and dtype {str(call.dtype)[6:]}; accepted: bfloat16, or one scale each"
    if call.dtype not in _OUTPUTS:
        return f"dtype {str(call.dtype)[6:]}; accepted: bfloat16, float16, float32"
    if not call.length * call.channels:
        return "the call is empty"
    return None


def _fp8_linear(x: Tensor, weight: Tensor, *, input_scale: Tensor | None, weight_scale: Tensor) -> Tensor:
    """Multiplies with the scales applied inside; zeros fill every axis up to a multiple of 16, as the kernel wants."""
    rows = x.reshape(-1, x.shape[-1])
    codes, inverse = _rounded(rows, input_scale)
    weights = _aligned(as_codes(weight, weight_scale))
    of_weight = weight_scale.reciprocal()
    if inverse.dim() or of_weight.dim():  # the product takes one scale each, or one a row each
        inverse = inverse.expand(len(codes), 1).contiguous()
        of_weight = functional.pad(of_weight.expand(len(weight)), (0, len(weights) - len(weight)), value=1.0)[None]
    product = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        codes,
        weights.t(),
        scale_a=inverse,
        scale_b=of_weight,
        out_dtype=x.dtype,
        use_fast_accum=True,
    )
    return product[: len(rows), : len(weight)].reshape(*x.shape[:-1], len(weight))


def _rounded(rows: Tensor, input_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the aligned codes of rows, and the inverse of their scale or scales."""
    if _has_triton() and rows.shape[1] <= _MOST_CHANNELS:
        from subquad.ops.fp8_linear.triton.launch import round_rows, round_rows_triton

        run = round_rows if runs_plainly(rows) else round_rows_triton
        codes, inverse = run(rows if rows.stride(1) == 1 else rows.contiguous(), input_scale)
        return codes, inverse if input_scale is None else input_scale.reciprocal()
    scale = row_scales(rows) if input_scale is None else input_scale
    codes, inverse = _aligned(round_to_e4m3(rows, scale)), scale.reciprocal()
    if inverse.dim():
        inverse = functional.pad(inverse, (0, 0, 0, len(codes) - len(rows)), value=1.0)
    return codes, inverse


def _aligned(matrix: Tensor) -> Tensor:
    rows, columns = (-size % _ALIGNMENT for size in matrix.shape)
    if not rows and not columns:
        return matrix.contiguous()
    padded = functional.pad(matrix.view(torch.uint8), (0, columns, 0, rows))  # the byte 0 is the number 0
    return padded.view(matrix.dtype)
