"""Keys and values in pages: any order of pages is the same sequence."""

import pytest
import torch

from packages.modules.tests.support import lively_model, random_ids
from subquad.modules import PagedKeyValueState, StateCapacityExceeded
from subquad.modules.mixers.paged_key_values import PAGE_SIZE, paged_state


def state(page_count: int | None = 6) -> PagedKeyValueState:
    """Returns room for two rows of 700 tokens with two heads of four channels."""
    return paged_state(2, max_length=700, heads=(2, 4), page_count=page_count, device="cpu", dtype=torch.float64)


@pytest.mark.parametrize("pages", [[0, 1, 2], [3, 4, 5], [5, 0, 3]])
def test_what_was_appended_in_pieces_is_read_as_one(pages: list[int]) -> None:
    keys, values = torch.randn(2, 700, 2, 4).double().unbind(0)
    held = state()
    held.pages.assign(1, pages)
    for start, stop in ((0, 1), (1, 255), (255, 257), (257, 700)):
        held.append(1, start, keys[start:stop], values[start:stop])
    for length in (1, 256, 257, 700):
        read_keys, read_values = held.read(1, length)
        assert torch.equal(read_keys, keys[:length])
        assert torch.equal(read_values, values[:length])


def test_neighbouring_pages_are_read_without_a_copy() -> None:
    held = state()
    held.pages.assign(0, [2, 3])
    keys, _ = held.read(0, 400)
    assert keys.data_ptr() == held.keys[2 * PAGE_SIZE :].data_ptr()


def test_rows_without_a_pool_take_exactly_the_room_that_was_asked_for() -> None:
    held = state(None)
    assert held.nbytes == 2 * 2 * 700 * 2 * 4 * 8
    assert [held.pages.room(row) for row in range(2)] == [700, 700]


def test_a_row_may_not_grow_past_its_own_pages() -> None:
    held = state()
    held.pages.assign(0, [1])
    held.require_room([255, 0], 1, [True, False])
    with pytest.raises(StateCapacityExceeded, match="row 0 holds 256 tokens and gets 1 more; its max_length is 256"):
        held.require_room([256, 0], 1, [True, False])
    with pytest.raises(StateCapacityExceeded, match="row 1 holds 0 tokens and gets 1 more; its max_length is 0"):
        held.require_room([0, 0], 1, [True, True])


def test_pages_that_a_row_has_already_are_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held, sent, copy = state(), [], torch.Tensor.copy_
    monkeypatch.setattr(torch.Tensor, "copy_", lambda *a, **options: (sent.append(a[1].tolist()), copy(*a, **options)))
    for pages in ([2, 3], (2, 3), [2], [], [2, 3]):
        held.pages.assign(1, pages)
        assert held.pages.numbers[1].tolist() == [*pages, *[0] * (3 - len(pages))]
        assert held.pages.held == [[], list(pages)]
    assert sent == [[2, 3, 0], [2, 0, 0], [0, 0, 0], [2, 3, 0]]


def test_views_of_rows_share_pool_and_pages() -> None:
    held = state()
    second = held.rows(1, 1)
    held.pages.assign(1, [4])
    keys = torch.randn(3, 2, 4).double()
    second.append(0, 0, keys, keys)
    assert torch.equal(held.read(1, 3)[0], keys)
    assert held.keys[4 * PAGE_SIZE : 4 * PAGE_SIZE + 3].equal(keys)


@torch.inference_mode()
def test_a_network_over_scattered_pages_is_bitwise_the_network_over_whole_rows() -> None:
    model, ids = lively_model(), random_ids(2, 520, seed=1)
    whole, scattered = model.init_state(2, max_length=600), model.init_state(2, max_length=600, page_count=6)
    scattered.hold_pages(0, [5, 0, 2])
    scattered.hold_pages(1, [3, 1, 4])
    for held in (whole, scattered):
        model.encode(ids[:, :510], held)
    for t in range(510, 520):
        assert torch.equal(model.step(ids[:, t], whole), model.step(ids[:, t], scattered))
