"""Which calls the CUDA kernel library of this package takes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from subquad.ops._capability import capability, none_usable, on_each_device
from subquad.ops._cuda_interface import DTYPE_CODES
from subquad.ops._cuda_library import MAX_TAP, MIN_TAP, load_cuda_library
from subquad.ops._cuda_rows import MOST_BATCH, MOST_CHANNELS, MOST_PAST, MOST_UNALIGNED, PACK
from subquad.ops._cuda_steps import ATTENTION_SIZES, MOST_INPUTS_OF_ROWS, MOST_MODES, MOST_NORMED_INPUTS, MOST_RING
from subquad.ops._cuda_steps import MOST_PROJECTION_TAPS as MOST_PROJECTION_TAPS_OF_STEPS
from subquad.ops._cuda_streams import FEWEST_TAPS, MOST_PROJECTION_TAPS, MOST_STATES, MOST_TAPS
from subquad.ops.attention_step.attention_step import GAPS, PAGE_MULTIPLE, UNEVEN_PAGES
from subquad.ops.dispatch import Call, Implementation
from subquad.ops.errors import BackendUnavailable
from subquad.ops.fft_conv.placement import SIZES
from subquad.ops.linear_step.linear_step import OTHER_DTYPE

_STREAM_DTYPES = (torch.float32, torch.bfloat16)
_MOST_ROWS = 2**31 - 1
FEW_VECTORS = 8  # of a decode step
FEWEST_ROWS = 768  # of a gated pair of linear layers
FEW_INPUTS, FEWEST_ROWS_OF_FEW_INPUTS = 2048, 128


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Says why no kernel of the library can run here, or None."""
    problem = none_usable(_device_refusal)
    if problem is not None:
        return problem
    try:
        load_cuda_library()
    except BackendUnavailable as error:
        return str(error)
    return None


def _device_refusal(index: int) -> str | None:
    found = capability(index)
    if found[0] != 8 and found != (9, 0):
        return f"the GPU has compute capability {found[0]}.{found[1]}; accepted: 8.0 to 9.0"
    return None


def _refusal(call: Call) -> str | None:
    if call.device != "cuda":
        return f"the tensors are on {call.device}; accepted: cuda"
    if call.dtype not in _STREAM_DTYPES:
        return f"dtype {str(call.dtype)[6:]}; accepted: float32, bfloat16"
    if call.batch * call.channels * call.length == 0:
        return "the call is empty"
    if call.batch > 65535 or call.channels > 65535:
        return f"batch {call.batch}, {call.channels} channels; accepted: up to 65535 each"
    if call.projection_taps > MOST_PROJECTION_TAPS:
        return f"{call.projection_taps} projection taps; accepted: 1 to {MOST_PROJECTION_TAPS}"
    return None


def _filter_refusal(call: Call) -> str | None:
    if not FEWEST_TAPS <= call.taps <= MOST_TAPS:
        return f"{call.taps} taps; accepted: {FEWEST_TAPS} to {MOST_TAPS}"
    if "cu_seqlens" in call.options:
        return "cu_seqlens; accepted: sequences of one length"
    return _refusal(call)


def _causal_refusal(call: Call) -> str | None:
    if call.dtype == torch.float16 and MIN_TAP <= call.taps <= MAX_TAP and "activation" not in call.options:
        return _filter_refusal(replace(call, dtype=torch.bfloat16))  # the kernel of few taps takes all three dtypes
    return _filter_refusal(call)


def _modal_refusal(call: Call) -> str | None:
    if call.taps > MOST_STATES:
        return f"{call.taps} states; accepted: 1 to {MOST_STATES}"
    return _refusal(call)


def _image_refusal(call: Call) -> str | None:
    if "2d" not in call.options:
        return "not two axes; accepted: images"
    if call.transform == 0:
        return f"image and filter need a transform beyond {SIZES[-1]}; accepted: up to that along each axis"
    if call.device == "cuda" and capability(call.index) < (9, 0):
        return "the GPU has less shared memory a block than the kernel takes; accepted: compute capability 9.0"
    if call.dtype == torch.float16:
        return _refusal(replace(call, dtype=torch.bfloat16))
    return _refusal(call)


def _product_refusal(call: Call) -> str | None:
    most_rows = max(MOST_INPUTS_OF_ROWS)
    if call.dtype != torch.bfloat16 or call.batch > most_rows:
        return f"{call.batch} vectors of {str(call.dtype)[6:]}; accepted: up to {most_rows} of bfloat16"
    pack = 16 if "rounded weight" in call.options else 8
    most = next(inputs for rows, inputs in MOST_INPUTS_OF_ROWS.items() if call.batch <= rows)
    if call.batch == 1 and {"norm", "projection"} & call.options:
        most = MOST_NORMED_INPUTS
    if call.inputs % pack or not pack <= call.inputs <= most:
        return f"{call.inputs} inputs; accepted: multiples of {pack} up to {most}"
    if OTHER_DTYPE in call.options:
        return "residual, ring or state in another dtype than the kernel holds it in"
    if call.device == "cuda" and capability(call.index) < (9, 0):
        return "the GPU has no bulk copies; accepted: compute capability 9.0"
    return _refusal(replace(call, projection_taps=0))


def _several_vectors(call: Call) -> str | None:
    """Says why "auto" leaves several vectors to the kernels of Triton."""
    if call.batch <= FEW_VECTORS or "rounded weight" in call.options:
        return None
    return f"{call.batch} vectors; beyond {FEW_VECTORS} the next was faster with weights of two bytes"


def _fir_step_refusal(call: Call) -> str | None:
    if call.device != "cuda":
        return f"the tensors are on {call.device}; accepted: cuda"
    if call.dtype not in DTYPE_CODES:
        return f"dtype {str(call.dtype)[6:]}; accepted: float32, bfloat16, float16"
    if OTHER_DTYPE in call.options:
        return "a ring in another dtype than x"
    if not 2 <= call.taps <= MOST_PAST + 1:
        return f"{call.taps} taps; accepted: 2 to {MOST_PAST + 1}"
    if call.batch * call.channels == 0:
        return "the call is empty"
    return f"{call.batch} rows; accepted: up to {MOST_BATCH}" if call.batch > MOST_BATCH else None


def _gated_linear_refusal(call: Call) -> str | None:
    if call.dtype != torch.bfloat16:
        return f"dtype {str(call.dtype)[6:]}; accepted: bfloat16"
    if call.inputs % PACK or call.channels % PACK:
        return f"{call.inputs} inputs, {call.channels} outputs; accepted: multiples of {PACK}"
    refusal = _row_refusal(call) if call.inputs else "the call is empty"
    if refusal is None and capability(call.index) < (9, 0):
        return "the GPU has no tensor-core products of a warpgroup; accepted: compute capability 9.0"
    return refusal


def _few_rows(call: Call) -> str | None:
    """Says why "auto" leaves a gated pair to two products of cuBLAS."""
    fewest = FEWEST_ROWS_OF_FEW_INPUTS if call.inputs <= FEW_INPUTS else FEWEST_ROWS
    return f"{call.length} rows; two products were faster below {fewest}" if call.length < fewest else None


def _step_refusal(call: Call) -> str | None:
    if "projection" not in call.options:
        return "the rows are projected already; accepted: a step with its projection"
    if call.batch != 1:
        return f"{call.batch} vectors; accepted: one"
    modal = call.operator == "gated_modal_step"
    low, most = (1, MOST_MODES) if modal else (2, MOST_RING + 1)
    if not low <= call.taps <= most or not 2 <= call.projection_taps <= MOST_PROJECTION_TAPS_OF_STEPS:
        return (
            f"a mixer filter of {call.taps} and a projection filter of {call.projection_taps}; accepted: {low} to "
            f"{most} and 2 to {MOST_PROJECTION_TAPS_OF_STEPS}"
        )
    return _product_refusal(call)


def _attention_refusal(call: Call) -> str | None:
    if call.taps not in ATTENTION_SIZES:
        return f"heads of {call.taps}; accepted: {' or '.join(str(size) for size in ATTENTION_SIZES)}"
    if call.dtype != torch.bfloat16 or OTHER_DTYPE in call.options:
        return "qkv, keys or values in another dtype; accepted: bfloat16"
    if GAPS in call.options:
        return f"{GAPS}; accepted: contiguous ones"
    if UNEVEN_PAGES in call.options:
        return f"pages that are no multiple of {PAGE_MULTIPLE} tokens"
    if call.device == "cuda" and capability(call.index) < (9, 0):
        return "the GPU has no clusters of blocks; accepted: compute capability 9.0"
    return _refusal(call)


def _row_refusal(call: Call) -> str | None:
    """Of the kernels over rows: any number of rows and of channels."""
    if call.device != "cuda":
        return f"the tensors are on {call.device}; accepted: cuda"
    if call.dtype not in DTYPE_CODES:
        return f"dtype {str(call.dtype)[6:]}; accepted: float32, bfloat16, float16"
    if call.gradient:
        return "a gradient is wanted; accepted: calls without"
    if call.batch * call.channels * call.length == 0:
        return "the call is empty"
    if call.batch > MOST_BATCH or call.length > _MOST_ROWS:
        return f"batch {call.batch}, {call.length} rows; accepted: up to {MOST_BATCH} and {_MOST_ROWS}"
    return None


def _held_row_refusal(call: Call) -> str | None:
    """Of those that hold a row in registers."""
    if call.channels > MOST_CHANNELS:
        return f"{call.channels} channels; accepted: 1 to {MOST_CHANNELS}"
    if call.channels > MOST_UNALIGNED and call.channels % PACK:
        return f"{call.channels} channels; accepted: beyond {MOST_UNALIGNED} multiples of {PACK}"
    return _row_refusal(call)


def implementations() -> tuple[Implementation, ...]:
    """Lists the operators that have a kernel in the library; to be called only where unavailable() is None."""
    from subquad.ops.attention_step.cuda.launch import run as attention_step
    from subquad.ops.causal_conv.cuda.launch import run as causal_conv
    from subquad.ops.fft_conv.cuda.launch import run as fft_conv
    from subquad.ops.fir_step.cuda.launch import run as fir_step
    from subquad.ops.gated_conv.cuda.launch import run as gated_conv
    from subquad.ops.gated_conv_step.cuda.launch import run as gated_conv_step
    from subquad.ops.gated_linear.cuda.launch import run as gated_linear
    from subquad.ops.gated_linear_step.cuda.launch import run as gated_linear_step
    from subquad.ops.gated_modal_conv.cuda.launch import run as gated_modal_conv
    from subquad.ops.gated_modal_step.cuda.launch import run as gated_modal_step
    from subquad.ops.gated_product.cuda.launch import run as gated_product
    from subquad.ops.linear_step.cuda.launch import run as linear_step
    from subquad.ops.modal_conv.cuda.launch import run as modal_conv
    from subquad.ops.rms_norm.cuda.launch import run as rms_norm
    from subquad.ops.rotary.cuda.launch import run as rotary
    from subquad.ops.rounded_rows.cuda.launch import run as rounded_rows

    offered: list[tuple[str, Callable[[Call], str | None], Callable[..., Any]]] = [
        ("attention_step", _attention_refusal, attention_step),
        ("causal_conv", _causal_refusal, causal_conv),
        ("fft_conv", _image_refusal, fft_conv),
        ("fir_step", _fir_step_refusal, fir_step),
        ("gated_conv", _filter_refusal, gated_conv),
        ("gated_conv_step", _step_refusal, gated_conv_step),
        ("gated_modal_conv", _modal_refusal, gated_modal_conv),
        ("gated_product", _row_refusal, gated_product),
        ("gated_modal_step", _step_refusal, gated_modal_step),
        ("modal_conv", _modal_refusal, modal_conv),
        ("rms_norm", _held_row_refusal, rms_norm),
        ("rotary", _row_refusal, rotary),
        ("rounded_rows", _held_row_refusal, rounded_rows),
    ]
    measured = (
        Implementation("cuda", "gated_linear", _gated_linear_refusal, gated_linear, unmeasured=_few_rows),
        Implementation("cuda", "gated_linear_step", _product_refusal, gated_linear_step, unmeasured=_several_vectors),
        Implementation("cuda", "linear_step", _product_refusal, linear_step, unmeasured=_several_vectors),
    )
    taken = (*measured, *(Implementation("cuda", name, refusal, run) for name, refusal, run in offered))
    plain = _plain_forms()
    return tuple(
        replace(each, refusal=on_each_device(_device_refusal, each.refusal), plainly=plain.get(each.operator))
        for each in taken
    )


def _plain_forms() -> dict[str, Callable[..., Any]]:
    """Returns the forms of operators that a network calls so often that nothing may be asked twice."""
    from subquad.ops.gated_conv.cuda.launch import plainly as gated_conv
    from subquad.ops.gated_linear.cuda.launch import plainly as gated_linear
    from subquad.ops.gated_modal_conv.cuda.launch import plainly as gated_modal_conv
    from subquad.ops.gated_product.cuda.launch import plainly as gated_product
    from subquad.ops.rms_norm.cuda.launch import plainly as rms_norm
    from subquad.ops.rotary.cuda.launch import plainly as rotary
    from subquad.ops.rounded_rows.cuda.launch import plainly as rounded_rows

    return {
        "gated_conv": gated_conv,
        "gated_linear": gated_linear,
        "gated_modal_conv": gated_modal_conv,
        "gated_product": gated_product,
        "rms_norm": rms_norm,
        "rotary": rotary,
        "rounded_rows": rounded_rows,
    }
