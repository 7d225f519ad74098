"""gated_modal_step against gated_modal_conv over the whole stream."""

import torch

from subquad.ops import StepProjection, gated_modal_step
from subquad.ops.gated_modal_step.reference import gated_modal_step_reference
from tools.testing.oracle import assert_close

CHANNELS, STATES = 6, 4


def test_steps_from_the_first_token_on_equal_the_convolution_of_the_stream() -> None:
    z, short = torch.randn(2, 3 * CHANNELS, 30).double(), torch.randn(3 * CHANNELS, 3).double()
    poles, residues = -torch.rand(CHANNELS, STATES).double(), torch.randn(CHANNELS, STATES).double()
    skip, ring = torch.randn(CHANNELS).double(), torch.zeros(2, 3 * CHANNELS, 2).double()
    state = torch.zeros(2, CHANNELS, STATES).double()
    for t in range(30):
        y = gated_modal_step(z[..., t], short, poles, residues, ring, state, torch.full((2,), t), skip=skip)
        assert_close(y, gated_modal_step_reference(z[..., : t + 1], short, poles, residues, skip), 1e-12)


def test_inactive_rows_keep_ring_and_state_and_a_projection_makes_the_rows() -> None:
    x, weight = torch.randn(2, 10).double(), torch.randn(3 * CHANNELS, 10).double()
    short, position = torch.randn(3 * CHANNELS, 3).double(), torch.tensor([0, 9])
    poles, residues = -torch.rand(CHANNELS, STATES).double(), torch.randn(CHANNELS, STATES).double()
    start = [torch.randn(2, 3 * CHANNELS, 2).double(), torch.randn(2, CHANNELS, STATES).double()]
    separate, joined = [s.clone() for s in start], [s.clone() for s in start]
    active = torch.tensor([True, False])
    expected = gated_modal_step(x @ weight.T, short, poles, residues, *separate, position, active=active)
    projection = StepProjection(weight)
    y = gated_modal_step(x, short, poles, residues, *joined, position, projection=projection, active=active)
    assert_close(y, expected, 1e-12)
    for one, other, then in zip(separate, joined, start, strict=True):
        assert_close(one, other, 1e-12)
        assert torch.equal(joined[0][1], start[0][1])
        assert torch.equal(other[1], then[1])
