"""gated_linear against its definition."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from subquad.ops import DtypeMismatch, ShapeMismatch, explain, gated_linear
from subquad.ops.errors import ArgumentOutOfRange
from subquad.ops.gated_linear.reference import gated_linear_reference
from tools.testing.oracle import assert_as_exact_as, assert_close, assert_matches_oracle


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_output_and_gradients_match_the_oracle(dtype: torch.dtype, activation: str | None) -> None:
    assert_matches_oracle(
        lambda *inputs: gated_linear(*inputs, activation=activation),
        lambda *inputs: gated_linear_reference(*inputs, activation),
        torch.randn(2, 30, 20).to(dtype),
        torch.randn(11, 20).to(dtype),
        torch.randn(11, 20).to(dtype),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_16_bits_are_as_exact_as_products_of_16_bits(dtype: torch.dtype, activation: str | None) -> None:
    inputs = [torch.randn(*shape).to(dtype) for shape in ((60, 40), (21, 40), (21, 40))]
    oracle = gated_linear_reference(*(each.double() for each in inputs), activation)
    gate, value = (functional.linear(inputs[0], weight) for weight in inputs[1:])
    plain = (functional.gelu(gate) if activation == "gelu" else gate) * value
    assert_as_exact_as("output", oracle, plain, gated_linear(*inputs, activation=activation))
    with torch.inference_mode():
        assert_as_exact_as("output", oracle, plain, gated_linear(*inputs, activation=activation))


def test_gradients_pass_a_numeric_check() -> None:
    inputs = [torch.randn(n, 5).double().requires_grad_() for n in (3, 4, 4)]
    assert gradcheck(lambda *each: gated_linear(*each, activation="gelu"), inputs)


@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("shape", [(6,), (0, 6), (1, 6), (2, 0, 6), (2, 3, 4, 6)], ids=str)
def test_rows_may_have_any_axes(shape: tuple[int, ...], activation: str | None) -> None:
    x, weights = torch.randn(shape, dtype=torch.float64), torch.randn(2, 5, 6, dtype=torch.float64)
    with torch.inference_mode():
        y = gated_linear(x, *weights, activation=activation)
    assert y.shape == (*shape[:-1], 5)
    assert_close(y, gated_linear_reference(x, *weights, activation), 1e-12)


def test_arguments_are_left_as_they_were() -> None:
    arguments = torch.randn(3, 6), torch.randn(6, 6), torch.randn(6, 6)
    copies = [each.clone() for each in arguments]
    with torch.inference_mode():
        gated_linear(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


def test_strides_change_nothing() -> None:
    x, weights = torch.randn(3, 4, 6), torch.randn(2, 5, 6)
    strided = x.transpose(0, 2).contiguous().transpose(0, 2)
    turned = weights.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(gated_linear(strided, *turned), gated_linear(x, *weights), 1e-6)


def test_autocast_changes_nothing() -> None:
    x, weights = torch.randn(3, 6), torch.randn(2, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gated_linear(x, *weights), gated_linear(x, *weights, backend="torch"))
        assert gated_linear(x, *weights).dtype == torch.float32


def test_the_backend_is_said() -> None:
    assert explain("gated_linear", torch.randn(3, 6), *torch.randn(2, 5, 6)).backend == "torch"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("x", "gate", "value", "error", "text"),
    [
        ((3, 6), (5, 7), (5, 6), ShapeMismatch, r"gate_weight has shape \(5, 7\); x \(3, 6\) needs \(output, 6\)"),
        ((3, 6), (5, 6), (6,), ShapeMismatch, r"value_weight has shape \(6,\); x \(3, 6\) needs \(output, 6\)"),
        ((), (5, 6), (5, 6), ShapeMismatch, r"gate_weight has shape \(5, 6\); x \(\) needs \(output, input\)"),
        ((3, 6), (5, 6), (4, 6), ShapeMismatch, r"have shapes \(5, 6\) and \(4, 6\); they must agree"),
    ],
)
def test_shapes_that_disagree_are_refused(
    x: tuple[int, ...], gate: tuple[int, ...], value: tuple[int, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        gated_linear(torch.randn(x), torch.randn(gate), torch.randn(value))


@pytest.mark.usefixtures("unchecked")
def test_other_disagreements_are_refused() -> None:
    x, weights = torch.randn(3, 6), torch.randn(2, 5, 6)
    with pytest.raises(DtypeMismatch, match=r"value_weight is torch.float64, x torch.float32; they must agree"):
        gated_linear(x, weights[0], weights[1].double())
    with pytest.raises(DtypeMismatch, match=r"x is torch\.int64"):
        gated_linear(x.long(), *weights)
    with pytest.raises(ArgumentOutOfRange, match="activation is 'silu'; accepted: None, 'gelu'"):
        gated_linear(x, *weights, activation="silu")  # pyright: ignore[reportArgumentType]
