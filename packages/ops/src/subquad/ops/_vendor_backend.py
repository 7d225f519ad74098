"""The one file that knows subquadratic-ops-torch: its versions, operators and conventions.

Install with ``pip install "subquad-ops[vendor]"``. Its short convolutions correlate (the last tap is the current
sample), its FFT convolution takes tap 0 first, as we do.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from subquad.ops.causal_conv.causal_filter import join_history
from subquad.ops.dispatch import Call, Implementation
from subquad.ops.gated_conv.gated_conv import GatedConvState
from subquad.ops.gated_conv.projection import project_and_gate

_MODULE = "subquadratic_ops_torch"
_DISTRIBUTIONS = ("subquadratic-ops-torch-cu13", "subquadratic-ops-torch-cu12", "subquadratic-ops-torch")
_OLDEST, _BELOW = (0, 3), (0, 4)
_HALF = (torch.float32, torch.float16, torch.bfloat16)


def version() -> str | None:
    """Returns the installed version, or None."""
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Says why the vendor's library cannot run here, or None."""
    if importlib.util.find_spec(_MODULE) is None:
        return f'{_MODULE} is not installed; pip install "subquad-ops[vendor]"'
    found = version() or "unknown"
    parts = tuple(int(part) for part in found.split(".")[:2]) if found[0].isdigit() else _OLDEST
    if not _OLDEST <= parts < _BELOW:
        return f'{_MODULE} has version {found}; accepted: 0.3.x; pip install "subquad-ops[vendor]"'
    return None if torch.cuda.is_available() else "there is no CUDA device"


def _operator(name: str) -> Callable[..., Tensor]:
    """The vendor's operators are functions of modules that have their names."""
    return getattr(importlib.import_module(f"{_MODULE}.{name}"), name)


def _short_refusal(call: Call) -> str | None:
    taken = call.options - {"bias", "activation"}
    if taken:
        return f"{', '.join(sorted(taken))}; the vendor's operator has no such argument"
    return _common_refusal(call, 2, 256, _HALF)


def _gated_refusal(call: Call) -> str | None:
    taken = call.options - {"skip"}
    if taken:
        return f"{', '.join(sorted(taken))}; the vendor's operator always gates and starts from zeros"
    if not 2 <= call.projection_taps <= 32:
        return f"{call.projection_taps} projection taps; accepted: 2 to 32"
    return _common_refusal(call, 2, 256, _HALF)


def _fft_refusal(call: Call) -> str | None:
    if "per-sample" in call.options or "circular" in call.options:
        return "per-sample filters or a circular boundary; the vendor's operator has neither"
    if not {"causal", "1d"} <= call.options:
        return "not causal or not 1D; accepted: one causal axis"
    return _common_refusal(call, 1, 1 << 24, (*_HALF, torch.float64))


def _common_refusal(call: Call, fewest: int, most: int, dtypes: tuple[torch.dtype, ...]) -> str | None:
    if call.device != "cuda":
        return f"the tensors are on {call.device}; accepted: cuda"
    if call.dtype not in dtypes:
        return f"dtype {str(call.dtype)[6:]}; accepted: {', '.join(str(d)[6:] for d in dtypes)}"
    if not fewest <= call.taps <= most:
        return f"{call.taps} taps; accepted: {fewest} to {most}"
    if call.capturing:
        return "a CUDA graph is being captured; the vendor's kernels may allocate inside"
    return None


def _rows(taps: Tensor, channels: int, x: Tensor) -> Tensor:
    return taps.repeat_interleave(channels // taps.shape[0], dim=0).to(x.dtype).contiguous()


def _causal_conv(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    weight = _rows(taps, x.shape[1], x).flip(-1).contiguous()
    extra = None if bias is None else bias.to(x.dtype)
    y = _operator("causal_conv1d")(x.contiguous(), weight, extra, activation or "identity")
    past = taps.shape[1] - 1
    return y, join_history(x, past, initial_state)[..., x.shape[-1] :]


def _gated_conv(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedConvState | None,
) -> tuple[Tensor, GatedConvState]:
    channels, length = z.shape[1] // 3, z.shape[-1]
    factor = z.new_zeros(channels) if skip is None else skip.to(z.dtype)
    projection = _rows(projection_taps, z.shape[1], z).flip(-1).contiguous()
    mixer = _rows(mixer_taps, channels, z).flip(-1).contiguous()
    y = _operator("b2b_causal_conv1d")(z.contiguous(), projection, mixer, factor)
    past = mixer_taps.shape[1] - 1
    recent = z[..., max(0, length - past - projection_taps.shape[1] + 1) :]
    _, g, _ = project_and_gate(recent, projection_taps, pregate, None)
    history = join_history(z, projection_taps.shape[1] - 1, None)[..., length:]
    return y, GatedConvState(history, join_history(g, past, None)[..., g.shape[-1] :].to(z.dtype))


def _fft_conv(x: Tensor, taps: Tensor, *, boundary: tuple[str, ...], causal: bool, skip: Tensor | None) -> Tensor:
    y = _operator("fft_causal_conv1d")(x.contiguous(), taps[0].to(x.dtype).contiguous())
    return y if skip is None else y + skip.to(x.dtype)[:, None] * x


def implementations() -> tuple[Implementation, ...]:
    """Lists the operators that the vendor's library can take; to be called only where unavailable() is None."""
    return (
        Implementation("vendor", "causal_conv", _short_refusal, _causal_conv),
        Implementation("vendor", "fft_conv", _fft_refusal, _fft_conv),
        Implementation("vendor", "gated_conv", _gated_refusal, _gated_conv),
    )
