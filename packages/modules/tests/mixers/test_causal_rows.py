"""Attention from the last tokens of a sequence, against the whole square of scores."""

import pytest
import torch
from torch.nn import functional

from subquad.modules.mixers.causal_rows import _merged, _pieces, attend_last, attend_whole
from tools.testing.oracle import assert_close, relative_error


def expected(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Softmax over the keys that each query may see, in float64."""
    q, keys, values = (x.double().transpose(0, 1) for x in (q, keys, values))
    start = keys.shape[1] - q.shape[1]
    mask = torch.ones(q.shape[1], keys.shape[1], dtype=torch.bool, device=q.device).tril(start)
    return functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask).transpose(0, 1)


@pytest.mark.parametrize(("length", "start"), [(1, 0), (1, 9), (7, 0), (7, 300), (600, 5)])
def test_the_last_queries_see_what_is_before_them(length: int, start: int) -> None:
    q, keys, values = (torch.randn(n, 2, 8).double() for n in (length, start + length, start + length))
    assert_close(attend_last(q, keys, values), expected(q, keys, values), 1e-13)


def test_whole_sequences_are_the_case_without_a_past() -> None:
    q, k, v = torch.randn(3, 2, 20, 2, 8)
    for row, got in enumerate(attend_whole(q, k, v)):
        assert_close(got, expected(q[row], k[row], v[row]), 1e-6)


def test_pieces_of_the_past_have_few_sizes_and_leave_nothing_out() -> None:
    assert _pieces(0) == []
    assert _pieces(5 * 8192 + 100) == [(0, 32768), (32768, 40960), (40960, 41060)]


def test_attentions_to_parts_of_the_keys_merge_to_that_of_all() -> None:
    q, keys, values = (torch.randn(1, 2, n, 16).bfloat16() for n in (6, 40, 40))
    parts = []
    for first, last in ((0, 5), (5, 30), (30, 40)):
        scores = q.float() @ keys[:, :, first:last].float().mT / 4
        y = scores.softmax(-1) @ values[:, :, first:last].float()
        parts.append((y.bfloat16(), scores.logsumexp(-1, keepdim=True)))
    whole = functional.scaled_dot_product_attention(q.double(), keys.double(), values.double())
    got = _merged(parts)
    assert got.dtype == torch.bfloat16
    assert_close(got, whole, 4e-3)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("length", "start"), [(300, 0), (512, 0), (1100, 0), (700, 9000), (1024, 8192), (1500, 24576), (2048, 20480)]
)
def test_fused_kernels_are_as_exact_as_a_mask(length: int, start: int) -> None:
    q, keys, values = (
        torch.randn(n, 2, 128, device="cuda").bfloat16() for n in (length, start + length, start + length)
    )
    with torch.no_grad():
        error = relative_error(attend_last(q, keys, values), expected(q, keys, values))
    assert error < 3e-3, f"{error:.2e}"
