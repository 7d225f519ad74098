"""The caller's end of one request: a bounded buffer of events between the engine and a reader."""

import threading
import uuid
from collections.abc import Callable

from subquad.inference.jobs import Embedded, Event, Failed, Finished, Scored, Tokens

DEFAULT_CAPACITY = 64


def _nothing() -> None:
    return None


class Ticket:
    """Holds the events of one request until they are taken. All methods may be called from any thread.

    Tokens of a sample that wait together are merged into one event. Once ``buffer_capacity`` tokens of a sample wait,
    that sample's row is left out of the decode steps until some are taken; it keeps its slot and nobody else waits.

    Attributes:
      id: A random name of the request.
      buffer_capacity: Tokens of one sample that may wait.
    """

    def __init__(
        self,
        endings: int,
        *,
        notify: Callable[[], object] = _nothing,
        wake: Callable[[], object] = _nothing,
        buffer_capacity: int = DEFAULT_CAPACITY,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.buffer_capacity = buffer_capacity
        self.notify = notify
        self._wake = wake
        self._endings = endings
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._open: dict[int, Tokens] = {}
        self._cancelled = False

    @property
    def done(self) -> bool:
        """Whether the last event was put; it may still wait to be taken."""
        return self._endings == 0

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Asks the engine to drop the request within one step; a `Failed` event with `RequestCancelled` follows."""
        self._cancelled = True
        self._wake()

    def take(self) -> list[Event]:
        """Returns and forgets the waiting events, oldest first; never blocks."""
        with self._lock:
            events, self._events = self._events, []
            was_full = any(len(tokens.ids) >= self.buffer_capacity for tokens in self._open.values())
            self._open.clear()
        if was_full:
            self._wake()
        return events

    def has_room(self, sample_index: int, tokens: int = 1) -> bool:
        """Whether so many more tokens of a sample may be put."""
        with self._lock:
            waiting = self._open.get(sample_index)
        return (0 if waiting is None else len(waiting.ids)) + tokens <= self.buffer_capacity

    def put(self, event: Event) -> None:
        """Adds an event; tokens join those of the same sample that still wait. Called by the engine."""
        with self._lock:
            if isinstance(event, Tokens):
                waiting = self._open.get(event.sample_index)
                if waiting is not None:
                    waiting.ids.extend(event.ids)
                    if waiting.logprobs is not None and event.logprobs is not None:
                        waiting.logprobs.extend(event.logprobs)
                    return
                self._open[event.sample_index] = event
            elif isinstance(event, Failed):
                self._endings = 0
            elif isinstance(event, Finished | Scored | Embedded):
                self._endings -= 1
            self._events.append(event)
