"""fir_step and its ring against causal_conv over the whole stream."""

import pytest
import torch

from subquad.ops import causal_conv, causal_conv_with_state, fill_ring, fir_step, history_from_ring, ring_from_history
from tools.testing.oracle import assert_close


@pytest.mark.parametrize("taps", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("prompt", [0, 1, 2, 5, 6, 20, 40])
def test_steps_after_any_prompt_equal_the_full_convolution(taps: int, prompt: int) -> None:
    x, w = torch.randn(2, 6, 45, dtype=torch.float64), torch.randn(3, taps, dtype=torch.float64)
    full = causal_conv(x, w)
    _, history = causal_conv_with_state(x[..., :prompt], w)
    position = torch.full((2,), prompt)
    ring = ring_from_history(history, position)
    for t in range(prompt, 45):
        assert_close(fir_step(x[..., t], w, ring, position), full[..., t], 1e-12)
        position += 1
    _, end = causal_conv_with_state(x, w)
    assert torch.equal(history_from_ring(ring, position), end)


def test_each_row_has_its_own_position() -> None:
    x, w = torch.randn(3, 4, 20, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    starts = torch.tensor([0, 3, 11])
    histories = [causal_conv_with_state(x[i : i + 1, :, :n], w)[1] for i, n in enumerate(starts.tolist())]
    ring = ring_from_history(torch.cat(histories), starts)
    samples = torch.stack([x[i, :, n] for i, n in enumerate(starts.tolist())])
    expected = torch.stack([causal_conv(x, w)[i, :, n] for i, n in enumerate(starts.tolist())])
    assert_close(fir_step(samples, w, ring, starts), expected, 1e-12)


def test_inactive_rows_keep_their_ring() -> None:
    ring, w = torch.randn(3, 4, 6), torch.randn(4, 7)
    before = ring.clone()
    fir_step(torch.randn(3, 4), w, ring, torch.tensor([5, 6, 7]), active=torch.tensor([True, False, True]))
    assert torch.equal(ring[1], before[1])
    assert not torch.equal(ring[0], before[0])


def test_bias_and_skip_follow_the_equation() -> None:
    x, w, ring = torch.randn(2, 3).double(), torch.randn(3, 2).double(), torch.zeros(2, 3, 1).double()
    bias, skip = torch.randn(3).double(), torch.randn(3).double()
    y = fir_step(x, w, ring, torch.zeros(2, dtype=torch.int64), bias=bias, skip=skip)
    assert_close(y, w[:, 0] * x + skip * x + bias, 1e-12)


def test_a_ring_that_is_a_strided_view_is_written_through() -> None:
    pool = torch.zeros(8, 3, 4)
    fir_step(torch.ones(2, 3), torch.ones(3, 5), pool[::4], torch.tensor([0, 1]))
    assert pool[0, :, 0].tolist() == [1.0] * 3
    assert pool[4, :, 1].tolist() == [1.0] * 3


@pytest.mark.parametrize("past", [0, 1, 6])
def test_ring_and_history_are_inverse(past: int) -> None:
    history, position = torch.randn(4, 2, past), torch.tensor([0, 3, 7, 100])
    assert torch.equal(history_from_ring(ring_from_history(history, position), position), history)


def test_a_ring_that_is_a_view_is_filled_in_place() -> None:
    pool, history, position = torch.zeros(8, 3, 4), torch.randn(2, 3, 4), torch.tensor([3, 9])
    fill_ring(pool[::4], history, position, 2)
    assert torch.equal(pool[::4], ring_from_history(history, position + 2))
    assert not pool[1:4].any()


def test_no_row_is_no_row_and_samples_may_have_any_strides() -> None:
    w, none = torch.randn(3, 5), torch.zeros(0, dtype=torch.int64)
    assert fir_step(torch.randn(0, 3), w, torch.randn(0, 3, 4), none).shape == (0, 3)
    x, ring, position = torch.randn(3, 2).T, torch.randn(2, 3, 4), torch.tensor([5, 6])
    expected = fir_step(x.contiguous(), w, ring.clone(), position)
    assert torch.equal(fir_step(x, w, ring, position), expected)
