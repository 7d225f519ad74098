"""selective_scan against its recurrence."""

import pytest
import torch
from torch.autograd import gradcheck

from packages.ops.tests.memory import peak_bytes
from subquad.ops import ArgumentOutOfRange, ShapeMismatch, explain, selective_scan, selective_scan_with_state
from subquad.ops.selective_scan.reference import selective_scan_reference
from tools.testing.oracle import assert_close, assert_matches_oracle


def _output(*inputs: torch.Tensor) -> torch.Tensor:
    return selective_scan_reference(*inputs)[0]


def _inputs(length: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    x, step = torch.randn(2, 4, length), torch.rand(2, 4, length) + 0.01
    into, out = torch.randn(2, 2, 3, length), torch.randn(2, 2, 3, length)
    return tuple(t.to(dtype) for t in (x, step, -torch.rand(4, 3), into, out, torch.randn(4)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_output_and_gradients_match_the_oracle(dtype: torch.dtype, length: int) -> None:
    assert_matches_oracle(lambda *a: selective_scan(*a[:5], skip=a[5]), _output, *_inputs(length, dtype))


def test_a_long_scan_nests_blocks_in_blocks() -> None:
    assert_matches_oracle(
        lambda *a: selective_scan(*a[:5], skip=a[5]),
        _output,
        *_inputs(1100, torch.float64),
        gradients=False,
    )


def test_gradcheck_passes_in_float64() -> None:
    inputs = [t.requires_grad_() for t in _inputs(6, torch.float64)]
    assert gradcheck(lambda *a: selective_scan(*a[:5], skip=a[5]), inputs, fast_mode=True)


def _joined(y: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """Output and state as one tensor, so that the oracle holds both and the gradient that goes through both."""
    return torch.cat([y, state.to(y.dtype)], dim=-1)


@pytest.mark.parametrize("chunk_size", [None, 1, 32, 45])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_state_in_and_out_and_their_gradients_match_the_oracle(dtype: torch.dtype, chunk_size: int | None) -> None:
    def run(*a: torch.Tensor) -> torch.Tensor:
        return _joined(*selective_scan_with_state(*a[:5], skip=a[5], initial_state=a[6], chunk_size=chunk_size))

    inputs = (*_inputs(100, dtype), torch.randn(2, 4, 3, dtype=dtype))
    assert_matches_oracle(run, lambda *a: _joined(*selective_scan_reference(*a)), *inputs)


def test_a_scan_in_two_parts_is_the_whole() -> None:
    x, step, decay, into, out, skip = _inputs(77, torch.float64)
    expected, last = selective_scan_with_state(x, step, decay, into, out, skip=skip)
    state, pieces = None, []
    for part in (slice(0, 50), slice(50, 51), slice(51, 77)):
        streams = (x[..., part], step[..., part], decay, into[..., part], out[..., part])
        y, state = selective_scan_with_state(*streams, skip=skip, initial_state=state)
        pieces.append(y)
    assert_close(torch.cat(pieces, dim=-1), expected, 1e-14)
    assert state is not None
    assert_close(state, last, 1e-14)


def test_an_empty_sequence_leaves_the_state_as_it_was() -> None:
    x, step, decay, into, out, _ = (t[..., :0] if t.dim() > 2 else t for t in _inputs(4, torch.bfloat16))
    before = torch.randn(2, 4, 3)
    y, state = selective_scan_with_state(x, step, decay, into, out, initial_state=before)
    assert y.shape == (2, 4, 0)
    assert torch.equal(state, before)


def test_a_kept_state_does_not_keep_the_states_of_the_whole_length() -> None:
    _, state = selective_scan_with_state(*_inputs(1100, torch.float32)[:5])
    assert state.untyped_storage().nbytes() == state.numel() * 4


def test_chunks_lower_the_peak_of_forward_and_backward() -> None:
    def step(chunk_size: int | None) -> None:
        x, size = torch.randn(1, 16, 4096), torch.rand(1, 16, 4096)
        into, out = torch.randn(2, 1, 1, 8, 4096).unbind(0)
        inputs = [t.requires_grad_() for t in (x, size, -torch.rand(16, 8), into, out)]
        selective_scan(*inputs, chunk_size=chunk_size).square().sum().backward()

    assert peak_bytes(lambda: step(128)) < 0.1 * peak_bytes(lambda: step(None))


def test_no_samples_at_a_time_are_refused() -> None:
    with pytest.raises(ArgumentOutOfRange, match="chunk_size is 0; accepted: 1 or more samples, or None"):
        selective_scan(*_inputs(8, torch.float32)[:5], chunk_size=0)


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
    with pytest.raises(ShapeMismatch, match=r"initial_state has shape \(2, 4, 2\); x \(2, 4, 8\) needs \(2, 4, 3\)"):
        selective_scan(x, step, decay, into, out, initial_state=torch.zeros(2, 4, 2))


def test_an_empty_batch_keeps_its_shape() -> None:
    x = torch.randn(0, 4, 9)
    weights = torch.randn(0, 1, 3, 9)
    assert selective_scan(x, x, -torch.rand(4, 3), weights, weights).shape == (0, 4, 9)
