"""Stop texts in a stream of tokens: a token is held back as long as it may belong to one."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Token:
    """A sampled id with its log-probability (0 where none is asked for)."""

    id: int
    logprob: float = 0.0


@dataclass
class StopMatcher:
    """Watches one stream for stop sequences that may span any number of tokens.

    Args:
      stops: The stop sequences as ids, each non-empty.
    """

    stops: Sequence[tuple[int, ...]]
    _held: list[Token] = field(default_factory=list)

    def push(self, token: Token) -> tuple[list[Token], int | None]:
        """Takes one token and returns the tokens that are now certain, and the index of the stop that was completed.

        Where several stops end at the same token, the one that began first wins. Its tokens are dropped.
        """
        self._held.append(token)
        ids = [t.id for t in self._held]
        found = [i for i, stop in enumerate(self.stops) if tuple(ids[-len(stop) :]) == stop]
        if found:
            index = max(found, key=lambda i: len(self.stops[i]))
            certain = self._held[: len(ids) - len(self.stops[index])]
            self._held = []
            return certain, index
        keep = max((self._partial(ids, stop) for stop in self.stops), default=0)
        certain = self._held[: len(ids) - keep]
        self._held = self._held[len(ids) - keep :]
        return certain, None

    def flush(self) -> list[Token]:
        """Returns the tokens that were held back, once no more will come."""
        held, self._held = self._held, []
        return held

    @staticmethod
    def _partial(ids: list[int], stop: tuple[int, ...]) -> int:
        for length in range(min(len(ids), len(stop) - 1), 0, -1):
            if tuple(ids[-length:]) == stop[:length]:
                return length
        return 0
