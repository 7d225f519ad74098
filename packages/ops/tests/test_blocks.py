"""Blocks of channels on a CPU change no result, gradient or state."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from subquad.ops import (
    causal_conv,
    causal_conv_with_state,
    fft_conv,
    gated_product,
    modal_conv,
    modal_conv_with_state,
    rms_norm,
    rms_norm_of_sum,
    rotary,
)
from subquad.ops._blocks import channels_at_once, widened_at_once
from tools.testing.oracle import assert_close


def _modes(residues: Tensor) -> Tensor:
    return torch.linspace(-0.5, -0.1, residues.numel()).to(residues).reshape(residues.shape)


CASES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "causal_conv, direct": (causal_conv, ((2, 7, 60), (7, 3))),
    "causal_conv, whole FFT": (causal_conv, ((2, 7, 60), (7, 300))),
    "causal_conv, overlap-save": (causal_conv, ((1, 3, 4200), (3, 130))),
    "causal_conv, continued": (lambda x, w, s: causal_conv(x, w, initial_state=s), ((2, 7, 60), (7, 300), (2, 7, 299))),
    "fft_conv, one filter": (fft_conv, ((2, 7, 60), (7, 9))),
    "fft_conv, a filter a sample": (fft_conv, ((2, 7, 6, 9), (2, 7, 4, 5))),
    "modal_conv": (lambda x, r: modal_conv(x, _modes(r), r), ((2, 7, 60), (7, 4))),
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subquad.ops._blocks._SAMPLES", 300)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_blocks_give_what_the_whole_gives(name: str, recorded: bool, request: pytest.FixtureRequest) -> None:
    operator, shapes = CASES[name]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=recorded) for shape in shapes]
    whole = operator(*inputs)
    request.getfixturevalue("small_blocks")
    assert channels_at_once(inputs[0]) < inputs[0].shape[1]
    y = operator(*inputs)
    assert_close(y, whole, 1e-12)
    if recorded:
        gradients = [torch.autograd.grad(each.square().sum(), inputs) for each in (y, whole)]
        for one, other in zip(*gradients, strict=True):
            assert_close(one, other, 1e-12)


def test_the_states_of_all_blocks_come_back_in_order(request: pytest.FixtureRequest) -> None:
    x, taps, residues = torch.randn(2, 7, 60).double(), torch.randn(7, 300).double(), torch.randn(7, 4).double()
    wholes = causal_conv_with_state(x, taps)[1], modal_conv_with_state(x, _modes(residues), residues)[1]
    request.getfixturevalue("small_blocks")
    states = causal_conv_with_state(x, taps)[1], modal_conv_with_state(x, _modes(residues), residues)[1]
    for state, whole in zip(states, wholes, strict=True):
        assert_close(state, whole, 1e-12)


WIDENED: dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], tuple[tuple[int, ...], ...]]] = {
    "causal_conv": (causal_conv, ((3, 7, 10), (7, 4))),
    "causal_conv, grouped, continued": (
        lambda x, w, b, s: causal_conv_with_state(
            x, w.expand(1, -1), bias=b, skip=b, initial_state=s, activation="silu"
        ),
        ((3, 7, 10), (3,), (7,), (3, 7, 2)),
    ),
    "rms_norm": (rms_norm, ((3, 7, 10), (10,))),
    "rms_norm_of_sum": (rms_norm_of_sum, ((3, 7, 10), (3, 7, 10), (10,))),
    "gated_product": (lambda x: gated_product(x, activation="gelu"), ((3, 7, 20),)),
    "rotary": (lambda x, f: rotary(x, torch.arange(7)[None], f), ((3, 7, 2, 8), (4,))),
    "rotary of a row's own positions": (lambda x, f: rotary(x, torch.arange(21).view(3, 7), f), ((3, 7, 2, 8), (4,))),
}


@pytest.mark.parametrize("name", WIDENED)
def test_16_bit_rows_that_are_widened_in_blocks_have_the_bits_of_all_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, shapes = WIDENED[name]
    inputs = [torch.randn(shape).bfloat16() for shape in shapes]
    inputs[0] = inputs[0].transpose(0, 1).contiguous().transpose(0, 1)  # rows that do not follow each other
    whole = operator(*inputs)
    monkeypatch.setattr("subquad.ops._blocks._WIDENED", 40)
    monkeypatch.setattr("subquad.ops._blocks._SAMPLES", 60)
    assert widened_at_once(inputs[0], 1) == 1
    blocks = operator(*inputs)
    pairs = zip(*((value,) if isinstance(value, Tensor) else value for value in (whole, blocks)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_only_large_16_bit_tensors_that_nothing_records_are_widened_in_blocks() -> None:
    large = torch.zeros(300, 500, dtype=torch.bfloat16)
    assert widened_at_once(large, 0) == 262
    assert widened_at_once(large[:262], 0) == 0
    assert widened_at_once(large.float(), 0) == 0
    assert widened_at_once(large, 0, torch.zeros(3, requires_grad=True)) == 0


def test_a_stream_as_large_as_a_block_or_on_another_device_stays_whole() -> None:
    assert channels_at_once(torch.zeros(1, 256, 2048)) == 256
    assert channels_at_once(torch.zeros(1, 256, 2049)) == 255
    assert channels_at_once(torch.zeros(0, 5, 9)) == 5
    assert channels_at_once(torch.empty(1, 256, 1 << 20, device="meta")) == 256
    assert channels_at_once(torch.empty(1, 4, 1 << 20)) == 1
