"""The products of plain linears in other layouts, against the linears' own calls."""

import pytest
import torch
from torch import nn

from subquad.modules.parts.linear_layouts import (
    add_product,
    plain_weight,
    product_channels_first,
    product_of_channels_first,
)
from tools.testing.oracle import assert_close


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [5, 70, 1030])
@pytest.mark.parametrize("gradient", [True, False])
def test_products_equal_those_of_the_linear(batch: int, length: int, gradient: bool) -> None:
    inward, outward = nn.Linear(6, 12, bias=False).double(), nn.Linear(6, 8).double()
    x = torch.randn(batch, length, 6).double()
    with torch.set_grad_enabled(gradient):
        z = product_channels_first(inward, x)
        y = product_of_channels_first(outward, x.transpose(1, 2).contiguous())
    assert_close(z, inward(x).transpose(1, 2), 1e-14)
    assert_close(y, outward(x), 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [64, 70])
def test_one_sequence_gives_the_bits_of_the_products(dtype: torch.dtype, length: int) -> None:
    inward, outward = nn.Linear(6, 12, bias=False, dtype=dtype), nn.Linear(6, 8, dtype=dtype)
    x = torch.randn(1, length, 6, dtype=dtype)
    columns = x.transpose(1, 2).contiguous()
    with torch.no_grad():
        assert torch.equal(product_channels_first(inward, x)[0], torch.mm(inward.weight, x[0].t()))
        expected = torch.addmm(outward.bias, columns[0].t(), outward.weight.t())
        assert torch.equal(product_of_channels_first(outward, columns)[0], expected)


def test_a_weight_that_is_replaced_is_used() -> None:
    inward, outward, x = nn.Linear(6, 12, bias=False), nn.Linear(6, 6), torch.randn(1, 70, 6)
    columns = x.transpose(1, 2)

    def holds() -> bool:
        z, y = product_channels_first(inward, x), product_of_channels_first(outward, columns)
        return torch.allclose(z, inward(x).transpose(1, 2)) and torch.allclose(y, outward(x), atol=1e-6)

    with torch.no_grad():
        assert holds()
        inward.weight.data, outward.bias.data = torch.randn(12, 6), torch.randn(6)
        assert holds()
        inward.weight, outward.weight = nn.Parameter(torch.randn(12, 6)), nn.Parameter(torch.randn(6, 6))
        assert holds()
        for linear in (inward, outward):
            plain = torch.randn_like(linear.weight)
            del linear.weight
            linear.weight = plain  # type: ignore[assignment]  # as hooks that make a weight leave it
        assert holds()
        outward.bias = None  # type: ignore[assignment]
        assert holds()
        assert plain_weight(inward, x) is inward.weight
        assert plain_weight(inward, x.double()) is None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert plain_weight(inward, x) is None


def test_the_length_has_unit_stride() -> None:
    with torch.no_grad():
        assert product_channels_first(nn.Linear(6, 12, bias=False), torch.randn(2, 70, 6)).stride(2) == 1


def test_a_hooked_linear_is_called() -> None:
    called = []
    linear = nn.Linear(6, 6, bias=False)
    linear.register_forward_hook(lambda *_: called.append(True))
    with torch.no_grad():
        product_channels_first(linear, torch.randn(1, 70, 6))
        add_product(linear, torch.randn(1, 70, 6), torch.randn(1, 70, 6))
    assert len(called) == 2


def test_a_linear_of_another_kind_is_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    linear, x = Doubled(6, 6, bias=False), torch.randn(1, 70, 6)
    with torch.no_grad():
        assert torch.equal(product_channels_first(linear, x), 2 * (x @ linear.weight.t()).transpose(1, 2))


def test_a_residual_is_overwritten_without_gradients_only() -> None:
    linear, residual, x = nn.Linear(6, 4, bias=False), torch.randn(2, 9, 4), torch.randn(2, 9, 6)
    expected = residual + linear(x)
    kept = residual.clone()
    assert torch.equal(add_product(linear, residual, x), expected)
    assert torch.equal(residual, kept)
    with torch.no_grad():
        y = add_product(linear, residual, x)
    assert y is residual
    assert_close(y, expected, 1e-6)


def test_autocast_is_left_to_the_linear() -> None:
    linear, x = nn.Linear(6, 12, bias=False), torch.randn(1, 70, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert product_channels_first(linear, x).dtype == torch.bfloat16
        assert add_product(linear, torch.randn(1, 70, 12), x).dtype == torch.float32
