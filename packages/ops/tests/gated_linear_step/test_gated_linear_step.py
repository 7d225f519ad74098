"""gated_linear_step against its definition."""

import pytest
import torch

from subquad.ops import RoundedWeight, ShapeMismatch, StepNorm, gated_linear_step, round_to_e4m3, row_scales
from subquad.ops.gated_linear_step.reference import gated_linear_step_reference
from tools.testing.oracle import assert_close


@pytest.mark.parametrize("activation", ["gelu", None])
@pytest.mark.parametrize("form", ["vortex", "standard", None])
def test_gate_and_value_follow_the_equation(activation: str | None, form: str | None) -> None:
    x, gate, value = (torch.randn(n, 30, dtype=torch.float64) for n in (3, 11, 11))
    norm = None if form is None else StepNorm(torch.randn(30, dtype=torch.float64), 1e-2, form)
    expected = gated_linear_step_reference(x, gate, value, norm, activation)
    assert_close(gated_linear_step(x, gate, value, norm=norm, activation=activation), expected, 1e-12)


def test_both_matrices_may_be_of_one_byte_a_number() -> None:
    x, matrices = torch.randn(3, 30, dtype=torch.float64), torch.randn(2, 11, 30, dtype=torch.float64)
    norm = StepNorm(torch.randn(30, dtype=torch.float64), 1e-2, "vortex")
    gate, value = (RoundedWeight(round_to_e4m3(m, row_scales(m)), row_scales(m)[:, 0]) for m in matrices)
    expected = gated_linear_step_reference(x, gate, value, norm, "gelu")
    assert_close(gated_linear_step(x, gate, value, norm=norm, activation="gelu"), expected, 1e-12)


@pytest.mark.usefixtures("unchecked")
def test_matrices_of_different_sizes_are_refused() -> None:
    with pytest.raises(
        ShapeMismatch, match=r"gate_weight and value_weight are \(4, 6\) of .* and \(3, 6\) of .*; they must"
    ):
        gated_linear_step(torch.randn(2, 6), torch.randn(4, 6), torch.randn(3, 6))
