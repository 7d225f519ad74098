"""Which calls the CUDA kernel library of this package takes."""

from typing import Any

import torch
from torch import Tensor

from subquad.ops._cuda_library import MAX_TAP, MIN_TAP, load_cuda_library
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.dispatch import Call, Implementation
from subquad.ops.errors import BackendUnavailable

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Says why no kernel of the library can run here, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        load_cuda_library()
    except BackendUnavailable as error:
        return str(error)
    return None


def _refusal(call: Call) -> str | None:
    if call.device != "cuda":
        return f"the tensors are on {call.device}; accepted: cuda"
    if call.dtype not in _DTYPES:
        return f"dtype {str(call.dtype)[6:]}; accepted: float32, bfloat16, float16"
    if not MIN_TAP <= call.taps <= MAX_TAP:
        return f"{call.taps} taps; accepted: {MIN_TAP} to {MAX_TAP}"
    if call.gradient:
        return "a gradient is wanted; the library has forward kernels only"
    if "cu_seqlens" in call.options:
        return "cu_seqlens; accepted: sequences of one length"
    return None


def _causal_conv(
    x: Tensor, taps: Tensor, *, activation: Any, initial_state: Tensor | None, bias: Tensor | None, skip: Tensor | None
) -> tuple[Tensor, Tensor]:
    y = load_cuda_library().causal_fir(
        x, taps, bias=bias, skip=skip, initial_state=initial_state, activation=activation
    )
    return y, next_history(x, taps.shape[1] - 1, initial_state)


def implementations() -> tuple[Implementation, ...]:
    """Lists the operators that have a kernel in the library; to be called only where unavailable() is None."""
    return (Implementation("cuda", "causal_conv", _refusal, _causal_conv),)
