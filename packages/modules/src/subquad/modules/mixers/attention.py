"""Causal multi-head attention with rotary positions."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from subquad.modules.errors import ConfigurationError, StateCapacityExceeded
from subquad.modules.exchange import LocalExchange, SequenceExchange, refuse_split_state
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.causal_rows import attend_last, attend_whole
from subquad.modules.mixers.paged_key_values import PagedKeyValueState, paged_state
from subquad.modules.parts.registered import registered
from subquad.modules.parts.rotary import RotaryEmbedding
from subquad.modules.widths import require_active, require_streams
from subquad.ops import attention_step, prepare


@dataclasses.dataclass
class KeyValueState(MixerState):
    """Rotated keys and values of the tokens seen so far, in token order; slots past ``position`` are never read.

    Attributes:
      keys: ``[batch, max_length, head, size]``.
      values: ``[batch, max_length, head, size]``.
    """

    keys: Tensor
    values: Tensor


class Attention(torch.nn.Module):
    """Attends to the present and the past.

    ``y[t] = sum(softmax(rope(q)[t] . rope(k)[s] / sqrt(size) for s <= t)[s] * v[s])``

    Args:
      channels: Number of channels; head ``h`` owns channels ``h * size`` to ``(h + 1) * size - 1``.
      num_heads: Number of heads; divides ``channels`` into heads of even size.
      rotary_base: See ``RotaryEmbedding``.
      rotary_scale: See ``RotaryEmbedding``.
      exchange: Where the rest of a split sequence is; None for a sequence on one rank.

    Raises:
      ConfigurationError: ``num_heads`` does not divide ``channels``, or heads would have an odd size.
    """

    rotary_emb: RotaryEmbedding = registered("module")

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        rotary_base: float = 1e4,
        rotary_scale: float = 1.0,
        exchange: SequenceExchange | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels < 1 or channels % num_heads:
            raise ConfigurationError(
                f"{channels} channels cannot be shared by {num_heads} heads; num_heads must divide channels"
            )
        self.channels = channels
        self.num_heads = num_heads
        self.head_size = channels // num_heads
        self.exchange: SequenceExchange = LocalExchange() if exchange is None else exchange
        self.rotary_emb = RotaryEmbedding(
            self.head_size, base=rotary_base, scale=rotary_scale, device=device, dtype=dtype
        )

    def forward(
        self,
        q: Float[Tensor, "batch length channel"],
        k: Float[Tensor, "batch length channel"],
        v: Float[Tensor, "batch length channel"],
        *,
        state: PagedKeyValueState | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Mixes whole sequences, or the next chunk of the sequences in ``state``; see ``Mixer``.

        Raises:
          InputMismatch: A stream has another number of channels or axes, or other points than the rest.
        """
        require_streams(q, k, v, self.channels, axes=1, state=state)
        qkv = torch.stack([x.unflatten(-1, (self.num_heads, self.head_size)) for x in (q, k, v)], dim=3)
        return self.attend(qkv, state).flatten(2)

    def attend(
        self,
        qkv: Float[Tensor, "batch length head 3 size"],
        state: PagedKeyValueState | None = None,
        starts: list[int] | None = None,
        wanted: int | None = None,
    ) -> Float[Tensor, "batch wanted head size"]:
        """Attends with queries, keys and values that lie beside each other, not yet rotated.

        Args:
          qkv: Query, key and value of each head.
          state: The sequences to continue.
          starts: ``state.position`` on the host, where the caller has read it already; each read waits for the device.
          wanted: The queries that attend are the last so many; None for all.

        Raises:
          StateCapacityExceeded: A row would grow past the room of ``state``.
          ExchangeUnsupported: A state was given, but the sequence is split over ranks.
        """
        if state is not None:
            refuse_split_state(self.exchange)
            return self._continue(qkv, state, state.position.tolist() if starts is None else starts, wanted)
        whole = self.exchange.gather_heads(qkv)
        position = torch.arange(whole.shape[1], device=whole.device).unsqueeze(0)
        q, k = self.rotary_emb(whole[:, :, :, 0], position), self.rotary_emb(whole[:, :, :, 1], position)
        return last_positions(self.exchange.scatter_heads(attend_whole(q, k, whole[:, :, :, 2])), 1, wanted)

    def _continue(self, qkv: Tensor, state: PagedKeyValueState, starts: list[int], wanted: int | None) -> Tensor:
        """Attends row by row over that row's own length, so that no row's result depends on its neighbours."""
        length = qkv.shape[1]
        state.require_room(starts, length, [True] * len(starts))
        if len(starts) == 1:
            position = torch.arange(starts[0], starts[0] + length, device=qkv.device).unsqueeze(0)
        else:
            position = state.position.unsqueeze(1) + torch.arange(length, device=qkv.device)
        rows = []
        for row, start in enumerate(starts):
            own = self._file(qkv[row : row + 1], position[row : row + 1], state, row, start)
            rows.append(attend_last(last_positions(own, 0, wanted), *state.read(row, start + length)))
        return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)

    def attend_padded(
        self,
        qkv: Float[Tensor, "batch length head 3 size"],
        state: PagedKeyValueState,
        padding: Bool[Tensor, "batch length"],
        wanted: int | None = None,
    ) -> Float[Tensor, "batch wanted head size"]:
        """Attends in sequences that begin here, behind padding, all at once and with nothing known on the host.

        Args:
          qkv: Query, key and value of each head.
          state: Its rows hold nothing and have a first page with room for ``length`` tokens; ``position`` is that of
            the first column, below 0 where it is padding.
          padding: What is neither stored nor attended to; the result there means nothing.
          wanted: The queries that attend are the last so many; None for all.
        """
        length, size = qkv.shape[1], state.pages.size
        column = torch.arange(length, device=qkv.device)
        position = (state.position.unsqueeze(1) + column).clamp_(min=0)
        q, k = self.rotary_emb(qkv[:, :, :, 0], position), self.rotary_emb(qkv[:, :, :, 1], position)
        v = qkv[:, :, :, 2]
        # What a row does not hold goes to the last slot of its page, which a row with padding does not reach.
        slots = state.pages.numbers[:, :1].long() * size + position.masked_fill(padding, size - 1)
        state.keys[slots] = k.to(state.keys.dtype)
        state.values[slots] = v.to(state.values.dtype)
        earlier = column <= column[:, None]
        mask = (earlier & ~padding[:, None, :]) | (column == column[:, None])
        heads = [x.transpose(1, 2) for x in (last_positions(q, 1, wanted), k, v)]
        y = scaled_dot_product_attention(*heads, attn_mask=last_positions(mask, 1, wanted)[:, None])
        return y.transpose(1, 2)

    def _file(self, qkv: Tensor, position: Tensor, state: PagedKeyValueState, row: int, start: int) -> Tensor:
        """Stores keys and values of a row's next tokens and returns its rotated queries."""
        if qkv.requires_grad:
            state.append(row, start, self.rotary_emb(qkv[:, :, :, 1], position)[0], qkv[0, :, :, 2])
            return self.rotary_emb(qkv[:, :, :, 0], position)[0]
        slots = state.pages.slots(row, start, start + qkv.shape[1])
        if isinstance(slots, slice):
            return self.rotary_emb.into(qkv, position, state.keys[None, slots], state.values[None, slots])[0]
        keys, values = torch.empty_like(qkv[:, :, :, 1]), torch.empty_like(qkv[:, :, :, 2])
        q = self.rotary_emb.into(qkv, position, keys, values)[0]
        state.append(row, start, keys[0], values[0])
        return q

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        page_count: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> PagedKeyValueState:
        """Returns room for the keys and values of ``max_length`` tokens per row, in torch's default type by default.

        With ``page_count`` there are that many pages for all rows instead, and every row has to be assigned some.
        """
        return paged_state(
            batch_size,
            max_length=max_length,
            heads=(self.num_heads, self.head_size),
            page_count=page_count,
            device=device or self.rotary_emb.inv_freq.device,
            dtype=dtype or torch.get_default_dtype(),
        )

    def step(
        self,
        q: Float[Tensor, "batch channel"],
        k: Float[Tensor, "batch channel"],
        v: Float[Tensor, "batch channel"],
        state: PagedKeyValueState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Mixes one more token per row; rows where ``active`` is false keep their state, their output means nothing."""
        require_streams(q, k, v, self.channels, axes=0, state=state)
        qkv = torch.stack([x.unflatten(-1, (self.num_heads, self.head_size)) for x in (q, k, v)], dim=2)
        return self.step_heads(qkv, state, active=active).flatten(1)

    def step_heads(
        self,
        qkv: Float[Tensor, "batch head 3 size"],
        state: PagedKeyValueState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch head size"]:
        """Does ``step`` on queries, keys and values that lie beside each other.

        Nothing waits for a device: there, a row without room stores nothing (see ``StripedHyena2State.require_room``).

        Raises:
          StateCapacityExceeded: An active row on the CPU has no room for another token.
        """
        if not qkv.is_cuda:
            require_active(active, len(qkv))
            wanted = [True] * len(qkv) if active is None else active.tolist()
            state.require_room(state.position.tolist(), 1, wanted)
        return attention_step(
            qkv,
            state.keys,
            state.values,
            state.pages.numbers,
            state.position,
            self.rotary_emb.inv_freq,
            page_size=state.pages.size,
            position_scale=self.rotary_emb.scale,
            active=active,
        )

    def prepare_step_heads(
        self,
        qkv: Float[Tensor, "batch head 3 size"],
        state: PagedKeyValueState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """Returns ``step_heads`` as a function of inputs like ``qkv``, checked here once; see ``subquad.ops.prepare``.

        It takes ``[batch, head, 3, size]`` and gives ``[batch, head, size]``. Whether a row has room is not asked: a
        row without stores nothing.
        """
        return prepare(
            "attention_step",
            qkv,
            state.keys,
            state.values,
            state.pages.numbers,
            state.position,
            self.rotary_emb.inv_freq,
            page_size=state.pages.size,
            position_scale=self.rotary_emb.scale,
            active=active,
        )

    def flop_count(self, length: int) -> int:
        """Counts both matrix products over the full square, as profilers do, on one sequence."""
        return 4 * self.channels * length * length


def last_positions(x: Tensor, axis: int, wanted: int | None) -> Tensor:
    """Returns the last ``wanted`` positions along an axis, all of them for None."""
    return x if wanted is None else x.narrow(axis, x.shape[axis] - wanted, wanted)


def check_capacity(starts: list[int], wanted: list[bool], length: int, max_length: int) -> None:
    """Refuses to write past the room of a key-value state.

    Raises:
      StateCapacityExceeded: A wanted row would hold more than ``max_length`` tokens.
    """
    for row, (start, is_wanted) in enumerate(zip(starts, wanted, strict=True)):
        if is_wanted and start + length > max_length:
            raise StateCapacityExceeded(
                f"row {row} holds {start} tokens and gets {length} more; its max_length is {max_length}"
            )
