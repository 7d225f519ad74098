"""The one file that knows mamba_ssm: its selective scan, which is the best-kept one on CUDA.

Install with ``pip install mamba-ssm``; it has to be built for the installed torch.
"""

import importlib
import importlib.util

import torch
from torch import Tensor

from subquad.ops.dispatch import Call, Implementation

_MODULE = "mamba_ssm"
_INTERFACE = "mamba_ssm.ops.selective_scan_interface"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_STATES = 256


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Says why mamba_ssm cannot run here, or None."""
    if importlib.util.find_spec(_MODULE) is None:
        return f"{_MODULE} is not installed; pip install mamba-ssm"
    return None if torch.cuda.is_available() else "there is no CUDA device"


def _refusal(call: Call) -> str | None:
    if call.device != "cuda":
        return f"the tensors are on {call.device}; accepted: cuda"
    if call.dtype not in _DTYPES:
        return f"dtype {str(call.dtype)[6:]}; accepted: {', '.join(str(d)[6:] for d in _DTYPES)}"
    if call.taps > _MOST_STATES:
        return f"{call.taps} states; accepted: up to {_MOST_STATES}"
    if not call.batch * call.channels * call.length:
        return "an empty sequence; accepted: one sample or more"
    if "initial_state" in call.options:
        return "an initial state, or chunks that go on from one; accepted: none"
    if "final_state" in call.options and call.gradient:
        return "the final state is kept and a gradient wanted, which would leave it out; accepted: one of the two"
    return "a CUDA graph is being captured; the library may allocate inside" if call.capturing else None


def _selective_scan(
    x: Tensor,
    step_size: Tensor,
    decay: Tensor,
    input_weights: Tensor,
    output_weights: Tensor,
    *,
    skip: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    assert initial_state is None
    scan = importlib.import_module(_INTERFACE).selective_scan_fn
    streams = [t.to(x.dtype) for t in (step_size, input_weights, output_weights)]
    factor = None if skip is None else skip.float()
    return scan(x, streams[0], decay.float(), streams[1], streams[2], factor, return_last_state=True)


def implementations() -> tuple[Implementation, ...]:
    """Lists the operators that mamba_ssm can take; to be called only where unavailable() is None."""
    return (Implementation("mamba", "selective_scan", _refusal, _selective_scan),)
