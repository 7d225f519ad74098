"""Rotary attention of one token of one row at a time, on the host, which reads of a row what it holds and no more."""

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops import _checks


class HeadsOfRows:
    """Stores key and value of a token and attends to its row so far; see ``attention_step``.

    Pages, keys and values are read and written where they lie.
    """

    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        pages: Tensor,
        inv_freq: Tensor,
        *,
        page_size: int,
        position_scale: float,
    ) -> None:
        self._keys, self._values, self._pages = keys, values, pages
        self._room = pages.shape[1] * page_size
        self._page_size, self._position_scale = page_size, position_scale
        self._both_ways = torch.stack([-inv_freq, inv_freq])  # how the second half turns into the first, and back

    def __call__(self, qkv: Tensor, row: int, seen: int) -> Tensor:
        """Returns ``[head, size]`` for ``[head, 3, size]``; zeros for a row that is past its last page."""
        if seen >= self._room:
            return torch.zeros_like(qkv[:, 0])
        q, k = self._rotated(qkv.narrow(1, 0, 2), seen).to(self._keys.dtype).unbind(1)
        past_keys, past_values = self._stored(k, qkv.select(1, 2), row, seen)
        query, past_keys, past_values = (
            x.transpose(0, 1).unsqueeze(0) for x in (q.unsqueeze(0), past_keys, past_values)
        )
        y = functional.scaled_dot_product_attention(query, past_keys, past_values)
        return y.view(q.shape).to(qkv.dtype)

    def _rotated(self, x: Tensor, seen: int) -> Tensor:
        """Rotates ``[head, stream, size]`` in float32 at least."""
        wide = _checks.accumulation_dtype(x)
        angle = self._both_ways * (seen / self._position_scale)
        halves = x.to(wide).unflatten(-1, angle.shape)
        turned = halves * angle.cos().to(wide)
        turned.addcmul_(halves.flip(2), angle.sin().to(wide))
        return turned.view(x.shape).to(x.dtype)

    def _stored(self, k: Tensor, v: Tensor, row: int, seen: int) -> tuple[Tensor, Tensor]:
        """Stores a token; returns keys and values ``[token, head, size]``, as views where the pages lie in one run."""
        held, count = self._pages[row, : seen // self._page_size + 1].tolist(), seen + 1
        slot = held[-1] * self._page_size + seen % self._page_size
        self._keys.select(0, slot).copy_(k)
        self._values.select(0, slot).copy_(v)
        if held == list(range(held[0], held[0] + len(held))):
            first = held[0] * self._page_size
            return self._keys.narrow(0, first, count), self._values.narrow(0, first, count)
        slots = torch.cat([torch.arange(page * self._page_size, (page + 1) * self._page_size) for page in held])[:count]
        return self._keys[slots], self._values[slots]
