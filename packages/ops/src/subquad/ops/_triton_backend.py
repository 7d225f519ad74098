"""Which calls the Triton kernels take. They are imported, and Triton with them, on the first call that may take one.

Environment: ``TRITON_INTERPRET=1`` runs them on the CPU, slowly, for tests.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from subquad.ops._capability import capability, none_usable, on_each_device
from subquad.ops._environment import settings
from subquad.ops.dispatch import Call, Implementation

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_OLDEST_CAPABILITY, _OLDEST_E4M3 = (8, 0), (8, 9)
_MOST_PROJECTION_TAPS = 8  # unrolled for each tile of the mixer: 16 compile for one and a half minutes
_MOST_SAMPLES = 2**31 - 2**16  # a kernel's last tile, too, has to be numbered in 32 bits


@torch.compiler.assume_constant_result
def interpreting() -> bool:
    """Says whether Triton runs its kernels in Python on the CPU."""
    return settings().triton_interpreted


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Says why no Triton kernel can run here, or None."""
    return _missing(interpreting())


@functools.cache
def _missing(interpreted: bool) -> str | None:
    """Answers for one process; asking the import system at each call would cost as much as a kernel."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install triton (Linux wheels of torch for CUDA bring it)"
    if interpreted:
        return None
    return none_usable(_device_refusal)


def _device_refusal(index: int) -> str | None:
    found = capability(index)
    if found < _OLDEST_CAPABILITY:
        return f"the GPU has compute capability {found[0]}.{found[1]}; accepted: 8.0 and later"
    return None


def _refusal(call: Call) -> str | None:
    if call.device != ("cpu" if interpreting() else "cuda"):
        return f"the tensors are on {call.device}; accepted: cuda"
    if call.dtype not in _DTYPES:
        return f"dtype {str(call.dtype)[6:]}; accepted: float32, bfloat16, float16"
    if call.batch * call.channels * call.length == 0:
        return "the call is empty"
    if call.batch > 65535 or call.channels > 65535:
        return f"batch {call.batch}, {call.channels} channels; accepted: up to 65535 each"
    if call.length > _MOST_SAMPLES:
        return f"length {call.length}; accepted: up to {_MOST_SAMPLES}"
    if call.projection_taps > _MOST_PROJECTION_TAPS:
        return f"{call.projection_taps} projection taps; accepted: 1 to {_MOST_PROJECTION_TAPS}"
    return None


def _filter_refusal(call: Call) -> str | None:
    from subquad.ops.causal_conv.triton.launch import MOST_TAPS

    if call.taps > MOST_TAPS:
        return f"{call.taps} taps; accepted: 1 to {MOST_TAPS}"
    if "cu_seqlens" in call.options:
        return "cu_seqlens; accepted: sequences of one length"
    return _refusal(call)


def _modal_refusal(call: Call) -> str | None:
    from subquad.ops.gated_modal_conv.triton.launch import MOST_STATES

    if call.taps > MOST_STATES:
        return f"{call.taps} states; accepted: 1 to {MOST_STATES}"
    return _refusal(call)


def _norm_refusal(call: Call) -> str | None:
    from subquad.ops.rms_norm.triton.launch import MOST_CHANNELS

    if call.channels > MOST_CHANNELS:
        return f"{call.channels} channels; accepted: 1 to {MOST_CHANNELS}"
    return _refusal(call)


def _product_refusal(call: Call) -> str | None:
    from subquad.ops.linear_step.triton.launch import MOST_ROWS, MOST_STREAMED_ROWS

    most = MOST_ROWS if call.dtype != torch.float32 else MOST_STREAMED_ROWS
    if call.batch > most:
        return f"{call.batch} rows of {str(call.dtype)[6:]}; accepted: up to {most}"
    return _e4m3_refusal(call) if "rounded weight" in call.options else _refusal(call)


def _e4m3_refusal(call: Call) -> str | None:
    if call.device == "cuda" and not interpreting() and capability(call.index) < _OLDEST_E4M3:
        return "numbers of one byte; they want compute capability 8.9 or later"
    return _refusal(call)


def _rounded_rows_refusal(call: Call) -> str | None:
    from subquad.ops.rounded_rows.triton.launch import MOST_CHANNELS

    if call.channels > MOST_CHANNELS:
        return f"{call.channels} channels; accepted: 1 to {MOST_CHANNELS}"
    return _e4m3_refusal(call)


def _gated_step_refusal(call: Call) -> str | None:
    most = 128 if call.operator == "gated_conv_step" else 64
    if not 2 <= call.taps <= most or not 2 <= call.projection_taps <= 8:
        return (
            f"a mixer filter of {call.taps} and a projection filter of {call.projection_taps}; accepted: 2 to {most} "
            "and 2 to 8"
        )
    return _product_refusal(call) if "projection" in call.options else _refusal(call)


def _attention_refusal(call: Call) -> str | None:
    from subquad.ops.attention_step.attention_step import GAPS

    if call.taps & (call.taps - 1) or call.taps > 256:
        return f"heads of size {call.taps}; accepted: powers of two up to 256"
    if GAPS in call.options:
        return f"{GAPS}; accepted: contiguous ones"
    return _refusal(call)


def _greedy_refusal(call: Call) -> str | None:
    from subquad.ops.greedy_step.triton.launch import MOST_TOKENS

    if call.taps > MOST_TOKENS:
        return f"a vocabulary of {call.taps}; accepted: up to {MOST_TOKENS}"
    return _refusal(call)


def _scan_refusal(call: Call) -> str | None:
    from subquad.ops.selective_scan.selective_scan import FAR_WEIGHTS
    from subquad.ops.selective_scan.triton.launch import MOST_STATES

    if FAR_WEIGHTS in call.options:
        return f"{FAR_WEIGHTS}; accepted: nearer ones"
    if call.taps > MOST_STATES:
        return f"{call.taps} states; accepted: up to {MOST_STATES}"
    return _refusal(call)


def implementations() -> tuple[Implementation, ...]:
    """Lists the operators that have a Triton kernel; to be called only where unavailable() is None."""
    from subquad.ops.attention_step.triton.launch import run as attention_step
    from subquad.ops.causal_conv.triton.launch import run as causal_conv
    from subquad.ops.fir_step.triton.launch import run as fir_step
    from subquad.ops.gated_conv.triton.launch import run as gated_conv
    from subquad.ops.gated_conv_step.triton.launch import run as gated_conv_step
    from subquad.ops.gated_linear_step.triton.launch import run as gated_linear_step
    from subquad.ops.gated_modal_conv.triton.launch import run as gated_modal_conv
    from subquad.ops.gated_modal_step.triton.launch import run as gated_modal_step
    from subquad.ops.gated_product.triton.launch import run as gated_product
    from subquad.ops.greedy_step.triton.launch import run as greedy_step
    from subquad.ops.linear_step.triton.launch import run as linear_step
    from subquad.ops.modal_conv.triton.launch import run as modal_conv
    from subquad.ops.modal_step.triton.launch import run as modal_step
    from subquad.ops.rms_norm.triton.launch import run as rms_norm
    from subquad.ops.rotary.triton.launch import run as rotary
    from subquad.ops.rounded_rows.triton.launch import run as rounded_rows
    from subquad.ops.selective_scan.triton.launch import run as selective_scan

    offered: list[tuple[str, Callable[[Call], str | None], Callable[..., Any]]] = [
        ("attention_step", _attention_refusal, attention_step),
        ("causal_conv", _filter_refusal, causal_conv),
        ("fir_step", _filter_refusal, fir_step),
        ("gated_conv", _filter_refusal, gated_conv),
        ("gated_conv_step", _gated_step_refusal, gated_conv_step),
        ("gated_linear_step", _product_refusal, gated_linear_step),
        ("gated_modal_conv", _modal_refusal, gated_modal_conv),
        ("gated_product", _refusal, gated_product),
        ("gated_modal_step", _gated_step_refusal, gated_modal_step),
        ("greedy_step", _greedy_refusal, greedy_step),
        ("linear_step", _product_refusal, linear_step),
        ("modal_conv", _modal_refusal, modal_conv),
        ("modal_step", _modal_refusal, modal_step),
        ("rms_norm", _norm_refusal, rms_norm),
        ("rotary", _refusal, rotary),
        ("rounded_rows", _rounded_rows_refusal, rounded_rows),
        ("selective_scan", _scan_refusal, selective_scan),
    ]
    return tuple(
        Implementation("triton", name, on_each_device(_device_refusal, refusal), run) for name, refusal, run in offered
    )
