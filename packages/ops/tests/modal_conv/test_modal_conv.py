"""modal_conv and modal_filter against their definitions."""

import pytest
import torch
from torch.autograd import gradcheck

from subquad.ops import causal_conv, modal_conv, modal_conv_with_state, modal_filter
from subquad.ops.modal_conv.chunked import convolve_modal
from subquad.ops.modal_conv.reference import modal_conv_reference, modal_filter_reference
from tools.testing.oracle import assert_close, assert_matches_oracle


def _modes(channels: int, states: int, fastest: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return (-fastest * torch.rand(channels, states)).to(dtype), torch.randn(channels, states).to(dtype)


@pytest.mark.parametrize("length", [0, 1, 100, 256, 257, 1000])
def test_filter_equals_its_sum_of_exponentials(length: int) -> None:
    poles, residues = _modes(3, 16, 0.1, torch.float64)
    assert_close(modal_filter(poles, residues, length), modal_filter_reference(poles, residues, length), 1e-12)


def test_a_long_float32_filter_keeps_float32_precision() -> None:
    poles, residues = _modes(2, 16, 1e-4, torch.float32)
    exact = modal_filter_reference(poles.double(), residues.double(), 100_000)
    assert_close(modal_filter(poles, residues, 100_000), exact, 2e-7)


def test_convolution_equals_the_one_with_the_filters_taps() -> None:
    x = torch.randn(2, 3, 300, dtype=torch.float64)
    poles, residues = _modes(3, 16, 0.2, torch.float64)
    assert_close(modal_conv(x, poles, residues), causal_conv(x, modal_filter(poles, residues, 300)), 1e-12)


def test_chunks_recurrence_and_transform_agree_over_sixteen_thousand_samples() -> None:
    length, x = 16_384, torch.randn(1, 2, 16_384, dtype=torch.float64)
    poles, residues = _modes(2, 4, 1e-3, torch.float64)
    y, end = modal_conv_with_state(x, poles, residues)
    recurrence, last = modal_conv_reference(x, poles, residues)
    taps = modal_filter_reference(poles, residues, length)
    transform = torch.fft.irfft(torch.fft.rfft(x, n=2 * length) * torch.fft.rfft(taps, n=2 * length))[..., :length]
    assert_close(y, recurrence, 1e-10)
    assert_close(y, transform, 1e-10)
    assert_close(end, last, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 31, 63, 200])
def test_output_and_gradients_match_the_oracle(dtype: torch.dtype, length: int) -> None:
    poles, residues = _modes(4, 16, 0.3, dtype)
    x, skip = torch.randn(2, 4, length).to(dtype), torch.randn(4).to(dtype)
    assert_matches_oracle(
        lambda x, p, r, s: modal_conv(x, p, r, skip=s),
        lambda x, p, r, s: modal_conv_reference(x, p, r, s)[0],
        x,
        poles,
        residues,
        skip,
        channel_dim=1,
    )


@pytest.mark.parametrize("block", [1, 2, 16, 33, 64])
@pytest.mark.parametrize("length", [1, 15, 64, 700])
def test_any_block_gives_the_same(block: int, length: int) -> None:
    x, state = torch.randn(2, 3, length, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    poles, residues = _modes(3, 5, 0.5, torch.float64)
    y, end = convolve_modal(x, poles, residues, state, block)
    expected, last = modal_conv_reference(x, poles, residues, initial_state=state)
    assert_close(y, expected, 1e-12)
    assert_close(end, last, 1e-12)


@pytest.mark.parametrize("cut", [1, 2, 64, 511])
def test_two_calls_joined_by_the_state_equal_one(cut: int) -> None:
    x = torch.randn(2, 3, 512, dtype=torch.float64)
    poles, residues = _modes(3, 16, 0.1, torch.float64)
    whole, end = modal_conv_with_state(x, poles, residues)
    first, state = modal_conv_with_state(x[..., :cut], poles, residues)
    second, last = modal_conv_with_state(x[..., cut:], poles, residues, initial_state=state)
    assert_close(torch.cat([first, second], dim=-1), whole, 1e-12)
    assert_close(last, end, 1e-12)


def test_chunking_changes_neither_result_nor_gradients_and_keeps_less() -> None:
    poles, residues = _modes(8, 16, 0.1, torch.float64)
    kept, results = [], []
    for chunk in (None, 128):
        inputs = [t.clone().requires_grad_() for t in (torch.ones(1, 8, 1024, dtype=torch.float64), poles, residues)]
        saved: dict[int, int] = {}

        def note(t: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            y = modal_conv(*inputs, chunk_size=chunk)
        kept.append(sum(saved.values()))
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for one, other in zip(*results, strict=True):
        assert_close(one, other, 1e-12)
    assert kept[1] < kept[0] / 3


def test_the_state_stays_float32_for_low_precision_streams() -> None:
    poles, residues = _modes(3, 16, 0.1, torch.float32)
    y, state = modal_conv_with_state(torch.randn(2, 3, 100).bfloat16(), poles, residues)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)


def test_a_very_long_slow_recurrence_does_not_drift() -> None:
    x = torch.randn(1, 2, 65_536)
    poles, residues = _modes(2, 4, 1e-4, torch.float32)
    y, state = modal_conv_with_state(x, poles, residues)
    exact, end = modal_conv_with_state(x.double(), poles.double(), residues.double())
    assert_close(y, exact, 5e-6)
    assert_close(state, end, 5e-6)


def test_poles_so_fast_that_their_powers_vanish_are_exact() -> None:
    x = torch.randn(1, 2, 100, dtype=torch.float64)
    poles, residues = torch.full((2, 3), -800.0).double(), torch.ones(2, 3).double()
    assert_close(modal_conv(x, poles, residues), 3 * x, 1e-12)


def test_output_ignores_the_future() -> None:
    x = torch.randn(1, 2, 100, dtype=torch.float64)
    poles, residues = _modes(2, 4, 0.1, torch.float64)
    other = x.clone()
    other[..., 50:] = 7.0
    assert_close(modal_conv(other, poles, residues)[..., :50], modal_conv(x, poles, residues)[..., :50], 1e-12)


def test_gradcheck_passes_in_float64() -> None:
    poles, residues = _modes(2, 3, 0.5, torch.float64)
    inputs = [
        t.requires_grad_()
        for t in (torch.randn(1, 2, 37).double(), poles, residues, torch.randn(1, 2, 3).double())
    ]  # fmt: skip
    assert gradcheck(lambda x, p, r, s: modal_conv_with_state(x, p, r, initial_state=s), inputs, fast_mode=True)


@pytest.mark.parametrize("shape", [(0, 3, 10), (2, 3, 0)])
def test_an_empty_call_keeps_its_shape_and_its_state(shape: tuple[int, int, int]) -> None:
    poles, residues = _modes(3, 4, 0.1, torch.float32)
    state = torch.randn(shape[0], 3, 4)
    y, end = modal_conv_with_state(torch.randn(shape), poles, residues, initial_state=state)
    assert y.shape == shape
    assert torch.equal(end, state)
    end += 1  # a step that starts from it changes it in place
    assert not state.numel() or not torch.equal(end, state)
