"""Softmax attention over one, two or three axes: rotary positions, norms of q and k, shared heads, windows."""

import math
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.exchange import SequenceExchange, refuse_split_state, sequence_exchange
from subquad.modules.mixers.attention import KeyValueState, check_capacity
from subquad.modules.mixers.stateless import refuse_state
from subquad.modules.mixers.window_attention import attend_in_windows
from subquad.modules.parts.axial_rotary import AxialRotaryEmbedding, grid_positions
from subquad.modules.parts.l2_norm import L2Norm
from subquad.modules.parts.rms_norm import RMSNorm
from subquad.modules.traced_sizes import size_is_unknown
from subquad.modules.widths import require_active, require_streams

_QUERY_BLOCK = 256
_MOST_BLOCKS = 64  # at once: the keys of each are copied
QKNorm = Literal["l2", "rms"]
_NORM_OPERATIONS: dict[QKNorm | None, int] = {"l2": 2, "rms": 4, None: 0}  # a channel


class MultiHeadAttention(nn.Module):
    """Attends over a grid of any size: ``y = softmax(scale * rope(norm(q)) . rope(norm(k)) where seen) @ v``.

    Differs from ``Attention``, which is StripedHyena 2's. With a window, position s is seen from t where ``abs(t - s) <
    window`` along every axis; over one axis the cost is then linear in the length.

    Args:
      channels: Channels of q and of the output; head ``h`` owns channels ``h * size`` to ``(h + 1) * size - 1``.
      num_heads: Number of query heads; divides ``channels``.
      num_key_value_heads: Number of heads of k and v, which then have ``size`` channels each; divides ``num_heads``.
        None for as many.
      data_dim: Axes of space, 1 to 3.
      causal: No output sees a later position; one axis only.
      window: Positions seen to each side along each axis, the own one counted; None for all.
      rotary_base: See ``AxialRotaryEmbedding``; None for no rotary positions.
      qk_norm: ``"l2"`` for unit length, ``"rms"`` for a learned ``RMSNorm`` per head, None for none.
      scale: Factor of the products; None for ``1 / sqrt(size)``, or ``sqrt(size)`` with ``qk_norm="l2"``.
      dropout: Chance that an attention weight is dropped in training.
      exchange: Where the rest of a split sequence is, over one axis; its ranks share the heads. None for one rank.

    Raises:
      ConfigurationError: The sizes do not divide, or an argument is out of its range.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        num_key_value_heads: int | None = None,
        data_dim: int = 1,
        causal: bool = False,
        window: int | None = None,
        rotary_base: float | None = 1e4,
        qk_norm: QKNorm | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        exchange: SequenceExchange | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shared = num_heads if num_key_value_heads is None else num_key_value_heads
        if min(channels, num_heads, shared) < 1 or channels % num_heads or num_heads % shared:
            raise ConfigurationError(
                f"{channels} channels, {num_heads} heads, {shared} key and value heads; each must divide the one before"
            )
        if data_dim not in (1, 2, 3) or (causal and data_dim != 1):
            raise ConfigurationError(f"data_dim is {data_dim}, causal {causal}; accepted are 1 to 3 axes, 1 if causal")
        if window is not None and window < 1:
            raise ConfigurationError(f"window is {window}; accepted are 1 or more positions, or None for all")
        if not 0 <= dropout < 1:
            raise ConfigurationError(f"dropout is {dropout}; accepted are 0 and more, below 1")
        self.exchange = sequence_exchange(exchange, data_dim)
        if shared % self.exchange.size:
            raise ConfigurationError(f"{shared} key and value heads cannot be shared by {self.exchange.size} ranks")
        self.channels, self.num_heads, self.num_key_value_heads = channels, num_heads, shared
        self.head_size, self.data_dim, self.causal, self.window = channels // num_heads, data_dim, causal, window
        self.scale = scale or (self.head_size**0.5 if qk_norm == "l2" else self.head_size**-0.5)
        self.dropout = dropout
        self.qk_norm: QKNorm | None = qk_norm
        self.rotary = None
        if rotary_base is not None:
            self.rotary = AxialRotaryEmbedding(
                self.head_size, data_dim=data_dim, base=rotary_base, device=device, dtype=dtype
            )
        self.q_norm, self.k_norm = (_norm(qk_norm, self.head_size, device, dtype) for _ in range(2))

    @property
    def rotates(self) -> bool:
        """Whether q and k are rotated by their positions."""
        return self.rotary is not None

    @property
    def stream_channels(self) -> tuple[int, int, int]:
        """Channels of q, k and v that the mixer takes."""
        shared = self.num_key_value_heads * self.head_size
        return (self.channels, shared, shared)

    def forward(
        self,
        q: Float[Tensor, "batch *space channel"],
        k: Float[Tensor, "batch *points shared"],
        v: Float[Tensor, "batch *points shared"],
        *,
        state: KeyValueState | None = None,
    ) -> Float[Tensor, "batch *space channel"]:
        """Mixes whole grids, or the next chunk of the sequences in ``state``; see ``Mixer``.

        Keys may lie on a grid of another size where neither rotary positions nor ``causal`` nor ``window`` compare
        the two.

        Raises:
          InputMismatch: A stream has another number of channels or axes, or keys another size and positions matter.
          StateCapacityExceeded: A row would grow past the room of ``state``.
        """
        require_streams(q, k, v, self.stream_channels, axes=self.data_dim, state=state, keys_elsewhere=True)
        size = q.shape[1:-1]
        if k.shape[1:-1] != size and (self.rotary is not None or self.causal or self.window is not None):
            raise InputMismatch(
                f"keys over {tuple(k.shape[1:-1])} and queries over {tuple(size)} points; attention over two sizes has "
                "rotary_base None, causal False and window None"
            )
        if state is not None:
            return self._continue(q, k, v, state, None)
        q, k, v = (self.exchange.gather_heads(self._split(x.flatten(1, -2))).flatten(2) for x in (q, k, v))
        positions = grid_positions(size if self.exchange.size == 1 else q.shape[1:2], q.device)
        q, k, v = self._heads(q, k, v, positions.unsqueeze(0))
        y = self._attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), positions, 0).transpose(1, 2)
        return self.exchange.scatter_heads(y).flatten(2).unflatten(1, size)

    def _split(self, x: Float[Tensor, "batch length channel"]) -> Float[Tensor, "batch length head size"]:
        return x.unflatten(-1, (-1, self.head_size))

    def _heads(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Splits ``[batch, length, channel]`` into heads, norms and rotates q and k."""
        q, k, v = self._split(q), self._split(k), self._split(v)
        return self._rotated(self.q_norm(q), positions), self._rotated(self.k_norm(k), positions), v

    def _rotated(
        self, x: Float[Tensor, "batch length head size"], positions: Int[Tensor, "rows points axis"]
    ) -> Float[Tensor, "batch length head size"]:
        """Rotates heads to their positions, if at all; only then there are as many positions as tokens."""
        return x if self.rotary is None else self.rotary(x, positions)

    def _attend(
        self,
        q: Float[Tensor, "batch head length size"],
        k: Float[Tensor, "batch shared seen size"],
        v: Float[Tensor, "batch shared seen size"],
        positions: Int[Tensor, "points axis"],
        start: int,
    ) -> Float[Tensor, "batch head length size"]:
        """Attends from positions ``start`` and on; in blocks of queries where each sees only some of the keys."""
        length, seen = q.shape[2], k.shape[2]
        if self.window is None and (not self.causal or start == 0 or length == 1):
            return self._dot_product(q, k, v, None, causal=self.causal and start == 0)
        if self.window is not None and self.data_dim == 1 and size_is_unknown(length):
            dot_product = partial(self._dot_product, causal=False)
            return attend_in_windows(q, k, v, dot_product, window=self.window, causal=self.causal)
        pieces = []
        for blocks in self._alike(self._blocks(length, seen, start)):
            first, count, low, high = blocks[0]
            at, other = positions[start + first : start + first + count, None], positions[None, low:high]
            mask = torch.ones(count, high - low, dtype=torch.bool, device=q.device)
            if self.causal:
                mask &= (other <= at).all(-1)
            if self.window is not None:
                mask &= ((at - other).abs() < self.window).all(-1)
            queries = _windows(q, first, count, count, len(blocks))
            keys, values = (_windows(x, low, high - low, count, len(blocks)) for x in (k, v))
            y = self._dot_product(queries, keys, values, mask, causal=False)
            pieces.append(y.unflatten(0, (-1, len(blocks))).transpose(1, 2).flatten(2, 3))
        return torch.cat(pieces, dim=2)

    def _alike(self, blocks: list[tuple[int, int, int, int]]) -> list[list[tuple[int, int, int, int]]]:
        """Puts neighbouring blocks together that differ by a shift alone, so that one call serves them."""
        groups: list[list[tuple[int, int, int, int]]] = []
        for block in blocks:
            first, count, low, high = block
            last = groups[-1] if groups else []
            shifted = (first - count, count, low - count, high - count)
            if last and self.data_dim == 1 and last[-1] == shifted and len(last) < _MOST_BLOCKS:
                last.append(block)
            else:
                groups.append([block])
        return groups

    def _blocks(self, length: int, seen: int, start: int) -> list[tuple[int, int, int, int]]:
        """Returns the first query, the number of queries, and the range of keys of every block."""
        if self.data_dim > 1 and size_is_unknown(length):
            return [(0, length, 0, seen)]
        blocks = []
        for first in range(0, length, _QUERY_BLOCK):
            count = min(_QUERY_BLOCK, length - first)
            low, high = 0, seen
            if self.data_dim == 1 and self.window is not None:
                low, high = max(0, start + first - self.window + 1), min(seen, start + first + count + self.window - 1)
            if self.causal:
                high = min(high, start + first + count)
            blocks.append((first, count, low, high))
        return blocks

    def _dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))  # fused kernels refuse other strides
        return functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            scale=self.scale,
            enable_gqa=self.num_heads != self.num_key_value_heads,
        )

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KeyValueState:
        """Returns room for the keys and values of ``max_length`` tokens per row, in torch's default type by default.

        Raises:
          StateUnsupported: The attention is not causal.
        """
        if not self.causal:
            refuse_state(self)
        shape = (batch_size, max_length, self.num_key_value_heads, self.head_size)
        return KeyValueState(
            position=torch.zeros(batch_size, dtype=torch.int64, device=device),
            keys=torch.zeros(shape, device=device, dtype=dtype or torch.get_default_dtype()),
            values=torch.zeros(shape, device=device, dtype=dtype or torch.get_default_dtype()),
        )

    def step(
        self,
        q: Float[Tensor, "batch channel"],
        k: Float[Tensor, "batch shared"],
        v: Float[Tensor, "batch shared"],
        state: KeyValueState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Mixes one more token per row; rows where ``active`` is false keep their state and return zeros."""
        require_streams(q, k, v, self.stream_channels, axes=0, state=state)
        require_active(active, q.shape[0])
        return self._continue(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), state, active).squeeze(1)

    def _continue(self, q: Tensor, k: Tensor, v: Tensor, state: KeyValueState, active: Tensor | None) -> Tensor:
        """Attends row by row over that row's own length, so that no row's result depends on its neighbours."""
        refuse_split_state(self.exchange)
        length = q.shape[1]
        starts = state.position.tolist()
        wanted = [True] * len(starts) if active is None else active.tolist()
        check_capacity(starts, wanted, length, state.keys.shape[1])
        positions = state.position[:, None, None] + torch.arange(length, device=q.device)[None, :, None]
        q, k, v = self._heads(q, k, v, positions)
        y = torch.zeros_like(q)
        for row, (start, is_wanted) in enumerate(zip(starts, wanted, strict=True)):
            if is_wanted:
                end = start + length
                state.keys[row, start:end] = k[row]
                state.values[row, start:end] = v[row]
                keys, values = (x[row : row + 1, :end].to(q.dtype).transpose(1, 2) for x in (state.keys, state.values))
                seen = torch.arange(end, device=q.device).unsqueeze(1)
                y[row] = self._attend(q[row : row + 1].transpose(1, 2), keys, values, seen, start)[0].transpose(0, 1)
        return y.flatten(2)

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        """Counts both matrix products over all pairs that are computed, norms and rotary positions, on one sample.

        The softmax is left out, as profilers do.
        """
        points = length if isinstance(length, int) else math.prod(length)
        pairs = points * points
        if self.window is not None:
            pairs = sum(count * (high - low) for _, count, low, high in self._blocks(points, points, 0))
        each = _NORM_OPERATIONS[self.qk_norm] + (3 if self.rotates else 0)
        return 4 * self.channels * pairs + points * each * sum(self.stream_channels[:2])


def _windows(
    x: Float[Tensor, "batch head length size"], start: int, width: int, step: int, count: int
) -> Float[Tensor, "windows head width size"]:
    """Returns ``count`` windows of a sequence, ``step`` apart, as rows of the batch; one window is not copied."""
    if count == 1:
        return x[:, :, start : start + width]
    windows = x[:, :, start : start + (count - 1) * step + width].unfold(2, width, step)
    return windows.permute(0, 2, 1, 4, 3).flatten(0, 1)


def _norm(kind: QKNorm | None, size: int, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Module:
    if kind == "rms":
        return RMSNorm(size, form="standard", device=device, dtype=dtype)
    if kind not in ("l2", None):
        raise ConfigurationError(f"qk_norm is {kind!r}; accepted are 'l2', 'rms' and None")
    return L2Norm() if kind == "l2" else nn.Identity()
