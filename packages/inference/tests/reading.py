"""A caller of a scheduler, for tests: waits for a ticket and keeps what it got."""

import threading
import time
from collections.abc import Callable
from typing import Any

from subquad.inference import Event, Failed, Finished, GenerateJob, Scheduler, Scored, ScoreJob, Started, Ticket, Tokens

PATIENCE = 60.0


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Waits until a condition holds and fails the test if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.001)


class Reader:
    """Submits a job and collects its events as they come."""

    def __init__(self, scheduler: Scheduler, job: GenerateJob | ScoreJob, **keywords: Any) -> None:
        self._changed = threading.Event()
        submit = scheduler.generate if isinstance(job, GenerateJob) else scheduler.score
        self.events: list[Event] = []
        self.ticket: Ticket = submit(job, self._changed.set, **keywords)  # type: ignore[arg-type]

    def take(self) -> list[Event]:
        """Takes what waits now."""
        new = self.ticket.take()
        self.events += new
        return new

    def finish(self) -> "Reader":
        """Takes events until there will be no more."""
        end = time.monotonic() + PATIENCE
        while True:
            done = self.ticket.done
            self.take()
            if done:
                return self
            assert time.monotonic() < end, "the request did not end"
            self._changed.wait(0.05)
            self._changed.clear()

    def of(self, kind: type) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def ids(self, sample: int = 0) -> list[int]:
        """All tokens of one sample."""
        return [i for event in self.of(Tokens) if event.sample_index == sample for i in event.ids]

    def logprobs(self, sample: int = 0) -> list[float]:
        """All log-probabilities of one sample."""
        return [p for event in self.of(Tokens) if event.sample_index == sample for p in event.logprobs or []]

    @property
    def error(self) -> Exception | None:
        """What ended the request, if an error did."""
        return next((event.error for event in self.of(Failed)), None)

    @property
    def finished(self) -> list[Finished]:
        """The last events of the samples."""
        return self.of(Finished)

    @property
    def started(self) -> list[Started]:
        """The first events."""
        return self.of(Started)

    @property
    def scores(self) -> list[Scored]:
        """The scores."""
        return self.of(Scored)
