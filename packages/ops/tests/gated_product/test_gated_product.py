"""gated_product against its definition."""

import pytest
import torch
from torch.autograd import gradcheck

from subquad.ops import gated_product
from subquad.ops.gated_product.reference import gated_product_reference
from tools.testing.oracle import assert_matches_oracle


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_output_and_gradients_match_the_oracle(dtype: torch.dtype, activation: str | None) -> None:
    assert_matches_oracle(
        lambda a, b: gated_product(a, b, activation=activation),
        lambda a, b: gated_product_reference(a, b, activation),
        torch.randn(2, 30, 20).to(dtype),
        torch.randn(2, 30, 20).to(dtype),
    )


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_both_branches_may_lie_in_one_tensor(activation: str | None) -> None:
    x = torch.randn(2, 3, 10)
    assert torch.equal(gated_product(x, activation=activation), gated_product(*x.chunk(2, -1), activation=activation))


def test_gradients_pass_a_numeric_check() -> None:
    x = torch.randn(3, 8).double().requires_grad_()
    assert gradcheck(lambda x: gated_product(x, activation="gelu"), [x])
