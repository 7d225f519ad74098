"""The products of plain linears in other layouts, against the linears' own calls."""

import pytest
import torch
from torch import nn

from subquad.modules.parts.linear_layouts import add_product, product_channels_first, product_of_channels_first
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
