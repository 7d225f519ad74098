"""gated_conv against its definition."""

import pytest
import torch
from torch.autograd import gradcheck

from subquad.ops import GatedConvState, causal_conv, gated_conv, gated_conv_with_state
from subquad.ops.gated_conv.reference import gated_conv_reference
from tools.testing.oracle import assert_close, assert_matches_oracle


def _inputs(length: int, mixer: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    z, projection = torch.randn(2, 12, length).to(dtype), torch.randn(12, 3).to(dtype)
    return z, projection, (torch.randn(2, mixer) / mixer**0.5).to(dtype), torch.randn(4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mixer", [1, 7, 128])
@pytest.mark.parametrize("length", [1, 63, 200])
def test_output_and_gradients_match_the_oracle(dtype: torch.dtype, mixer: int, length: int) -> None:
    assert_matches_oracle(
        lambda z, p, m, s: gated_conv(z, p, m, skip=s), gated_conv_reference, *_inputs(length, mixer, dtype)
    )


@pytest.mark.parametrize("length", [1, 2, 9])
def test_every_tap_count_up_to_twice_the_length_equals_the_direct_sums(length: int) -> None:
    for taps in range(1, 2 * length + 1):
        z, p, m, s = _inputs(length, taps, torch.float64)
        assert_close(gated_conv(z, p, m, skip=s), gated_conv_reference(z, p, m, s), 1e-12)
        wide = torch.randn(12, taps).double()
        assert_close(gated_conv(z, wide, m, skip=s), gated_conv_reference(z, wide, m, s), 1e-12)


@pytest.mark.parametrize("pregate", [True, False])
@pytest.mark.parametrize("postgate", [True, False])
def test_each_gate_can_be_left_out(pregate: bool, postgate: bool) -> None:
    z, p, m, s = _inputs(40, 5, torch.float64)
    y = gated_conv(z, p, m, skip=s, pregate=pregate, postgate=postgate)
    assert_close(y, gated_conv_reference(z, p, m, s, pregate, postgate), 1e-12)


def test_rows_are_post_gate_pre_gate_and_value() -> None:
    z, p, m, _ = _inputs(30, 4, torch.float64)
    q, k, v = causal_conv(z, p).unflatten(1, (4, 3)).unbind(2)
    assert_close(gated_conv(z, p, m), q * causal_conv(k * v, m), 1e-12)


@pytest.mark.parametrize("cut", [1, 2, 3, 50, 149])
@pytest.mark.parametrize("mixer", [1, 7, 128])
def test_two_calls_joined_by_the_state_equal_one(cut: int, mixer: int) -> None:
    z, p, m, s = _inputs(150, mixer, torch.float64)
    whole, end = gated_conv_with_state(z, p, m, skip=s)
    first, state = gated_conv_with_state(z[..., :cut], p, m, skip=s)
    second, last = gated_conv_with_state(z[..., cut:], p, m, skip=s, initial_state=state)
    assert_close(torch.cat([first, second], dim=-1), whole, 1e-12)
    assert torch.equal(last.projection, end.projection)
    assert_close(last.mixer, end.mixer, 1e-12)
    assert isinstance(state, GatedConvState)
    assert (state.projection.shape, state.mixer.shape) == ((2, 12, 2), (2, 4, mixer - 1))


def test_output_ignores_the_future() -> None:
    z, p, m, s = _inputs(100, 20, torch.float64)
    other = z.clone()
    other[..., 60:] = torch.randn(2, 12, 40, dtype=torch.float64)
    assert_close(gated_conv(other, p, m, skip=s)[..., :60], gated_conv(z, p, m, skip=s)[..., :60], 1e-12)


def test_channels_last_gives_the_same() -> None:
    z, p, m, s = _inputs(50, 7, torch.float64)
    y = gated_conv(z.transpose(1, 2), p, m, skip=s, layout="BLH")
    assert_close(y.transpose(1, 2), gated_conv(z, p, m, skip=s), 1e-12)


def test_gradcheck_passes_in_float64() -> None:
    inputs = [x.requires_grad_() for x in _inputs(7, 3, torch.float64)]
    assert gradcheck(lambda z, p, m, s: gated_conv(z, p, m, skip=s), inputs, fast_mode=True)


def test_an_empty_batch_keeps_its_shape() -> None:
    assert gated_conv(torch.randn(0, 6, 9), torch.randn(6, 3), torch.randn(2, 7)).shape == (0, 2, 9)
