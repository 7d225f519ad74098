"""The C interface of the CUDA kernel library: ``packages/ops/csrc/subquad_ops_cuda.h`` as ctypes sees it."""

import ctypes

import torch
from torch import Tensor

ABI_VERSION = 8  # SUBQUAD_OPS_ABI_VERSION of the header
DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
E4M3_CODE = 3  # of weights alone
ACTIVATION_CODES = {"": 0, "silu": 1, "gelu": 2}

_POINTER, _LONG, _INTEGER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_ADDRESSES = ("input", "projection_taps", "projection_history", "skip", "bias", "output")
_SIZES = ("batch", "channel", "length", "batch_stride", "row_stride")
_CODES = (
    "dtype",
    "projection_dtype",
    "skip_dtype",
    "projection_tap",
    "pregate",
    "postgate",
    "activation",
    "tiles_a_warp",
)


class StreamArguments(ctypes.Structure):
    """``SubquadOpsStream``: the part of a call that the gated and the longer convolutions have in common."""

    _fields_ = (
        *((name, _POINTER) for name in _ADDRESSES),
        *((name, _LONG) for name in _SIZES),
        *((name, _INTEGER) for name in _CODES),
    )


class GradientArguments(ctypes.Structure):
    """``SubquadOpsGradients``: what the gradients of the gated and of the longer convolutions have in common."""

    _fields_ = tuple(
        (name, _POINTER)
        for name in ("upstream", "to_input", "to_projection_history", "to_projection", "to_skip", "to_bias")
    )


class ImagesArguments(ctypes.Structure):
    """``SubquadOpsImages``: one call of the two-dimensional FFT convolutions."""

    _fields_ = (
        *((name, _POINTER) for name in ("input", "other", "spectrum", "skip", "output")),
        *((name, _LONG) for name in ("batch", "channel")),
        *((name, _INTEGER * 4) for name in ("height", "width", "other_height", "other_width")),
        *((name, _INTEGER) for name in ("size", "dtype", "skip_dtype", "per_sample", "conjugate", "parts")),
        ("scratch_images", _INTEGER),
        ("scratch", _POINTER),
    )


class ProductArguments(ctypes.Structure):
    """``SubquadOpsProduct``: the product of a decode step."""

    _fields_ = (
        *((name, _POINTER) for name in ("vector", "norm_scale", "weight", "second", "weight_scale", "second_scale")),
        *((name, _LONG) for name in ("outputs", "inputs")),
        *((name, _INTEGER) for name in ("weight_dtype", "norm", "norm_dtype")),
        ("eps", ctypes.c_float),
    )


class StepFilterArguments(ctypes.Structure):
    """``SubquadOpsStepFilters``: what stands behind the product of a Hyena mixer's decode step."""

    _fields_ = (
        *((name, _POINTER) for name in ("projection_taps", "projection_ring", "first", "second", "memory", "skip")),
        *((name, _POINTER) for name in ("position", "active")),
        ("group", _LONG),
        *((name, _INTEGER) for name in ("projection_past", "size", "projection_dtype", "mixer_dtype", "skip_dtype")),
        ("position_bytes", _INTEGER),
    )


class AttentionArguments(ctypes.Structure):
    """``SubquadOpsAttention``: a decode step of rotary attention."""

    _fields_ = (
        *((name, _POINTER) for name in ("qkv", "keys", "values", "pages", "position", "inv_freq", "active")),
        *((name, _LONG) for name in ("batch", "heads", "pages_a_row")),
        *((name, _INTEGER) for name in ("size", "page_size", "page_bytes", "position_bytes")),
        ("position_scale", ctypes.c_float),
    )


class RowsArguments(ctypes.Structure):
    """``SubquadOpsRows``: one call of a kernel over rows."""

    _fields_ = (
        *((name, _POINTER) for name in ("x", "other", "scale", "total", "output", "inverse")),
        *((name, _LONG) for name in ("rows", "channels", "x_stride", "other_stride")),
        *((name, _INTEGER) for name in ("dtype", "other_dtype", "scale_dtype", "norm", "activation")),
        ("eps", ctypes.c_float),
    )


class GatedLinearArguments(ctypes.Structure):
    """``SubquadOpsGatedLinear``: rows against two matrices."""

    _fields_ = (
        *((name, _POINTER) for name in ("x", "gate", "value")),
        *((name, _LONG) for name in ("rows", "inputs", "outputs", "x_stride")),
        ("activation", _INTEGER),
    )


class RotaryArguments(ctypes.Structure):
    """``SubquadOpsRotary``: one call of rotary position embedding."""

    _fields_ = (
        *((name, _POINTER) for name in ("x", "position", "inv_freq", "y", "keys", "values")),
        *((name, _LONG) for name in ("batch", "length", "heads", "half", "x_batch", "x_time", "x_head", "x_part")),
        *((name, _LONG) for name in ("position_batch", "position_time")),
        *((name, _LONG) for name in ("key_batch", "key_time", "key_head", "value_batch", "value_time", "value_head")),
        *((name, _INTEGER) for name in ("dtype", "key_dtype", "value_dtype", "position_bytes")),
        ("scale", ctypes.c_float),
    )


class FirStepArguments(ctypes.Structure):
    """``SubquadOpsFirStep``: a decode step of causal filters."""

    _fields_ = (
        *((name, _POINTER) for name in ("x", "taps", "ring", "position", "bias", "skip", "active", "output")),
        *((name, _LONG) for name in ("batch", "channels", "groups")),
        *((name, _INTEGER) for name in ("past", "dtype", "taps_dtype", "bias_dtype", "skip_dtype", "position_bytes")),
    )


class TurnArguments(ctypes.Structure):
    """``SubquadOpsTurn``: one turn of histories into rings, or back."""

    _fields_ = (
        *((name, _POINTER) for name in ("source", "target", "position")),
        *((name, _LONG) for name in ("batch", "channels", "past", "length")),
        *((name, _LONG) for name in ("source_batch", "source_channel", "source_slot")),
        *((name, _LONG) for name in ("target_batch", "target_channel", "target_slot")),
        *((name, _INTEGER) for name in ("source_dtype", "target_dtype", "position_bytes", "into_ring")),
    )


_ATTENTION = ctypes.POINTER(AttentionArguments)
_GATED_LINEAR, _FIR_STEP = ctypes.POINTER(GatedLinearArguments), ctypes.POINTER(FirStepArguments)
_ROWS, _ROTARY, _TURN = (ctypes.POINTER(each) for each in (RowsArguments, RotaryArguments, TurnArguments))
_PRODUCT, _STEP_FILTERS = ctypes.POINTER(ProductArguments), ctypes.POINTER(StepFilterArguments)
_STREAM, _IMAGES = ctypes.POINTER(StreamArguments), ctypes.POINTER(ImagesArguments)
_GRADIENTS = ctypes.POINTER(GradientArguments)
_SIGNATURES = {
    "subquad_ops_attention_step": [_ATTENTION, _POINTER, _POINTER],
    "subquad_ops_causal_fir": [*[_POINTER] * 6, *[_LONG] * 4, *[_INTEGER] * 4, _POINTER],
    "subquad_ops_fir_step": [_FIR_STEP, _POINTER],
    "subquad_ops_toeplitz": [_STREAM, *[_POINTER] * 3, _LONG, _LONG, _INTEGER, _INTEGER, _POINTER],
    "subquad_ops_toeplitz_backward": [
        *(_STREAM, _GRADIENTS),
        *[_POINTER] * 5,
        *(_LONG, _LONG, _INTEGER, _INTEGER, _POINTER),
    ],
    "subquad_ops_modal": [_STREAM, *[_POINTER] * 6, _INTEGER, _POINTER],
    "subquad_ops_modal_backward": [_STREAM, _GRADIENTS, *[_POINTER] * 7, _INTEGER, _POINTER],
    "subquad_ops_image_spectra": [_IMAGES, _POINTER],
    "subquad_ops_image_convolve": [_IMAGES, _POINTER],
    "subquad_ops_image_correlate": [_IMAGES, _POINTER],
    "subquad_ops_image_inverses": [_IMAGES, _POINTER],
    "subquad_ops_large_image_spectra": [_IMAGES, _POINTER],
    "subquad_ops_large_image_convolve": [_IMAGES, _POINTER],
    "subquad_ops_linear_step": [_PRODUCT, *[_POINTER] * 3, _INTEGER, _INTEGER, _POINTER],
    "subquad_ops_linear_rows": [_PRODUCT, _LONG, *[_POINTER] * 3, _INTEGER, _INTEGER, _POINTER],
    "subquad_ops_gated_linear_rows": [_PRODUCT, _LONG, _POINTER, _INTEGER, _POINTER],
    "subquad_ops_gated_linear": [_GATED_LINEAR, _POINTER, _POINTER],
    "subquad_ops_gated_linear_step": [_PRODUCT, _POINTER, _INTEGER, _POINTER],
    "subquad_ops_row_norm": [_ROWS, _POINTER],
    "subquad_ops_gated_product": [_ROWS, _POINTER],
    "subquad_ops_rounded_rows": [_ROWS, _POINTER],
    "subquad_ops_rounded_columns": [*[_POINTER] * 3, *[_LONG] * 5, _INTEGER, _POINTER],
    "subquad_ops_rotary": [_ROTARY, _POINTER],
    "subquad_ops_turn_ring": [_TURN, _POINTER],
    "subquad_ops_gated_step": [_PRODUCT, _STEP_FILTERS, _POINTER, _POINTER],
}


def declare(library: ctypes.CDLL) -> None:
    """Gives every function of the library its signature.

    Raises:
      AttributeError: the library lacks one.
    """
    library.subquad_ops_status_text.argtypes = [_INTEGER]
    library.subquad_ops_status_text.restype = ctypes.c_char_p
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, _INTEGER


def address(array: Tensor | None) -> int | None:
    """Returns where an array lies; a null pointer for None."""
    return None if array is None else array.data_ptr()
