"""gated_conv_step against gated_conv over the whole stream."""

import pytest
import torch

from subquad.ops import (
    RoundedWeight,
    ShapeMismatch,
    StepNorm,
    StepProjection,
    gated_conv_step,
    round_to_e4m3,
    row_scales,
)
from subquad.ops.gated_conv_step.reference import gated_conv_step_reference
from subquad.ops.linear_step.reference import linear_step_reference
from tools.testing.oracle import assert_close

CHANNELS = 6


def rings(batch: int, taps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns empty rings."""
    return (
        torch.zeros(batch, 3 * CHANNELS, 2, dtype=torch.float64),
        torch.zeros(batch, CHANNELS, taps - 1, dtype=torch.float64),
    )


@pytest.mark.parametrize("taps", [2, 7, 30])
def test_steps_from_the_first_token_on_equal_the_convolution_of_the_stream(taps: int) -> None:
    z, short = torch.randn(2, 3 * CHANNELS, 40).double(), torch.randn(3 * CHANNELS, 3).double()
    w, skip = torch.randn(3, taps).double(), torch.randn(CHANNELS).double()
    projection_ring, mixer_ring = rings(2, taps)
    for t in range(40):
        position = torch.full((2,), t)
        y = gated_conv_step(z[..., t], short, w, projection_ring, mixer_ring, position, skip=skip)
        assert_close(y, gated_conv_step_reference(z[..., : t + 1], short, w, skip), 1e-12)


@pytest.mark.parametrize("one_byte", [False, True])
def test_a_projection_makes_the_rows_first(one_byte: bool) -> None:
    x, weight = torch.randn(2, 10).double(), torch.randn(3 * CHANNELS, 10).double()
    if one_byte:
        weight = RoundedWeight(round_to_e4m3(weight, row_scales(weight)), row_scales(weight)[:, 0])
    norm = StepNorm(torch.randn(10).double(), 1e-3, "standard")
    short, w, position = torch.randn(3 * CHANNELS, 3).double(), torch.randn(6, 7).double(), torch.tensor([0, 9])
    start = [torch.randn_like(ring) for ring in rings(2, 7)]
    separate, joined = [r.clone() for r in start], [r.clone() for r in start]
    rows = linear_step_reference(x, weight, norm)
    expected = gated_conv_step(rows, short, w, *separate, position)
    y = gated_conv_step(x, short, w, *joined, position, projection=StepProjection(weight, norm))
    assert_close(y, expected, 1e-12)
    for one, other in zip(separate, joined, strict=True):
        assert_close(one, other, 1e-12)


def test_inactive_rows_keep_their_rings() -> None:
    projection_ring, mixer_ring = (torch.randn_like(ring) for ring in rings(2, 7))
    before = projection_ring.clone(), mixer_ring.clone()
    z, short, w = torch.randn(2, 3 * CHANNELS).double(), torch.randn(18, 3).double(), torch.randn(2, 7).double()
    active = torch.tensor([False, True])
    gated_conv_step(z, short, w, projection_ring, mixer_ring, torch.tensor([3, 4]), active=active)
    for now, then in zip((projection_ring, mixer_ring), before, strict=True):
        assert torch.equal(now[0], then[0])
        assert not torch.equal(now[1], then[1])


@pytest.mark.usefixtures("unchecked")
def test_rows_that_are_not_three_a_channel_are_refused() -> None:
    projection_ring, mixer_ring = rings(1, 7)
    position, w = torch.tensor([0]), torch.randn(2, 7).double()
    with pytest.raises(ShapeMismatch, match="there are 17 projected rows"):
        gated_conv_step(torch.randn(1, 17).double(), w, w, projection_ring, mixer_ring, position)
    with pytest.raises(ShapeMismatch, match="projection_taps has 2 rows; 18 projected rows need as many"):
        gated_conv_step(torch.randn(1, 18).double(), w, w, projection_ring, mixer_ring, position)
