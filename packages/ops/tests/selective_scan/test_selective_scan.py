"""selective_scan against its recurrence."""

import pytest
import torch
from torch.autograd import gradcheck

from subquad.ops import selective_scan
from subquad.ops.selective_scan.reference import selective_scan_reference
from tools.testing.oracle import assert_matches_oracle


def _inputs(length: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    x, step = torch.randn(2, 4, length), torch.rand(2, 4, length) + 0.01
    into, out = torch.randn(2, 2, 3, length), torch.randn(2, 2, 3, length)
    return tuple(t.to(dtype) for t in (x, step, -torch.rand(4, 3), into, out, torch.randn(4)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_output_and_gradients_match_the_oracle(dtype: torch.dtype, length: int) -> None:
    assert_matches_oracle(
        lambda *a: selective_scan(*a[:5], skip=a[5]), selective_scan_reference, *_inputs(length, dtype)
    )


def test_a_long_scan_nests_blocks_in_blocks() -> None:
    assert_matches_oracle(
        lambda *a: selective_scan(*a[:5], skip=a[5]),
        selective_scan_reference,
        *_inputs(1100, torch.float64),
        gradients=False,
    )


def test_gradcheck_passes_in_float64() -> None:
    inputs = [t.requires_grad_() for t in _inputs(6, torch.float64)]
    assert gradcheck(lambda *a: selective_scan(*a[:5], skip=a[5]), inputs, fast_mode=True)


def test_an_empty_batch_keeps_its_shape() -> None:
    x = torch.randn(0, 4, 9)
    weights = torch.randn(0, 1, 3, 9)
    assert selective_scan(x, x, -torch.rand(4, 3), weights, weights).shape == (0, 4, 9)
