"""rotary against its definition."""

import pytest
import torch
from torch.autograd import gradcheck

from subquad.ops import rotary, rotary_into
from subquad.ops.rotary.reference import rotary_reference
from tools.testing.oracle import assert_matches_oracle

POSITION = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 1000, 9, 10]])
TURNS = torch.tensor([1.0, 0.25, 0.001])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("gradients", [True, False])
def test_output_and_gradient_match_the_oracle(dtype: torch.dtype, gradients: bool) -> None:
    assert_matches_oracle(
        lambda x: rotary(x, POSITION, TURNS.to(x.dtype) if dtype == torch.float64 else TURNS, scale=4.0),
        lambda x: rotary_reference(x, POSITION, TURNS.to(x.dtype), 4.0),
        torch.randn(2, 5, 3, 6).to(dtype),
        gradients=gradients,
    )


def test_a_row_of_positions_serves_all_rows() -> None:
    x = torch.randn(2, 5, 3, 6)
    assert torch.equal(rotary(x, POSITION[1:], TURNS), rotary(x, POSITION[1:].expand(2, -1), TURNS))


def test_gradient_passes_a_numeric_check() -> None:
    x = torch.randn(2, 5, 1, 6).double().requires_grad_()
    assert gradcheck(lambda x: rotary(x, POSITION, TURNS.double()), [x])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_written_into_their_part_of_a_cache_and_nowhere_else(dtype: torch.dtype) -> None:
    qkv = torch.randn(2, 5, 3, 3, 6).to(dtype)
    caches = [torch.randn(2, 20, 3, 6).to(dtype) for _ in range(2)]
    kept = [cache.clone() for cache in caches]
    q = rotary_into(qkv, POSITION, TURNS, caches[0][:, 4:9], caches[1][:, 4:9], scale=2.0)
    assert torch.equal(q, rotary(qkv[:, :, :, 0], POSITION, TURNS, scale=2.0))
    kept[0][:, 4:9], kept[1][:, 4:9] = rotary(qkv[:, :, :, 1], POSITION, TURNS, scale=2.0), qkv[:, :, :, 2]
    assert all(torch.equal(a, b) for a, b in zip(caches, kept, strict=True))
