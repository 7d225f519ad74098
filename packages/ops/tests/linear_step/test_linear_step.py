"""linear_step against its definition."""

import pytest
import torch

from subquad.ops import ArgumentOutOfRange, ShapeMismatch, StepNorm, linear_step
from subquad.ops.linear_step.reference import linear_step_reference
from tools.testing.oracle import assert_close


@pytest.mark.parametrize("form", ["vortex", "standard", None])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_norm_product_bias_and_residual_follow_the_equation(form: str | None, rows: int) -> None:
    x, weight = torch.randn(rows, 30, dtype=torch.float64), torch.randn(7, 30, dtype=torch.float64)
    bias, residual = torch.randn(7, dtype=torch.float64), torch.randn(rows, 7, dtype=torch.float64)
    norm = None if form is None else StepNorm(torch.randn(30, dtype=torch.float64), 1e-2, form)
    expected = linear_step_reference(x, weight, norm) + bias + residual
    assert_close(linear_step(x, weight, norm=norm, bias=bias, residual=residual), expected, 1e-12)
    assert_close(linear_step(x, weight, norm=norm), expected - bias - residual, 1e-12)


def test_sixteen_bit_vectors_keep_their_type_and_are_normalised_in_float32() -> None:
    x, weight = torch.randn(2, 64).bfloat16(), torch.randn(8, 64).bfloat16()
    norm = StepNorm(torch.randn(64).bfloat16(), 1e-6, "vortex")
    y = linear_step(x, weight, norm=norm)
    assert y.dtype == torch.bfloat16
    assert_close(y, linear_step_reference(x, weight, norm), 1e-2)


@pytest.mark.usefixtures("unchecked")
def test_arguments_that_do_not_fit_are_refused_with_both_values() -> None:
    x, weight = torch.randn(2, 6), torch.randn(4, 6)
    with pytest.raises(ShapeMismatch, match=r"weight is torch.float32 \(4, 5\); x torch.float32 \(2, 6\) needs"):
        linear_step(x, weight[:, :5])
    with pytest.raises(ShapeMismatch, match=r"weight is torch.float64"):
        linear_step(x, weight.double())
    with pytest.raises(ShapeMismatch, match=r"residual has shape \(2, 3\)"):
        linear_step(x, weight, residual=torch.randn(2, 3))
    with pytest.raises(ArgumentOutOfRange, match=r"norm\.form is 'other'"):
        linear_step(x, weight, norm=StepNorm(torch.ones(6), 1e-6, "other"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentOutOfRange, match=r"norm\.eps is 0\.0"):
        linear_step(x, weight, norm=StepNorm(torch.ones(6), 0.0, "vortex"))
