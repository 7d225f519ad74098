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
    _matched: list[int] = field(init=False)  # how many ids of each stop the stream ends with
    _shorter: list[list[int]] = field(init=False)  # see `_shorter_matches`

    def __post_init__(self) -> None:
        self._matched = [0] * len(self.stops)
        self._shorter = [_shorter_matches(stop) for stop in self.stops]

    def push(self, token: Token) -> tuple[list[Token], int | None]:
        """Takes one token and returns the tokens that are now certain, and the index of the stop that was completed.

        Where several stops end at the same token, the one that began first wins. Its tokens are dropped.
        """
        self._held.append(token)
        for index, stop in enumerate(self.stops):
            matched = self._matched[index]
            while matched and stop[matched] != token.id:
                matched = self._shorter[index][matched - 1]
            self._matched[index] = matched + (stop[matched] == token.id)
        found = [i for i, stop in enumerate(self.stops) if self._matched[i] == len(stop)]
        ended = max(found, key=lambda i: len(self.stops[i]), default=None)
        certain = len(self._held) - (max(self._matched, default=0) if ended is None else len(self.stops[ended]))
        given, self._held = self._held[:certain], self._held[certain:]
        if ended is not None:
            self.flush()
        return given, ended

    def flush(self) -> list[Token]:
        """Returns the tokens that were held back, once no more will come."""
        held, self._held = self._held, []
        self._matched = [0] * len(self.stops)
        return held


def _shorter_matches(stop: tuple[int, ...]) -> list[int]:
    """Returns for each beginning of a stop the longest shorter one that it ends with, so that no id is compared again.

    Source: Knuth, Morris and Pratt 1977, "Fast pattern matching in strings".
    """
    shorter = [0] * len(stop)
    matched = 0
    for index in range(1, len(stop)):
        while matched and stop[matched] != stop[index]:
            matched = shorter[matched - 1]
        matched += stop[matched] == stop[index]
        shorter[index] = matched
    return shorter
