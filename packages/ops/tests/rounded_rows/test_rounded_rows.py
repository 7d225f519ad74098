"""Rounded rows against their definition, and the layer that takes them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from subquad import ops
from subquad.ops import RoundedRows, StepNorm, rounded_norm, rounded_product, rounded_rows
from subquad.ops.linear_step.reference import linear_step_reference
from subquad.ops.rounded_rows.reference import rounded_rows_reference
from tools.testing.oracle import assert_close

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def values(rows: RoundedRows) -> Tensor:
    assert rows.codes.dtype == torch.float8_e4m3fn
    assert rows.inverse.dtype == torch.float32
    return rows.codes.double() * rows.inverse.double()[..., None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_rounded_under_a_scale_each(dtype: torch.dtype) -> None:
    x = (torch.randn(2, 9, 40) * torch.tensor([1e-3, 1e3])[:, None, None]).to(dtype)
    x[0, 3] = 0
    assert_close(values(rounded_rows(x)), rounded_rows_reference(x.double()), 1e-6)
    assert values(rounded_rows(x))[0, 3].abs().max() == 0
    first = rounded_rows(x.transpose(1, 2), layout="BHL")
    assert torch.equal(first.codes.double(), rounded_rows(x).codes.double())
    assert torch.equal(first.inverse, rounded_rows(x).inverse)


@pytest.mark.parametrize("form", ["vortex", "standard"])
@pytest.mark.parametrize("added", [False, True])
def test_a_norm_is_rounded_behind_the_sum(form: Any, added: bool) -> None:
    x, addend, scale = torch.randn(2, 9, 40).double(), torch.randn(2, 9, 40).double(), torch.randn(40).double()
    norm = StepNorm(scale, 1e-2, form)
    rows, total = rounded_norm(x, norm, addend=addend if added else None)
    expected = x + addend if added else x
    assert torch.equal(total, expected)
    normed = linear_step_reference(expected.flatten(0, 1), torch.eye(40), norm).unflatten(0, (2, 9))
    assert_close(values(rows), rounded_rows_reference(normed), 1e-6)


@pytest.mark.parametrize("activation", ["gelu", None])
def test_a_product_is_rounded_behind_its_activation(activation: Any) -> None:
    gate, value = torch.randn(2, 9, 40).double(), torch.randn(2, 9, 40).double()
    expected = (functional.gelu(gate) if activation else gate) * value
    assert_close(values(rounded_product(gate, value, activation=activation)), rounded_rows_reference(expected), 1e-6)


def test_a_layer_takes_rounded_rows_for_its_input() -> None:
    x, weight, bias = torch.randn(2, 9, 40), torch.randn(7, 40), torch.randn(7)
    scale = ops.row_scales(weight)[:, 0]
    rows = rounded_rows(x)
    got = ops.fp8_linear(rows, weight, weight_scale=scale, bias=bias)
    assert got.dtype == torch.float32
    assert_close(got, ops.fp8_linear(x, weight, weight_scale=scale) + bias, 1e-6)
    exact = values(rows) @ (values(RoundedRows(ops.round_to_e4m3(weight, scale[:, None]), scale.reciprocal())).t())
    assert_close(got, exact + bias, 1e-6)
    first = ops.fp8_linear(rows, weight, weight_scale=scale, bias=bias, layout="BHL", dtype=torch.bfloat16)
    assert (first.shape, first.dtype) == ((2, 7, 9), torch.bfloat16)
    assert_close(first.transpose(1, 2), got, 4e-3)
    assert_close(ops.fp8_linear(rows, weight, weight_scale=scale, bias=bias, backend="hopper_sums"), got, 2e-3)


def test_a_bias_and_a_layout_let_gradients_pass() -> None:
    x, weight, bias = (t.double().requires_grad_() for t in (torch.randn(2, 9, 40), torch.randn(7, 40), torch.randn(7)))
    one = torch.tensor(30.0)
    y = ops.fp8_linear(x, weight, input_scale=one, weight_scale=one, bias=bias, layout="BHL")
    upstream = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, weight, bias), upstream)
    expected = torch.autograd.grad((x @ weight.t() + bias).transpose(1, 2), (x, weight, bias), upstream)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, 1e-12)


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused_with_both_values() -> None:
    x, norm = torch.randn(2, 9, 40), StepNorm(torch.ones(40), 1e-6, "vortex")
    with pytest.raises(ops.ShapeMismatch, match=r"x has 2 axes \(9, 40\); layout BHL has 3"):
        rounded_rows(x[0], layout="BHL")
    with pytest.raises(ops.ArgumentOutOfRange, match="layout is 'LBH'"):
        rounded_rows(x, layout="LBH")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ops.ShapeMismatch, match=r"addend has shape \(9, 40\)"):
        rounded_norm(x, norm, addend=x[0])
    with pytest.raises(ops.ShapeMismatch, match=r"norm.scale has shape \(40,\)"):
        rounded_norm(x[..., :30], norm)
    with pytest.raises(ops.DtypeMismatch, match=r"value is torch.float64, gate torch.float32"):
        rounded_product(x, x.double())
    rows, weight, scale = rounded_rows(x), torch.randn(7, 40), torch.tensor(2.0)
    with pytest.raises(ops.ArgumentOutOfRange, match="input_scale is given for rounded rows"):
        ops.fp8_linear(rows, weight, input_scale=scale, weight_scale=scale)
    with pytest.raises(ops.ShapeMismatch, match=r"x.inverse has shape \(9,\); x.codes \(2, 9, 40\) need one"):
        ops.fp8_linear(RoundedRows(rows.codes, rows.inverse[0]), weight, weight_scale=scale)
    with pytest.raises(ops.DtypeMismatch, match=r"x.codes is torch.float32; accepted: torch.float8_e4m3fn"):
        ops.fp8_linear(RoundedRows(x, rows.inverse), weight, weight_scale=scale)
    with pytest.raises(ops.ShapeMismatch, match=r"bias has shape \(3,\)"):
        ops.fp8_linear(rows, weight, weight_scale=scale, bias=torch.ones(3))
    with pytest.raises(ops.ShapeMismatch, match=r"x has shape \(9, 40\); layout BHL wants 3 axes"):
        ops.fp8_linear(x[0], weight, weight_scale=scale, layout="BHL")
