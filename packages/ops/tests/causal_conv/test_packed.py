"""causal_conv on sequences packed in one row."""

import itertools

import pytest
import torch

from subquad.ops import ArgumentOutOfRange, ShapeMismatch, causal_conv, causal_conv_with_state
from tools.testing.oracle import assert_close

BOUNDS = [0, 7, 7, 9, 30]


@pytest.mark.parametrize("taps", [1, 2, 5, 40, 100])
@pytest.mark.parametrize("continued", [False, True])
def test_packed_sequences_equal_separate_calls(taps: int, continued: bool) -> None:
    x, w = torch.randn(1, 4, 30, dtype=torch.float64), torch.randn(4, taps, dtype=torch.float64)
    before = torch.randn(4, 4, taps - 1, dtype=torch.float64) if continued else None
    y, states = causal_conv_with_state(x, w, cu_seqlens=torch.tensor(BOUNDS), initial_state=before)
    for i, (start, stop) in enumerate(itertools.pairwise(BOUNDS)):
        one = None if before is None else before[i : i + 1]
        expected, state = causal_conv_with_state(x[..., start:stop], w, initial_state=one)
        assert_close(y[..., start:stop], expected, 1e-12)
        assert torch.equal(states[i : i + 1], state)


def test_gradients_stay_inside_their_sequence() -> None:
    x = torch.randn(1, 2, 30, dtype=torch.float64, requires_grad=True)
    causal_conv(x, torch.randn(2, 5, dtype=torch.float64), cu_seqlens=torch.tensor(BOUNDS))[..., 9:].sum().backward()
    assert x.grad is not None
    assert not x.grad[..., :9].any()


@pytest.mark.usefixtures("unchecked")
def test_bad_bounds_are_refused_with_both_values() -> None:
    x, w = torch.randn(1, 2, 30), torch.randn(2, 3)
    with pytest.raises(ArgumentOutOfRange, match="from 0 to 29; accepted: from 0 to the length 30"):
        causal_conv(x, w, cu_seqlens=torch.tensor([0, 10, 29]))
    with pytest.raises(ArgumentOutOfRange, match="falls from 20 to 10"):
        causal_conv(x, w, cu_seqlens=torch.tensor([0, 20, 10, 30]))
    with pytest.raises(ShapeMismatch, match="x has batch 2 with cu_seqlens; accepted: 1"):
        causal_conv(torch.randn(2, 2, 30), w, cu_seqlens=torch.tensor([0, 30]))
