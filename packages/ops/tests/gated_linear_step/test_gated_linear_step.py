"""gated_linear_step against its definition."""

import pytest
import torch

from subquad.ops import ShapeMismatch, StepNorm, gated_linear_step
from subquad.ops.gated_linear_step.reference import gated_linear_step_reference
from tools.testing.oracle import assert_close


@pytest.mark.parametrize("activation", ["gelu", None])
@pytest.mark.parametrize("form", ["vortex", "standard", None])
def test_gate_and_value_follow_the_equation(activation: str | None, form: str | None) -> None:
    x, gate, value = (torch.randn(n, 30, dtype=torch.float64) for n in (3, 11, 11))
    norm = None if form is None else StepNorm(torch.randn(30, dtype=torch.float64), 1e-2, form)
    expected = gated_linear_step_reference(x, gate, value, norm, activation)
    assert_close(gated_linear_step(x, gate, value, norm=norm, activation=activation), expected, 1e-12)


@pytest.mark.usefixtures("unchecked")
def test_matrices_of_different_sizes_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"value_weight has shape \(3, 6\)"):
        gated_linear_step(torch.randn(2, 6), torch.randn(4, 6), torch.randn(3, 6))
