"""rms_norm against its definition."""

import pytest
import torch
from torch.autograd import gradcheck

from subquad.ops import rms_norm, rms_norm_of_sum
from subquad.ops.rms_norm.reference import rms_norm_reference
from tools.testing.oracle import assert_close, assert_matches_oracle

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["standard", "vortex"])
@pytest.mark.parametrize("gradients", [True, False])
def test_output_and_gradients_match_the_oracle(dtype: torch.dtype, form: str, gradients: bool) -> None:
    assert_matches_oracle(
        lambda x, s: rms_norm(x, s, form=form, eps=1e-3),
        lambda x, s: rms_norm_reference(x, s, 1e-3, form),
        torch.randn(2, 9, 96).to(dtype),
        torch.randn(96).to(dtype),
        gradients=gradients,
    )


@pytest.mark.parametrize("form", ["standard", "vortex"])
def test_the_norm_of_a_sum_equals_its_two_steps(form: str) -> None:
    x, addend, scale = torch.randn(3, 5, 40).double(), torch.randn(3, 5, 40).double(), torch.randn(40).double()
    y, total = rms_norm_of_sum(x, addend, scale, form=form)
    assert torch.equal(total, x + addend)
    assert_close(y, rms_norm_reference(x + addend, scale, form=form), 1e-14)


def test_the_norm_of_a_sum_is_made_before_the_sum_is_rounded() -> None:
    x, addend, scale = torch.randn(5, 400).bfloat16(), torch.randn(5, 400).bfloat16(), torch.ones(400).bfloat16()
    y, total = rms_norm_of_sum(x, addend, scale)
    assert torch.equal(total, x + addend)
    assert torch.equal(y, rms_norm(x.float() + addend.float(), scale).bfloat16())


@pytest.mark.parametrize("form", ["standard", "vortex"])
def test_gradients_of_the_sum_pass_a_numeric_check(form: str) -> None:
    inputs = [torch.randn(3, 8).double(), torch.randn(3, 8).double(), torch.randn(8).double()]
    assert gradcheck(lambda *a: rms_norm_of_sum(*a, form=form), [x.requires_grad_() for x in inputs])


def test_a_narrow_addend_does_not_narrow_the_sum() -> None:
    _, total = rms_norm_of_sum(torch.randn(2, 8), torch.randn(2, 8).bfloat16(), torch.ones(8))
    assert total.dtype == torch.float32


def test_zeros_stay_zeros_and_no_rows_no_rows() -> None:
    for form in ("standard", "vortex"):
        assert torch.equal(rms_norm(torch.zeros(2, 4), torch.ones(4), form=form), torch.zeros(2, 4))
    assert rms_norm(torch.zeros(0, 4), torch.ones(4)).shape == (0, 4)
