"""causal_conv on sequences packed in one row."""

import itertools
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from subquad.ops import ArgumentOutOfRange, ShapeMismatch, causal_conv, causal_conv_with_state
from tools.testing.oracle import assert_close

BOUNDS = [0, 7, 7, 9, 30]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


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


@pytest.mark.parametrize("layout", ["BHL", "BLH"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_everything_that_a_call_takes_it_takes_packed(layout: Any, dtype: torch.dtype) -> None:
    x, w, bias, skip = (torch.randn(shape).to(dtype) for shape in ((1, 4, 30), (2, 5), (4,), (4,)))
    options: dict[str, Any] = {"bias": bias, "skip": skip, "activation": "silu", "layout": layout}
    bounds = torch.tensor(BOUNDS, dtype=torch.int32)
    given = x if layout == "BHL" else x.mT
    dim = 2 if layout == "BHL" else 1
    y = causal_conv(given, w, cu_seqlens=bounds, **options)
    pieces = given.split([stop - start for start, stop in itertools.pairwise(BOUNDS)], dim=dim)
    assert y.dtype == dtype
    assert_close(y, torch.cat([causal_conv(piece, w, **options) for piece in pieces], dim=dim), TOLERANCE[dtype])


@pytest.mark.parametrize("taps", [3, 40])
def test_gradients_of_packed_sequences_pass_a_numeric_check(taps: int) -> None:
    x, w = torch.randn(1, 2, 12, dtype=torch.float64), torch.randn(2, taps, dtype=torch.float64)
    before = torch.randn(3, 2, taps - 1, dtype=torch.float64)
    inputs = [value.requires_grad_() for value in (x, w, before)]
    bounds = torch.tensor([0, 5, 5, 12])
    assert gradcheck(
        lambda x, w, s: causal_conv_with_state(x, w, initial_state=s, cu_seqlens=bounds), inputs, fast_mode=True
    )


@pytest.mark.parametrize("taps", [3, 40])
def test_a_sequence_never_sees_another_nor_its_own_future(taps: int) -> None:
    x, w, bounds = torch.randn(1, 2, 30).double(), torch.randn(2, taps).double(), torch.tensor(BOUNDS)
    y = causal_conv(x, w, cu_seqlens=bounds)
    for start, stop in ((0, 9), (20, 30)):
        other = x.clone()
        other[..., start:stop] = 1e3
        changed = (causal_conv(other, w, cu_seqlens=bounds) - y).abs().amax(dim=(0, 1)) > 1e-9
        assert changed[start:stop].all()
        assert not changed[:start].any()
        assert not changed[stop:].any()


@pytest.mark.usefixtures("unchecked")
def test_bad_bounds_are_refused_with_both_values() -> None:
    x, w = torch.randn(1, 2, 30), torch.randn(2, 3)
    with pytest.raises(ArgumentOutOfRange, match="from 0 to 29; accepted: from 0 to the length 30"):
        causal_conv(x, w, cu_seqlens=torch.tensor([0, 10, 29]))
    with pytest.raises(ArgumentOutOfRange, match="falls from 20 to 10"):
        causal_conv(x, w, cu_seqlens=torch.tensor([0, 20, 10, 30]))
    with pytest.raises(ShapeMismatch, match="x has batch 2 with cu_seqlens; accepted: 1"):
        causal_conv(torch.randn(2, 2, 30), w, cu_seqlens=torch.tensor([0, 30]))
