"""modal_step against modal_conv."""

import torch

from subquad.ops import modal_conv_with_state, modal_step
from tools.testing.oracle import assert_close


def test_steps_equal_the_full_convolution() -> None:
    x = torch.randn(2, 3, 25, dtype=torch.float64)
    poles, residues, skip = -torch.rand(3, 16).double(), torch.randn(3, 16).double(), torch.randn(3).double()
    full, end = modal_conv_with_state(x, poles, residues, skip=skip)
    state = torch.zeros(2, 3, 16, dtype=torch.float64)
    for t in range(25):
        assert_close(modal_step(x[..., t], poles, residues, state, skip=skip), full[..., t], 1e-12)
    assert_close(state, end, 1e-12)


def test_inactive_rows_keep_their_state() -> None:
    state = torch.randn(2, 3, 16)
    before = state.clone()
    modal_step(torch.randn(2, 3), -torch.rand(3, 16), torch.randn(3, 16), state, active=torch.tensor([False, True]))
    assert torch.equal(state[0], before[0])
    assert not torch.equal(state[1], before[1])


def test_low_precision_samples_advance_a_float32_state() -> None:
    x, state = torch.randn(2, 3).bfloat16(), torch.zeros(2, 3, 4)
    y = modal_step(x, -torch.rand(3, 4), torch.ones(3, 4), state)
    assert y.dtype == torch.bfloat16
    assert torch.equal(state, x.float()[..., None].expand(2, 3, 4))


def test_no_row_is_no_row_and_any_strides_are_written_through() -> None:
    poles, residues = -torch.rand(3, 16), torch.randn(3, 16)
    assert modal_step(torch.randn(0, 3), poles, residues, torch.randn(0, 3, 16)).shape == (0, 3)
    x, pool = torch.randn(3, 2).T, torch.randn(3, 4, 16).transpose(0, 1)[::2]
    state = pool.contiguous()
    assert torch.equal(modal_step(x, poles, residues, pool), modal_step(x.contiguous(), poles, residues, state))
    assert torch.equal(pool, state)
