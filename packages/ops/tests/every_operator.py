"""The operators that filter a stream, each with its definition and inputs of any batch and length."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad import ops
from subquad.ops.causal_conv.reference import causal_conv_reference
from subquad.ops.fft_conv.reference import fft_conv_reference
from subquad.ops.gated_conv.reference import gated_conv_reference
from subquad.ops.gated_modal_conv.reference import gated_modal_conv_reference
from subquad.ops.modal_conv.reference import modal_conv_reference
from subquad.ops.rearrange.reference import rearrange_reference
from subquad.ops.selective_scan.reference import selective_scan_reference

BATCH, CHANNELS, STATES = 2, 3, 5


@dataclass(frozen=True)
class Case:
    """An operator, its definition, and its inputs: the stream of the given batch and length first."""

    operator: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    inputs: Callable[[int, int], tuple[Tensor, ...]]
    causal: bool = True


def modes() -> tuple[Tensor, Tensor]:
    return -0.3 * torch.rand(CHANNELS, STATES), torch.randn(CHANNELS, STATES)


def _scan(batch: int, length: int) -> tuple[Tensor, ...]:
    x, step = torch.randn(batch, CHANNELS, length), torch.rand(batch, CHANNELS, length)
    weights = torch.randn(2, batch, 1, STATES, length)
    return x, step, modes()[0], weights[0], weights[1]


def _filter(taps: int) -> Callable[[int, int], tuple[Tensor, ...]]:
    return lambda batch, length: (torch.randn(batch, CHANNELS, length), torch.randn(CHANNELS, taps) / taps**0.5)


CASES = {
    "causal_conv, direct": Case(ops.causal_conv, causal_conv_reference, _filter(7)),
    "causal_conv, FFT": Case(ops.causal_conv, causal_conv_reference, _filter(150)),
    "fft_conv": Case(ops.fft_conv, lambda x, w: fft_conv_reference(x, w, ("zero",)), _filter(12), causal=False),
    "fft_conv, circular": Case(
        lambda x, w: ops.fft_conv(x, w, boundary="circular"),
        lambda x, w: fft_conv_reference(x, w, ("circular",)),
        _filter(12),
        causal=False,
    ),
    "gated_conv": Case(
        ops.gated_conv,
        gated_conv_reference,
        lambda b, n: (torch.randn(b, 3 * CHANNELS, n), torch.randn(3 * CHANNELS, 3), torch.randn(CHANNELS, 9)),
    ),
    "modal_conv": Case(
        ops.modal_conv,
        lambda x, p, r: modal_conv_reference(x, p, r)[0],
        lambda b, n: (torch.randn(b, CHANNELS, n), *modes()),
    ),
    "gated_modal_conv": Case(
        ops.gated_modal_conv,
        gated_modal_conv_reference,
        lambda b, n: (torch.randn(b, 3 * CHANNELS, n), torch.randn(3 * CHANNELS, 3), *modes()),
    ),
    "selective_scan": Case(ops.selective_scan, lambda *a: selective_scan_reference(*a)[0], _scan),
    "rearrange": Case(ops.rearrange, rearrange_reference, lambda b, n: (torch.randn(b, CHANNELS, n),), causal=False),
}
