"""What a module asks for when one sequence is split over several ranks, and the answer for a single rank."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.modules.errors import ConfigurationError, ExchangeUnsupported


@runtime_checkable
class SequenceExchange(Protocol):
    """Moves what a sequence mixer needs between the ranks that share one sequence.

    A rank holds ``segments`` contiguous runs of equal length (one when ranks hold consecutive shards, two in zigzag
    order: run ``rank`` and run ``2 * size - 1 - rank``), concatenated along the length of the ids it is given:
    ``[batch, segments * length]``. The network folds the runs into the batch axis, **run-major** (row ``run * batch +
    b``), before any method is called, so every ``batch`` below counts folded rows, and the exchange alone knows the
    order of the runs. Every method is differentiable.
    """

    @property
    def size(self) -> int:
        """The number of ranks that share the sequence."""
        ...

    @property
    def rank(self) -> int:
        """This rank, ``0 <= rank < size``."""
        ...

    @property
    def segments(self) -> int:
        """The number of contiguous runs that this rank holds."""
        ...

    def left_halo(self, x: Float[Tensor, "batch channel length"], n: int) -> Float[Tensor, "batch channel {n}"]:
        """Returns the ``n <= length`` samples just before each run, oldest first; zeros before the sequence start."""
        ...

    def to_channels(self, x: Float[Tensor, "batch channel length"]) -> Float[Tensor, "whole share total"]:
        """Trades length for channels: the whole sequence, in order, of this rank's share of channels.

        ``whole = batch / segments``, ``share = channel / size`` (channels ``rank * share`` and on), ``total = length
        * size * segments``.
        """
        ...

    def to_sequence(self, x: Float[Tensor, "whole share total"]) -> Float[Tensor, "batch channel length"]:
        """Undoes ``to_channels``."""
        ...

    def carry_state(
        self, chunk_decay: Float[Tensor, "channel state"], chunk_state: Float[Tensor, "batch channel state"]
    ) -> Float[Tensor, "batch channel state"]:
        """Returns the state of a diagonal recurrence that enters each run.

        ``state_in[run] = chunk_decay * state_in[run - 1] + chunk_state[run - 1]`` in sequence order, zero for the
        first run.

        Args:
          chunk_decay: What one run's length multiplies a state by.
          chunk_state: The state each run reaches from zero.
        """
        ...

    def gather_heads(self, qkv: Float[Tensor, "batch length head ..."]) -> Float[Tensor, "whole total share ..."]:
        """Trades heads for length: the whole sequence, in order, of this rank's share of heads; other axes are kept."""
        ...

    def scatter_heads(self, y: Float[Tensor, "whole total share ..."]) -> Float[Tensor, "batch length head ..."]:
        """Undoes ``gather_heads``; the axes behind the heads may differ from those gathered."""
        ...


class LocalExchange:
    """The exchange of a sequence that lives on one rank: nothing moves, and before the start there is silence."""

    size: int = 1
    rank: int = 0
    segments: int = 1

    def left_halo(self, x: Float[Tensor, "batch channel length"], n: int) -> Float[Tensor, "batch channel {n}"]:
        """Returns zeros: nothing precedes the sequence."""
        return x.new_zeros(x.shape[0], x.shape[1], n)

    def to_channels(self, x: Float[Tensor, "batch channel length"]) -> Float[Tensor, "batch channel length"]:
        """Returns ``x``."""
        return x

    def to_sequence(self, x: Float[Tensor, "batch channel length"]) -> Float[Tensor, "batch channel length"]:
        """Returns ``x``."""
        return x

    def carry_state(
        self, chunk_decay: Float[Tensor, "channel state"], chunk_state: Float[Tensor, "batch channel state"]
    ) -> Float[Tensor, "batch channel state"]:
        """Returns zeros: no run precedes this one."""
        return torch.zeros_like(chunk_state)

    def gather_heads(self, qkv: Float[Tensor, "batch length head ..."]) -> Float[Tensor, "batch length head ..."]:
        """Returns ``qkv``."""
        return qkv

    def scatter_heads(self, y: Float[Tensor, "batch length head ..."]) -> Float[Tensor, "batch length head ..."]:
        """Returns ``y``."""
        return y


def sequence_exchange(exchange: SequenceExchange | None, data_dim: int) -> SequenceExchange:
    """Returns the exchange of a mixer over so many axes; the local one for None.

    Raises:
      ConfigurationError: Ranks would share a grid of more than one axis.
    """
    if exchange is not None and exchange.size > 1 and data_dim != 1:
        raise ConfigurationError(f"{exchange.size} ranks cannot share a grid of {data_dim} axes; accepted is 1 axis")
    return LocalExchange() if exchange is None else exchange


def refuse_split_state(exchange: SequenceExchange) -> None:
    """Refuses to continue a state where a sequence is split over ranks.

    Raises:
      ExchangeUnsupported: ``exchange`` has more than one rank.
    """
    if exchange.size > 1:
        raise ExchangeUnsupported(
            f"a state cannot be continued on a sequence split over {exchange.size} ranks; use LocalExchange"
        )
