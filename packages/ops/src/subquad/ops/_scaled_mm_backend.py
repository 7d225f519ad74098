"""The one file that knows ``torch._scaled_mm``, torch's product of 8-bit floating-point matrices."""

import functools
import importlib.util
import math

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops._capability import capability, none_usable, on_each_device
from subquad.ops._devices import on_its_device
from subquad.ops.dispatch import Call, Implementation, runs_plainly
from subquad.ops.fp8_linear.e4m3 import E4M3, RoundedRows, round_to_e4m3, row_scales
from subquad.ops.fp8_linear.fp8_linear import as_codes, inverse_of, result_dtype, values_of

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
    return none_usable(_device_refusal)


def _device_refusal(index: int) -> str | None:
    found = capability(index)
    if found < _OLDEST_CAPABILITY:
        return f"the GPU has compute capability {found[0]}.{found[1]}; accepted: 9.0 and later"
    return None


def implementations() -> tuple[Implementation, ...]:
    """Offers fp8_linear."""
    refusal = on_each_device(_device_refusal, _refusal)
    return (Implementation("scaled_mm", "fp8_linear", refusal, _fp8_linear, plainly=_fp8_linear),)


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
    """Multiplies with the scales applied inside; zeros fill every axis up to a multiple of 16, as the kernel wants."""
    if isinstance(x, RoundedRows):
        y = _fitting(x, weight, weight_inverse, bias, layout, dtype or torch.float32)
        if y is not None:
            return y
    *outer, channels = values_of(x).shape
    if isinstance(x, RoundedRows):
        codes, inverse = _aligned(x.codes.reshape(-1, channels)), _down_to(x.inverse.reshape(-1, 1))
    else:
        codes, inverse = _rounded(x.reshape(-1, channels), input_scale)
    kind, of_weight = result_dtype(x, dtype), inverse_of(weight_scale, weight_inverse)
    weights = _aligned(as_codes(weight, weight_scale))
    if inverse.dim() or of_weight.dim():  # the product takes one scale each, or one a row each
        inverse = inverse.expand(len(codes), 1).contiguous()
        of_weight = _down_to(of_weight.expand(len(weight))[:, None]).contiguous()
    if layout == "BHL" and outer[0] == 1:  # the weight on the left makes rows as long as the sequence, without a copy
        product = _product(weights, codes, of_weight, inverse, None, kind)[: len(weight), : outer[1]]
        return (product if bias is None else product + bias[:, None]).to(kind)[None]
    own_bias = bias is not None and bias.dtype == kind and kind != torch.float32 and len(weights) == len(weight)
    product = _product(codes, weights, inverse, of_weight, bias if own_bias else None, kind)
    y = product[: math.prod(outer), : len(weight)]
    if bias is not None and not own_bias:
        y = (y + bias).to(kind)
    y = y.reshape(*outer, len(weight))
    return y if layout == "BLH" else y.transpose(1, 2)


def _fitting(
    x: RoundedRows, weight: Tensor, weight_inverse: Tensor | None, bias: Tensor | None, layout: str, kind: torch.dtype
) -> Tensor | None:
    """Does what ``_fp8_linear`` does in as few views as can be; None where something must be made or aligned first."""
    codes, inverse = x
    shape, outputs = codes.shape, weight.shape[0]
    channels = shape[-1]
    if (
        weight_inverse is None
        or (channels | codes.numel() // channels | outputs) % _ALIGNMENT
        or weight.dtype != E4M3
        or weight_inverse.dim() != 1
        or not (codes.is_contiguous() and inverse.is_contiguous())
        or not (weight.is_contiguous() and weight_inverse.is_contiguous())
    ):
        return None
    of_weight, rows, inverse = weight_inverse.unsqueeze(1), codes.view(-1, channels), inverse.view(-1, 1)
    if layout == "BHL" and shape[0] == 1:
        product = _product(weight, rows, of_weight, inverse, None, kind)
        return (product if bias is None else (product + bias[:, None]).to(kind)).unsqueeze(0)
    own_bias = bias is not None and bias.dtype == kind and kind != torch.float32
    product = _product(rows, weight, inverse, of_weight, bias if own_bias else None, kind)
    if bias is not None and not own_bias:
        product = (product + bias).to(kind)
    y = product.view(*shape[:-1], outputs)
    return y if layout == "BLH" else y.transpose(1, 2)


def _product(
    left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, bias: Tensor | None, kind: torch.dtype
) -> Tensor:
    """Computes ``left @ right.T``, each row of either times its scale."""
    return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        left,
        right.t(),
        scale_a=left_scale,
        scale_b=right_scale.t() if right_scale.dim() else right_scale,
        bias=bias,
        out_dtype=kind,
        use_fast_accum=True,
    )


def _down_to(inverse: Tensor) -> Tensor:
    """Appends inverse scales for the rows of zeros that an alignment adds."""
    missing = -len(inverse) % _ALIGNMENT  # to pad by nothing is to copy
    return functional.pad(inverse, (0, 0, 0, missing), value=1.0) if missing else inverse


@on_its_device  # for Triton's sake
def _rounded(rows: Tensor, input_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the aligned codes of rows, and the inverse of their scale or scales."""
    if _has_triton() and rows.shape[1] <= _MOST_CHANNELS:
        from subquad.ops.fp8_linear.triton.launch import round_rows, round_rows_triton

        run = round_rows if runs_plainly(rows) else round_rows_triton
        codes, inverse = run(rows if rows.stride(1) == 1 else rows.contiguous(), input_scale)
        return codes, inverse if input_scale is None else input_scale.reciprocal()
    scale = row_scales(rows) if input_scale is None else input_scale
    codes, inverse = _aligned(round_to_e4m3(rows, scale)), scale.reciprocal()
    return codes, _down_to(inverse) if inverse.dim() else inverse


def _aligned(matrix: Tensor) -> Tensor:
    rows, columns = (-size % _ALIGNMENT for size in matrix.shape)
    if not rows and not columns:
        return matrix.contiguous()
    padded = functional.pad(matrix.view(torch.uint8), (0, columns, 0, rows))  # the byte 0 is the number 0
    return padded.view(matrix.dtype)
