"""Several ranks that share a sequence, as threads of one process: one autograd graph spans them all."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class FakeGroup:
    """Lets threads swap tensors at a rendezvous; counts the meetings."""

    def __init__(self, size: int, segments: int) -> None:
        self.size = size
        self.segments = segments
        self.calls: list[str] = []
        self._slots: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=60)

    def swap(self, rank: int, name: str, value: Tensor) -> list[Tensor]:
        """Returns every rank's tensor."""
        self._slots[rank] = value
        self._barrier.wait()
        everyone = list(self._slots)
        if rank == 0:
            self.calls.append(name)
        self._barrier.wait()
        return everyone

    def run_of(self, rank: int, segment: int) -> int:
        """Returns which run of the sequence a rank holds: consecutive shards, or the zigzag order."""
        if self.segments == 1:
            return rank
        return rank if segment == 0 else 2 * self.size - 1 - rank

    def split(self, ids: Tensor, rank: int) -> Tensor:
        """Returns the runs of one rank, concatenated."""
        runs = ids.chunk(self.size * self.segments, dim=1)
        return torch.cat([runs[self.run_of(rank, segment)] for segment in range(self.segments)], dim=1)

    def merge(self, shards: list[Tensor]) -> Tensor:
        """Undoes ``split`` over all ranks."""
        runs: dict[int, Tensor] = {}
        for rank, shard in enumerate(shards):
            for segment, run in enumerate(shard.chunk(self.segments, dim=1)):
                runs[self.run_of(rank, segment)] = run
        return torch.cat([runs[index] for index in sorted(runs)], dim=1)

    def on_every_rank(self, work: Callable[[int], Any]) -> list[Any]:
        """Runs ``work(rank)`` on one thread per rank."""
        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(work, range(self.size)))


class FakeExchange:
    """The exchange of one rank of a ``FakeGroup``."""

    def __init__(self, group: FakeGroup, rank: int) -> None:
        self.group = group
        self.rank = rank
        self.size = group.size
        self.segments = group.segments

    def _runs(self, name: str, value: Tensor) -> list[Tensor]:
        """Returns all runs of the sequence, in its order, each with the unfolded batch."""
        runs: dict[int, Tensor] = {}
        for rank, folded in enumerate(self.group.swap(self.rank, name, value)):
            for segment, run in enumerate(folded.chunk(self.segments, dim=0)):
                runs[self.group.run_of(rank, segment)] = run
        return [runs[index] for index in range(len(runs))]

    def _mine(self, runs: list[Tensor]) -> Tensor:
        return torch.cat([runs[self.group.run_of(self.rank, segment)] for segment in range(self.segments)], dim=0)

    def _share(self, x: Tensor, dim: int) -> Tensor:
        return x.chunk(self.size, dim=dim)[self.rank]

    def left_halo(self, x: Tensor, n: int) -> Tensor:
        assert n <= x.shape[-1]
        runs = self._runs("left_halo", x)
        tails = [torch.zeros_like(runs[0][..., :n]), *(run[..., x.shape[-1] - n :] for run in runs[:-1])]
        return self._mine(tails)

    def to_channels(self, x: Tensor) -> Tensor:
        return self._share(torch.cat(self._runs("to_channels", x), dim=2), dim=1)

    def to_sequence(self, x: Tensor) -> Tensor:
        whole = torch.cat(self.group.swap(self.rank, "to_sequence", x), dim=1)
        return self._mine(list(whole.chunk(self.size * self.segments, dim=2)))

    def carry_state(self, chunk_decay: Tensor, chunk_state: Tensor) -> Tensor:
        entering = [torch.zeros_like(chunk_state[: chunk_state.shape[0] // self.segments])]
        for state in self._runs("carry_state", chunk_state)[:-1]:
            entering.append(chunk_decay * entering[-1] + state)
        return self._mine(entering)

    def gather_heads(self, qkv: Tensor) -> Tensor:
        return self._share(torch.cat(self._runs("gather_heads", qkv), dim=1), dim=2)

    def scatter_heads(self, y: Tensor) -> Tensor:
        whole = torch.cat(self.group.swap(self.rank, "scatter_heads", y), dim=2)
        return self._mine(list(whole.chunk(self.size * self.segments, dim=1)))
