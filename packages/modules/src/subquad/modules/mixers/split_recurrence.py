"""Recurrences over a sequence that is split over ranks: what enters each run, and the sequence read backwards."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from subquad.modules.exchange import SequenceExchange


def entering_states(
    exchange: SequenceExchange,
    decay: Float[Tensor, "batch channel state"],
    reached: Float[Tensor, "batch channel state"],
) -> Float[Tensor, "batch channel state"]:
    """Returns the state that enters each run, where every run of every row decays it by a factor of its own.

    ``entering[run] = decay[run - 1] * entering[run - 1] + reached[run - 1]``, zero for the first. Unlike
    ``SequenceExchange.carry_state`` the factors may depend on the input. Every rank runs the recurrence for its share
    of the numbers: a run's are sent as if they were the channels of a sequence of one sample a run.

    Args:
      exchange: Of this rank.
      decay: What the whole of a run multiplies a state by.
      reached: The state that a run reaches from zero.
    """
    pairs = torch.stack([decay, reached], dim=-1).flatten(1, -2)
    count = pairs.shape[1]
    pairs = functional.pad(pairs, (0, 0, 0, -count % exchange.size))
    runs = exchange.to_channels(pairs.flatten(1).unsqueeze(-1)).unflatten(1, (-1, 2))
    entering = [torch.zeros_like(runs[:, :, 0, 0])]
    for run in range(runs.shape[-1] - 1):
        entering.append(runs[:, :, 0, run] * entering[-1] + runs[:, :, 1, run])
    return exchange.to_sequence(torch.stack(entering, dim=-1))[:, :count, 0].view_as(reached)


class ReversedExchange:
    """The exchange of a sequence that is read backwards: each run comes turned round, the last run is the first.

    Args:
      forwards: The exchange of the sequence itself.
    """

    def __init__(self, forwards: SequenceExchange) -> None:
        self.forwards = forwards

    @property
    def size(self) -> int:
        """The number of ranks that share the sequence."""
        return self.forwards.size

    @property
    def rank(self) -> int:
        """This rank."""
        return self.forwards.rank

    @property
    def segments(self) -> int:
        """The number of runs that this rank holds."""
        return self.forwards.segments

    def left_halo(self, x: Float[Tensor, "batch channel length"], n: int) -> Float[Tensor, "batch channel {n}"]:
        """Returns the ``n <= length`` samples before each run in reading order, which follow it in the sequence."""
        ends = functional.pad(x[..., x.shape[-1] - n :], (0, 0, 0, -x.shape[1] % self.size))
        runs = self.to_channels(ends)
        before = functional.pad(runs, (n, 0))[..., : runs.shape[-1]]
        return self.to_sequence(before)[:, : x.shape[1]]

    def to_channels(self, x: Float[Tensor, "batch channel length"]) -> Float[Tensor, "whole share total"]:
        """Trades length for channels, in reading order."""
        return self.forwards.to_channels(x.flip(-1)).flip(-1)

    def to_sequence(self, x: Float[Tensor, "whole share total"]) -> Float[Tensor, "batch channel length"]:
        """Undoes ``to_channels``."""
        return self.forwards.to_sequence(x.flip(-1)).flip(-1)

    def carry_state(
        self, chunk_decay: Float[Tensor, "channel state"], chunk_state: Float[Tensor, "batch channel state"]
    ) -> Float[Tensor, "batch channel state"]:
        """Returns the state that enters each run in reading order."""
        return entering_states(self, chunk_decay.expand_as(chunk_state), chunk_state)

    def gather_heads(self, qkv: Float[Tensor, "batch length head ..."]) -> Float[Tensor, "whole total share ..."]:
        """Trades heads for length, in reading order."""
        return self.forwards.gather_heads(qkv.flip(1)).flip(1)

    def scatter_heads(self, y: Float[Tensor, "whole total share ..."]) -> Float[Tensor, "batch length head ..."]:
        """Undoes ``gather_heads``."""
        return self.forwards.scatter_heads(y.flip(1)).flip(1)
