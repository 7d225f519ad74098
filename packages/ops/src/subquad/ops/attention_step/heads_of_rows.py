"""Rotary attention of one token of one row at a time, on the host, which reads of a row what it holds and no more."""

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops import _checks


class HeadsOfRows:
    """Stores key and value of a token and attends to its row so far; see ``attention_step``.

    ``pages`` is read at every token.
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
        self._inv_freq, self._page_size, self._position_scale = inv_freq, page_size, position_scale

    def __call__(self, qkv: Tensor, row: int, seen: int) -> Tensor:
        """Returns ``[head, size]`` for ``[head, 3, size]``; zeros for a row that is past its last page."""
        if seen >= self._pages.shape[1] * self._page_size:
            return torch.zeros_like(qkv[:, 0])
        q, k = self._rotated(qkv[:, :2], seen).to(self._keys.dtype).unbind(1)
        past_keys, past_values = self._stored(k, qkv[:, 2], row, seen)
        query, past_keys, past_values = (x.transpose(0, 1)[None] for x in (q[None], past_keys, past_values))
        y = functional.scaled_dot_product_attention(query, past_keys, past_values)
        return y[0, :, 0].to(qkv.dtype)

    def _rotated(self, x: Tensor, seen: int) -> Tensor:
        """Rotates ``[head, stream, size]`` in float32 at least."""
        wide = x.to(_checks.accumulation_dtype(x))
        angle = self._inv_freq * (seen / self._position_scale)
        cos, sin = angle.cos().to(wide.dtype), angle.sin().to(wide.dtype)
        low, high = wide.chunk(2, dim=-1)
        turned = torch.cat([low * cos, low * sin], dim=-1)
        half = cos.shape[0]
        turned[..., :half].addcmul_(high, sin, value=-1)
        turned[..., half:].addcmul_(high, cos)
        return turned.to(x.dtype)

    def _stored(self, k: Tensor, v: Tensor, row: int, seen: int) -> tuple[Tensor, Tensor]:
        """Stores a token; returns keys and values ``[token, head, size]``, as views where the pages lie in one run."""
        held, count = self._pages[row, : seen // self._page_size + 1].tolist(), seen + 1
        slot = held[-1] * self._page_size + seen % self._page_size
        self._keys[slot], self._values[slot] = k, v
        if held == list(range(held[0], held[0] + len(held))):
            first = held[0] * self._page_size
            return self._keys[first : first + count], self._values[first : first + count]
        slots = torch.cat([torch.arange(page * self._page_size, (page + 1) * self._page_size) for page in held])[:count]
        return self._keys[slots], self._values[slots]
