"""Short prompts read side by side, on a GPU as one captured graph a width: else its host would launch all the while.

A prompt's result must not depend on who waits beside it. So the shape of every such call depends on the prompt's own
length alone: always so many rows, of the smallest of a few widths that it fits into, padded in front.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subquad.inference.id_rows import id_rows
from subquad.inference.state_pool import StatePool

WIDTHS = (64, 128, 256)


@runtime_checkable
class ReadsShortPrompts(Protocol):
    """A network that reads sequences of different lengths in one call."""

    def encode_short(
        self, ids: Int[Tensor, "batch length"], state: Any, lengths: list[int]
    ) -> Float[Tensor, "batch channel"]:
        """Reads rows that end with their sequences into a new state; returns the hidden state of each last position."""
        ...

    def init_state(self, batch_size: int, *, max_length: int) -> Any:
        """Returns an empty state."""
        ...


@runtime_checkable
class ReadsPaddedPrompts(ReadsShortPrompts, Protocol):
    """A network that does so with lengths on its device too."""

    def encode_padded(
        self, ids: Int[Tensor, "batch length"], state: Any, lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channel"]:
        """Does what ``encode_short`` does, and nothing on the host that a CUDA graph could not record."""
        ...


class _Graph:
    """One captured call of ``encode_padded``, whose input is copied in and whose result is copied out."""

    def __init__(self, network: ReadsPaddedPrompts, state: Any, ids: Tensor, lengths: Tensor) -> None:
        self._ids, self._lengths = ids, lengths
        stream = torch.cuda.Stream(ids.device)
        stream.wait_stream(torch.cuda.current_stream(ids.device))
        with torch.cuda.stream(stream):  # compiles kernels
            self._run(network, state)
        torch.cuda.current_stream(ids.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._hidden = self._run(network, state)

    def _run(self, network: ReadsPaddedPrompts, state: Any) -> Tensor:
        state.reset()
        return network.encode_padded(self._ids, state, self._lengths)

    def replay(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Reads other prompts."""
        self._ids.copy_(ids)
        self._lengths.copy_(lengths)
        self._graph.replay()
        return self._hidden.clone()


class ShortPrompts:
    """Reads up to ``rows`` prompts of one width at a time and puts their states into a pool.

    Args:
      network: The network.
      pool: Where the states go; its state must have ``take_rows``.
      rows: Sequences of every call; what is not used reads one token.
      longest: Tokens of a prompt at most, besides the largest of ``WIDTHS``.
    """

    def __init__(self, network: ReadsShortPrompts, pool: StatePool, *, rows: int, longest: int) -> None:
        self.rows = rows
        self._graphs: dict[int, _Graph] = {}
        self._network, self._pool, self._longest = network, pool, longest
        self._device: torch.device = pool.state.position.device
        self._state: Any = None

    def width(self, tokens: int) -> int | None:
        """Returns the width at which a prompt of so many tokens is read; None where it is read alone."""
        if tokens > self._longest:
            return None
        return next((width for width in WIDTHS if tokens <= width), None)

    def read(self, prompts: Sequence[Sequence[int]], slots: list[int]) -> Float[Tensor, "row channel"]:
        """Reads prompts of one width into slots of the pool that hold nothing.

        Returns:
          The hidden state of the last token of each, and behind them those of unused rows, which mean nothing.
        """
        width = self.width(len(prompts[0]))
        assert width is not None
        if self._state is None:
            self._state = self._network.init_state(self.rows, max_length=WIDTHS[-1])
        lengths = [len(prompt) for prompt in prompts] + [1] * (self.rows - len(prompts))
        padded = [[*[0] * (width - len(prompt)), *prompt] for prompt in prompts]
        padded += [[0] * width] * (self.rows - len(prompts))
        hidden = self._hidden(id_rows(padded, device=self._device), lengths)
        self._pool.state.take_rows(self._state, slots, lengths[: len(prompts)])  # pyright: ignore[reportAttributeAccessIssue]
        return hidden

    def _hidden(self, ids: Int[Tensor, "row width"], lengths: list[int]) -> Float[Tensor, "row channel"]:
        if not ids.is_cuda or not isinstance(self._network, ReadsPaddedPrompts):
            self._state.reset()
            return self._network.encode_short(ids, self._state, lengths)
        own = torch.tensor(lengths, pin_memory=True).to(ids.device, non_blocking=True)
        graph = self._graphs.get(ids.shape[1])
        if graph is None:
            graph = self._graphs[ids.shape[1]] = _Graph(self._network, self._state, ids.clone(), own.clone())
        return graph.replay(ids, own)


def short_prompts(network: object, pool: StatePool, *, rows: int, longest: int) -> ShortPrompts | None:
    """Returns a reader of short prompts; None for one row, or a network that reads them one by one."""
    if rows == 1 or not isinstance(network, ReadsShortPrompts) or not hasattr(pool.state, "take_rows"):
        return None
    return ShortPrompts(network, pool, rows=rows, longest=longest)
