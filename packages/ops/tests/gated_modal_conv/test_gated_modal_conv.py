"""gated_modal_conv against its definition."""

import pytest
import torch
from torch.autograd import gradcheck

from subquad.ops import GatedModalState, gated_modal_conv, gated_modal_conv_with_state
from subquad.ops.gated_modal_conv.reference import gated_modal_conv_reference
from tools.testing.oracle import assert_close, assert_matches_oracle


def _inputs(length: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    z, projection = torch.randn(2, 12, length).to(dtype), torch.randn(12, 3).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    poles, residues = (-0.3 * torch.rand(4, 16)).to(wide), torch.randn(4, 16).to(wide)
    return z, projection, poles, residues, torch.randn(4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 63, 200])
def test_output_and_gradients_match_the_oracle(dtype: torch.dtype, length: int) -> None:
    assert_matches_oracle(
        lambda z, p, e, r, s: gated_modal_conv(z, p, e, r, skip=s),
        gated_modal_conv_reference,
        *_inputs(length, dtype),
    )


@pytest.mark.parametrize("pregate", [True, False])
@pytest.mark.parametrize("postgate", [True, False])
def test_each_gate_can_be_left_out(pregate: bool, postgate: bool) -> None:
    z, p, e, r, s = _inputs(40, torch.float64)
    y = gated_modal_conv(z, p, e, r, skip=s, pregate=pregate, postgate=postgate)
    assert_close(y, gated_modal_conv_reference(z, p, e, r, s, pregate, postgate), 1e-12)


@pytest.mark.parametrize("cut", [1, 2, 3, 32, 149])
def test_two_calls_joined_by_the_state_equal_one(cut: int) -> None:
    z, p, e, r, s = _inputs(150, torch.float64)
    whole, end = gated_modal_conv_with_state(z, p, e, r, skip=s)
    first, state = gated_modal_conv_with_state(z[..., :cut], p, e, r, skip=s)
    second, last = gated_modal_conv_with_state(z[..., cut:], p, e, r, skip=s, initial_state=state)
    assert_close(torch.cat([first, second], dim=-1), whole, 1e-12)
    assert torch.equal(last.projection, end.projection)
    assert_close(last.modal, end.modal, 1e-12)
    assert isinstance(state, GatedModalState)


def test_gradcheck_passes_in_float64() -> None:
    inputs = [x.requires_grad_() for x in _inputs(5, torch.float64)]
    assert gradcheck(lambda z, p, e, r, s: gated_modal_conv(z, p, e, r, skip=s), inputs, fast_mode=True)


def test_channels_last_gives_the_same() -> None:
    z, p, e, r, s = _inputs(50, torch.float64)
    y = gated_modal_conv(z.transpose(1, 2), p, e, r, skip=s, layout="BLH")
    assert_close(y.transpose(1, 2), gated_modal_conv(z, p, e, r, skip=s), 1e-12)
