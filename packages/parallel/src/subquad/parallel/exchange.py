"""The exchange between ranks that share one sequence, over a torch.distributed process group."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.exchange import SequenceExchange
from subquad.parallel._collectives import AllToAll, GatherRanks, ZigzagHalo
from subquad.parallel.errors import SplitShapeError
from subquad.parallel.traffic import Traffic


class ContextExchange:
    """Implements `SequenceExchange` in zigzag order: every method moves what the ranks of `group` need of each other.

    A rank holds two runs, chunk `rank` and chunk `2 * size - 1 - rank`; the network folds them into the batch axis,
    run-major. A group of one rank holds the sequence whole, as one run, and nothing is sent. Gradients flow back
    through every message. All ranks must make the same calls in the same order.

    Attributes:
      group: The process group.
      traffic: What this rank has sent so far in forward passes.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Takes the process group of the ranks that share a sequence, such as `ParallelState.context_group`."""
        self.group = group
        self.traffic = Traffic()
        self._size = dist.get_world_size(group)
        self._rank = dist.get_rank(group)

    @property
    def size(self) -> int:
        """Number of ranks that share the sequence."""
        return self._size

    @property
    def rank(self) -> int:
        """This rank within the group."""
        return self._rank

    @property
    def segments(self) -> int:
        """Number of contiguous runs that this rank holds: two, or one if there is one rank."""
        return 1 if self._size == 1 else 2

    def left_halo(self, x: Float[Tensor, "batch channel length"], n: int) -> Float[Tensor, "batch channel {n}"]:
        """Returns the `n` samples just before each run, oldest first; zeros before the start of the sequence.

        One batched pair of messages; see `traffic.halo_bytes` for its size.

        Raises:
          SplitShapeError: A run is shorter than `n`, so that the halo would reach over more than one run.
        """
        if self._size == 1 or n == 0:
            return x.new_zeros(x.shape[0], x.shape[1], n)
        if n > x.shape[-1]:
            raise SplitShapeError(f"a halo of {n} samples does not fit runs of {x.shape[-1]}; accepted is at most that")
        tails = x[..., x.shape[-1] - n :]
        low, high = tails.unflatten(0, (2, -1)).unbind(0)
        receivers = int(self._rank > 0) + int(self._rank + 1 < self._size)
        self.traffic.add(receivers * low.numel() * low.element_size())
        before_low, before_high = ZigzagHalo.apply(low, high, self.group)
        return torch.cat([before_low, before_high], dim=0)

    def to_channels(self, x: Float[Tensor, "batch channel length"]) -> Float[Tensor, "whole share total"]:
        """Trades length for channels: the whole sequence of channels `rank * share` to `(rank + 1) * share`.

        Raises:
          SplitShapeError: The channels cannot be dealt out evenly.
        """
        return x if self._size == 1 else self._gather(x.transpose(1, 2)).transpose(1, 2)

    def to_sequence(self, x: Float[Tensor, "whole share total"]) -> Float[Tensor, "batch channel length"]:
        """Undoes `to_channels`."""
        return x if self._size == 1 else self._scatter(x.transpose(1, 2)).transpose(1, 2)

    def carry_state(
        self, chunk_decay: Float[Tensor, "channel state"], chunk_state: Float[Tensor, "batch channel state"]
    ) -> Float[Tensor, "batch channel state"]:
        """Returns the state of a diagonal recurrence that enters each run.

        `state_in[run] = chunk_decay * state_in[run - 1] + chunk_state[run - 1]` in sequence order, zero for the first.
        Every rank gathers the states of all runs, which are small, and runs the recurrence itself.
        """
        if self._size == 1:
            return torch.zeros_like(chunk_state)
        self.traffic.add(chunk_state.numel() * chunk_state.element_size() * (self._size - 1))
        runs = GatherRanks.apply(chunk_state, self.group).unflatten(1, (2, -1))
        in_order = [*runs[:, 0].unbind(0), *runs[:, 1].flip(0).unbind(0)]
        entering = [torch.zeros_like(in_order[0])]
        for state in in_order[:-1]:
            entering.append(chunk_decay * entering[-1] + state)
        return torch.cat([entering[self._rank], entering[2 * self._size - 1 - self._rank]], dim=0)

    def gather_heads(self, qkv: Float[Tensor, "batch length head ..."]) -> Float[Tensor, "whole total share ..."]:
        """Trades heads (axis 2) for length: the whole sequence, in order, of this rank's share of heads.

        Raises:
          SplitShapeError: The heads cannot be dealt out evenly.
        """
        return qkv if self._size == 1 else self._gather(qkv)

    def scatter_heads(self, y: Float[Tensor, "whole total share ..."]) -> Float[Tensor, "batch length head ..."]:
        """Undoes `gather_heads`."""
        return y if self._size == 1 else self._scatter(y)

    def _gather(self, x: Tensor) -> Tensor:
        """[2 * batch, length, channel, ...] to [batch, 2 * size * length, channel / size, ...]."""
        if x.shape[2] % self._size:
            raise SplitShapeError(f"{x.shape[2]} channels or heads cannot be dealt out to {self._size} ranks evenly")
        blocks = x.unflatten(2, (self._size, -1)).movedim(2, 0)
        received = self._all_to_all(blocks).unflatten(1, (2, -1))
        # Rank p holds runs p and 2n - 1 - p: all first runs in order, then all second ones backwards.
        chunks = torch.cat([received[:, 0], received[:, 1].flip(0)], dim=0)
        return chunks.movedim(0, 1).flatten(1, 2)

    def _scatter(self, y: Tensor) -> Tensor:
        """Undoes `_gather`."""
        if y.shape[1] % (2 * self._size):
            raise SplitShapeError(f"a sequence of {y.shape[1]} cannot be split into {2 * self._size} equal runs")
        chunks = y.unflatten(1, (2 * self._size, -1)).movedim(1, 0)
        blocks = torch.stack([chunks[: self._size], chunks[self._size :].flip(0)], dim=1).flatten(1, 2)
        return self._all_to_all(blocks).movedim(0, 2).flatten(2, 3)

    def _all_to_all(self, blocks: Tensor) -> Tensor:
        self.traffic.add(blocks.numel() * blocks.element_size() // self._size * (self._size - 1))
        return AllToAll.apply(blocks, self.group)


def use_exchange(model: nn.Module, exchange: SequenceExchange) -> None:
    """Has every part of a network exchange its sequence through `exchange`, instead of what it was built with.

    A network is often built before the process groups exist; afterwards this puts them in place.

    Args:
      model: A network of `subquad.modules`; parts that know no exchange are left alone.
      exchange: Such as `ContextExchange(group)`.
    """
    for module in model.modules():
        if hasattr(module, "exchange"):
            module.exchange = exchange  # type: ignore[assignment]
