"""The order in which ranks hold a sequence: zigzag, which gives every rank the same work under a causal mask.

A sequence is cut into `2 * size` chunks; rank r holds chunk r and chunk `2 * size - 1 - r`, in that order. It is the
order of megatron-core's `get_batch_on_this_cp_rank`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from subquad.parallel.errors import ParallelSizeError, SplitShapeError


def zigzag_order(size: int) -> list[int]:
    """Lists the chunks of the sequence in the order of the ranks that hold them: `[0, 2n-1, 1, 2n-2, ...]`.

    Raises:
      ParallelSizeError: `size` is below 1.
    """
    if size < 1:
        raise ParallelSizeError(f"size is {size}; accepted is a whole number of at least 1")
    return [chunk for rank in range(size) for chunk in (rank, 2 * size - 1 - rank)]


def zigzag_split(x: Tensor, *, size: int, rank: int, axis: int = -1) -> Tensor:
    """Takes the share of one rank out of a whole sequence.

    Args:
      x: A tensor of any shape; its axis `axis` is the sequence, whose length is a multiple of `2 * size`.
      size: Number of ranks; with 1 the share is the whole.
      rank: Which share, `0 <= rank < size`.
      axis: The axis to split.

    Raises:
      ParallelSizeError: `rank` is not one of `size` ranks.
      SplitShapeError: The length is not a multiple of `2 * size`.
    """
    if not 0 <= rank < size:
        raise ParallelSizeError(f"rank is {rank}; accepted are 0 to {size - 1}")
    if size == 1:
        return x
    length = x.shape[axis]
    if length % (2 * size):
        raise SplitShapeError(f"a sequence of {length} cannot be split over {size} ranks; accepted is k * {2 * size}")
    chunks = x.chunk(2 * size, dim=axis)
    return torch.cat([chunks[rank], chunks[2 * size - 1 - rank]], dim=axis)


def zigzag_merge(shares: Sequence[Tensor], *, axis: int = -1) -> Tensor:
    """Puts the shares of all ranks, in the order of the ranks, together again: undoes `zigzag_split`.

    Args:
      shares: Tensors of one shape.
      axis: The axis of the sequence.

    Raises:
      SplitShapeError: A share has an odd length along `axis`.
    """
    if len(shares) == 1:
        return shares[0]
    chunks: dict[int, Tensor] = {}
    for rank, share in enumerate(shares):
        if share.shape[axis] % 2:
            raise SplitShapeError(f"share {rank} has {share.shape[axis]} positions; accepted is an even number")
        chunks[rank], chunks[2 * len(shares) - 1 - rank] = share.chunk(2, dim=axis)
    return torch.cat([chunks[index] for index in range(2 * len(shares))], dim=axis)
