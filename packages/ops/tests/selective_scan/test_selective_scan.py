"""selective_scan against its recurrence."""

import pytest
import torch
from torch.autograd import gradcheck

from subquad.ops import ShapeMismatch, explain, selective_scan
from subquad.ops.selective_scan.reference import selective_scan_reference
from tools.testing.oracle import assert_close, assert_matches_oracle


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


def test_channels_last_gives_the_same() -> None:
    x, step, decay, into, out, skip = _inputs(40, torch.float64)
    expected = selective_scan(x, step, decay, into, out, skip=skip)
    turned = x.transpose(1, 2), step.transpose(1, 2), decay, into.permute(0, 3, 1, 2), out.permute(0, 3, 1, 2)
    y = selective_scan(*turned, skip=skip, layout="BLH")
    assert_close(y.transpose(1, 2), expected, 1e-14)
    assert explain("selective_scan", *turned, skip=skip, layout="BLH").backend == "torch"


@pytest.mark.usefixtures("unchecked")
def test_weights_of_another_shape_are_refused_with_both_shapes() -> None:
    x, step, decay, into, out, _ = _inputs(8, torch.float32)
    with pytest.raises(ShapeMismatch, match=r"input_weights has 3 axes \(2, 3, 8\); accepted: 4"):
        selective_scan(x, step, decay, into[:, 0], out)
    with pytest.raises(ShapeMismatch, match="input_weights has 3 groups, x has 4 channels; groups must divide them"):
        selective_scan(x, step, decay, into.transpose(1, 2), out)
    with pytest.raises(ShapeMismatch, match=r"output_weights has shape \(2, 2, 3, 7\); x \(2, 4, 8\) needs"):
        selective_scan(x, step, decay, into, out[..., 1:])


def test_an_empty_batch_keeps_its_shape() -> None:
    x = torch.randn(0, 4, 9)
    weights = torch.randn(0, 1, 3, 9)
    assert selective_scan(x, x, -torch.rand(4, 3), weights, weights).shape == (0, 4, 9)
