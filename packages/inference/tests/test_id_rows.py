"""Rows of tokens as tensors."""

from array import array

import pytest
import torch

from subquad.inference.id_rows import id_rows


def test_rows_are_padded_on_the_right() -> None:
    rows = id_rows([[3, 4], [], [7, 8, 511]], pad_id=1, device=torch.device("cpu"))
    assert rows.tolist() == [[3, 4, 1], [1, 1, 1], [7, 8, 511]]
    assert rows.dtype == torch.int64


def test_the_tensor_outlives_its_lists_and_may_be_changed() -> None:
    rows = id_rows([range(5)], width=6, device=torch.device("cpu"))
    rows[0, 0] = 9
    assert rows.tolist() == [[9, 1, 2, 3, 4, 0]]


@pytest.mark.parametrize("last", [255, 256, 511])
def test_rows_with_and_without_ids_above_a_byte_are_the_same(last: int) -> None:
    rows = id_rows([(0, 1, last), range(2)], pad_id=7, device=torch.device("cpu"))
    assert rows.tolist() == [[0, 1, last], [0, 1, 7]]
    assert id_rows([array("q", [1, last])], device=torch.device("cpu")).tolist() == [[1, last]]
    assert id_rows([[], []], device=torch.device("cpu")).shape == (2, 0)
