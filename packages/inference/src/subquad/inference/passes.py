"""Passes over a network, one behind the other: what one gave is read once the next is under way."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch

from subquad.inference.memory import require_memory
from subquad.inference.network import Network, RecurrentState

Result_co = TypeVar("Result_co", covariant=True)
Row = TypeVar("Row")


@runtime_checkable
class Pass(Protocol[Result_co]):
    """Reads some sequences chunk by chunk; neither waits for the chunk that was launched last."""

    @property
    def done(self) -> bool:
        """Whether all chunks were launched."""
        ...

    def advance(self) -> None:
        """Launches one chunk; then reads what became of the one before, and raises where that failed."""
        ...

    def results(self) -> Result_co:
        """Waits for the last chunk and returns what all of them gave."""
        ...


def results_in_turn(passes: Iterable[Pass[Result_co]]) -> Iterator[Result_co]:
    """Yields the results of each pass, which are read once the first chunk of the next has been launched.

    So a device always has work. Each pass is taken when the one before has launched its last chunk, and holds small
    results alone from then on. Errors come in the order of the passes.
    """
    before: Pass[Result_co] | None = None
    for current in passes:
        try:
            current.advance()
        except Exception:
            if before is not None:
                before.results()
            raise
        if before is not None:
            yield before.results()
        while not current.done:
            current.advance()
        before = current
    if before is not None:
        yield before.results()


def in_order(batches: Iterable[Sequence[int]], results: Iterable[Sequence[Row]]) -> Iterator[Row]:
    """Yields the result of each sequence as soon as it and those of all before it are there.

    Args:
      batches: Numbers of the sequences that each pass reads, all of them from 0 on.
      results: What each pass gave, one after the other.
    """
    upcoming, waiting = 0, dict[int, Row]()
    found = iter(results)
    for batch in batches:
        waiting.update(zip(batch, next(found), strict=True))  # nobody else keeps them: they may be large
        while upcoming in waiting:
            yield waiting.pop(upcoming)
            upcoming += 1


def side_by_side(lengths: Sequence[int], batch_size: int, chunk: int, *, keep_order: bool = False) -> list[list[int]]:
    """Returns which sequences are read together: numbers of such of like length, the longest first.

    At most ``batch_size``, and at most as many as make a chunk of so many tokens: more of them take the memory of more
    chunks, and no less time. Where each is read alone, or ``keep_order`` says so, they keep their order: results that
    are large then never wait for those of others.
    """
    order, batches, longest = list(range(len(lengths))), list[list[int]](), 0
    if batch_size > 1 and not keep_order:
        order.sort(key=lambda k: -lengths[k])
    for number in order:
        longest = max(longest, lengths[number], 1)
        if batches and len(batches[-1]) < min(batch_size, chunk // longest):
            batches[-1].append(number)
        else:
            batches.append([number])
            longest = max(lengths[number], 1)
    return batches


class StatesInTurn:
    """The states of passes that follow each other: one that is large enough is used again.

    Args:
      network: Makes them.
      chunk: Tokens of a chunk; what is no longer needs no state.
      device: Where they lie.
    """

    def __init__(self, network: Network, chunk: int, device: torch.device) -> None:
        self._network, self._chunk, self._device = network, chunk, device
        self._state: RecurrentState | None = None
        self._rows = self._room = 0

    def empty(self, rows: int, tokens: int) -> RecurrentState | None:
        """Returns a state of which nothing was seen, for rows of up to so many tokens; None where they need none.

        Raises:
          InsufficientMemory: It does not fit.
        """
        if self._state is not None and tokens > self._chunk and rows == self._rows and tokens <= self._room:
            self._state.reset()
            return self._state
        self._state = None  # before the new one takes memory
        if tokens > self._chunk:
            require_memory(self._network, self._device, rows=rows, length=tokens, field="the longest sequence")
            self._state, self._rows, self._room = self._network.init_state(rows, max_length=tokens), rows, tokens
        return self._state
