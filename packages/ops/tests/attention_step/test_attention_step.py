"""attention_step against attention over whole sequences."""

import sys

import pytest
import torch

from subquad.ops import ArgumentOutOfRange, ShapeMismatch, attention_step
from subquad.ops.attention_step.attention_step import compute_in_torch
from subquad.ops.attention_step.reference import attention_step_reference
from tools.testing.oracle import assert_close

HEADS, SIZE, PAGE = 2, 8, 4
PAGES = torch.tensor([[5, 0, 3], [1, 2, 4], [6, 8, 7]], dtype=torch.int32)
INV_FREQ = 10.0 ** -torch.arange(SIZE // 2).double()


def pool() -> torch.Tensor:
    """Returns slots full of NaN, of which nothing may be read."""
    return torch.full((9 * PAGE, HEADS, SIZE), torch.nan, dtype=torch.float64)


def test_steps_over_scattered_pages_equal_attention_over_each_row() -> None:
    stream, keys, values = torch.randn(3, 12, HEADS, 3, SIZE).double(), pool(), pool()
    for t in range(12):
        y = attention_step(
            stream[:, t], keys, values, PAGES, torch.full((3,), t), INV_FREQ, page_size=PAGE, position_scale=2.0
        )
        for row in range(3):
            expected = attention_step_reference(stream[row, : t + 1], INV_FREQ, position_scale=2.0)
            assert_close(y[row], expected, 1e-12)


def test_rows_have_positions_of_their_own_and_inactive_ones_store_nothing() -> None:
    stream, keys, values = torch.randn(3, 12, HEADS, 3, SIZE).double(), pool(), pool()
    position = torch.zeros(3, dtype=torch.int64)
    for pattern in ([1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 1], [1, 0, 0]):
        active = torch.tensor(pattern, dtype=torch.bool)
        qkv = stream[torch.arange(3), position]
        y = attention_step(qkv, keys, values, PAGES, position, INV_FREQ, page_size=PAGE, active=active)
        for row in active.nonzero()[:, 0].tolist():
            assert_close(y[row], attention_step_reference(stream[row, : position[row] + 1], INV_FREQ), 1e-12)
        position += active
    assert int((~keys[..., 0].isnan()).sum()) == HEADS * int(position.sum())


@pytest.mark.parametrize("pattern", [[True, False, True], [False, False, True], None])
def test_the_form_that_never_asks_the_host_computes_the_same(
    pattern: list[bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = torch.randn(3, HEADS, 3, SIZE).double()
    active = None if pattern is None else torch.tensor(pattern)
    position = torch.tensor([0, 5, 11])
    start = torch.randn(9 * PAGE, HEADS, SIZE).double()
    arguments = {"page_size": PAGE, "position_scale": 1.0, "active": active}
    keys, values = start.clone(), start.clone()
    expected = compute_in_torch(stream, keys, values, PAGES, position, INV_FREQ, **arguments)
    monkeypatch.setattr(sys.modules[compute_in_torch.__module__], "host_reads_freely", lambda _: False)
    other_keys, other_values = start.clone(), start.clone()
    y = compute_in_torch(stream, other_keys, other_values, PAGES, position, INV_FREQ, **arguments)
    wanted = torch.ones(3, dtype=torch.bool) if active is None else active
    assert_close(y[wanted], expected[wanted], 1e-12)
    assert_close(other_keys, keys, 1e-12)
    assert_close(other_values, values, 1e-12)


def test_a_row_without_room_stores_nothing() -> None:
    keys, values = pool(), pool()
    qkv = torch.randn(3, HEADS, 3, SIZE).double()
    attention_step(qkv, keys, values, PAGES, torch.full((3,), 12), INV_FREQ, page_size=PAGE)
    assert keys.isnan().all()
    assert values.isnan().all()


@pytest.mark.usefixtures("unchecked")
def test_arguments_that_do_not_fit_are_refused_with_both_values() -> None:
    qkv, keys, position = torch.randn(3, HEADS, 3, SIZE).double(), pool(), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ShapeMismatch, match=r"qkv has shape \(3, 2, 2, 8\)"):
        attention_step(qkv[:, :, :2], keys, keys, PAGES, position, INV_FREQ, page_size=PAGE)
    with pytest.raises(ShapeMismatch, match=r"values has shape \(35, 2, 8\)"):
        attention_step(qkv, keys, keys[:-1], PAGES, position, INV_FREQ, page_size=PAGE)
    with pytest.raises(ShapeMismatch, match=r"pages has shape \(2, 3\)"):
        attention_step(qkv, keys, keys, PAGES[:2], position, INV_FREQ, page_size=PAGE)
    with pytest.raises(ArgumentOutOfRange, match="page_size is 0"):
        attention_step(qkv, keys, keys, PAGES, position, INV_FREQ, page_size=0)
