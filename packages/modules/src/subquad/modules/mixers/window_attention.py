"""Attention in a window over one axis whose length a traced graph does not know: every block of queries alike."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_QUERY_BLOCK = 256


def attend_in_windows(
    q: Float[Tensor, "batch head length size"],
    k: Float[Tensor, "batch shared length size"],
    v: Float[Tensor, "batch shared length size"],
    dot_product: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    *,
    window: int,
    causal: bool,
) -> Float[Tensor, "batch head length size"]:
    """Attends from t to every s where ``abs(t - s) < window``, and ``s <= t`` if causal.

    Whole blocks are gathered, so that nothing depends on the length but the number of blocks; memory is linear in it.

    Args:
      q: Queries.
      k: Keys of the same positions.
      v: Values likewise.
      dot_product: Attention of rows under a mask ``[row, 1, query, key]``.
      window: Positions seen to each side, the own one counted.
      causal: Whether later positions are hidden.
    """
    batch, _, length, _ = q.shape
    count = length // _QUERY_BLOCK + 2  # two at least: graphs are bound to sizes of 1
    first = torch.arange(count, device=q.device)[:, None] * _QUERY_BLOCK
    at = first + torch.arange(_QUERY_BLOCK, device=q.device)
    other = first + torch.arange(1 - window, _QUERY_BLOCK + (0 if causal else window - 1), device=q.device)
    queries, keys, values = _rows(q, at), _rows(k, other), _rows(v, other)
    at, points = at[:, :, None], other[:, None]
    seen = ((at - points).abs() < window) & (points >= 0) & (points < length)
    if causal:
        seen = seen & (points <= at)
    seen = seen | (points == at)  # what fills the last blocks sees itself, lest it sees nothing
    y = dot_product(queries, keys, values, seen.repeat(batch, 1, 1).unsqueeze(1))
    y = y.transpose(1, 2).clone(memory_format=torch.contiguous_format).unflatten(0, (batch, count)).flatten(1, 2)
    return y.index_select(1, torch.arange(length, device=q.device)).transpose(1, 2)  # a slice would bind the length


def _rows(x: Tensor, positions: Tensor) -> Tensor:
    """Returns what stands at the positions ``[block, position]`` of a sequence, the blocks as rows of the batch."""
    return x.transpose(1, 2)[:, positions.clamp(0, x.shape[2] - 1)].flatten(0, 1).transpose(1, 2)
