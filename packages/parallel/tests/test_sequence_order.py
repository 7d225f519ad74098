"""Zigzag order by hand."""

import pytest
import torch

from subquad.parallel import ParallelError, ParallelSizeError, SplitShapeError, zigzag_merge, zigzag_order, zigzag_split


def test_every_rank_holds_an_early_and_a_late_chunk():
    assert zigzag_order(1) == [0, 1]
    assert zigzag_order(2) == [0, 3, 1, 2]
    assert zigzag_order(4) == [0, 7, 1, 6, 2, 5, 3, 4]


def test_shares_are_the_chunks_of_the_order():
    x = torch.arange(8)
    assert zigzag_split(x, size=2, rank=0).tolist() == [0, 1, 6, 7]
    assert zigzag_split(x, size=2, rank=1).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_merging_undoes_splitting(size: int, axis: int):
    x = torch.randn(24, 48, 24)
    assert torch.equal(zigzag_merge([zigzag_split(x, size=size, rank=r, axis=axis) for r in range(size)], axis=axis), x)


def test_what_does_not_fit_is_refused():
    with pytest.raises(SplitShapeError, match=r"a sequence of 10 cannot be split over 2 ranks; accepted is k \* 4"):
        zigzag_split(torch.zeros(10), size=2, rank=0)
    with pytest.raises(ParallelSizeError, match="rank is 2; accepted are 0 to 1"):
        zigzag_split(torch.zeros(8), size=2, rank=2)
    with pytest.raises(ParallelSizeError, match="size is 0"):
        zigzag_order(0)
    with pytest.raises(SplitShapeError, match="share 0 has 3 positions"):
        zigzag_merge([torch.zeros(3), torch.zeros(3)])
    assert issubclass(SplitShapeError, ParallelError)
