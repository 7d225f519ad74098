"""linear_step against its definition."""

import pytest
import torch

from subquad.ops import (
    ArgumentOutOfRange,
    DtypeMismatch,
    RoundedWeight,
    ShapeMismatch,
    StepNorm,
    linear_step,
    prepare,
    round_to_e4m3,
    row_scales,
)
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


def rounded(weight: torch.Tensor) -> RoundedWeight:
    scales = row_scales(weight)
    return RoundedWeight(round_to_e4m3(weight, scales), scales[:, 0].contiguous())


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_a_weight_of_one_byte_a_number_gives_what_its_numbers_give(rows: int) -> None:
    x, weight = torch.randn(rows, 30, dtype=torch.float64), torch.randn(7, 30, dtype=torch.float64)
    bias, norm = torch.randn(7, dtype=torch.float64), StepNorm(torch.randn(30, dtype=torch.float64), 1e-2, "vortex")
    byte = rounded(weight)
    y = linear_step(x, byte, norm=norm, bias=bias)
    assert_close(y, linear_step_reference(x, byte, norm) + bias, 1e-12)
    assert_close(y, linear_step_reference(x, weight, norm) + bias, 0.06)
    assert_close(linear_step(x.bfloat16(), byte), linear_step_reference(x.bfloat16(), byte), 4e-3)


@pytest.mark.usefixtures("unchecked")
def test_rounded_weights_that_do_not_fit_are_refused() -> None:
    x, byte = torch.randn(2, 6), rounded(torch.randn(4, 6))
    with pytest.raises(DtypeMismatch, match=r"weight\.codes is torch.float32; accepted: torch.float8_e4m3fn"):
        linear_step(x, RoundedWeight(byte.codes.float(), byte.scale))
    with pytest.raises(ShapeMismatch, match=r"weight\.scale has shape \(3,\); codes \(4, 6\) need one a row"):
        linear_step(x, RoundedWeight(byte.codes, byte.scale[:3]))
    with pytest.raises(ShapeMismatch, match=r"weight is torch.float8_e4m3fn \(4, 6\); x torch.float32 \(2, 5\) needs"):
        linear_step(x[:, :5], byte)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 5])
def test_sums_of_sixteen_bit_vectors_can_be_had_unrounded(rows: int, dtype: torch.dtype) -> None:
    x, weight, bias, residual = (torch.randn(*s).to(dtype) for s in ((rows, 64), (9, 64), (9,), (rows, 9)))
    norm = StepNorm(torch.randn(64).to(dtype), 1e-6, "standard")
    y = linear_step(x, weight, bias=bias, residual=residual, output_dtype=torch.float32)
    assert y.dtype == torch.float32
    assert_close(y, linear_step_reference(x.float(), weight.float(), None) + bias.float() + residual.float(), 1e-5)
    byte = rounded(weight)
    assert_close(linear_step(x, byte, output_dtype=torch.float32), linear_step_reference(x.float(), byte, None), 1e-5)
    assert_close(
        linear_step(x, weight, norm=norm, output_dtype=torch.float32).to(dtype), linear_step(x, weight, norm=norm), 1e-2
    )
    step = prepare("linear_step", x, weight, residual=residual, output_dtype=torch.float32)
    assert torch.equal(
        step(x, residual=residual), linear_step(x, weight, residual=residual, output_dtype=torch.float32)
    )
    assert linear_step(x, weight, output_dtype=dtype).dtype == dtype


def test_another_output_dtype_is_refused() -> None:
    x, weight = torch.randn(2, 6), torch.randn(4, 6)
    with pytest.raises(
        DtypeMismatch, match=r"output_dtype is torch.float16; accepted for x of torch.float32: torch.float32$"
    ):
        linear_step(x, weight, output_dtype=torch.float16)
    with pytest.raises(DtypeMismatch, match=r"accepted for x of torch.bfloat16: torch.bfloat16, torch.float32$"):
        linear_step(x.bfloat16(), weight.bfloat16(), output_dtype=torch.float64)
