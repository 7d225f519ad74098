"""The bridge from the engine thread to the event loop: one request's events, in order, without blocking either side."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Protocol, runtime_checkable

from subquad.inference import EmbedJob, Event, Failed, GenerateJob, ScoreJob, Ticket
from subquad.inference.errors import (
    EngineStopped,
    InvalidSequence,
    NonFiniteActivations,
    NonFiniteLogits,
    QueueFull,
    RequestCancelled,
    RequestTooLarge,
    SchedulerClosed,
)
from subquad.server.errors import (
    FieldViolation,
    InternalError,
    InvalidRequest,
    NonFiniteOutput,
    Overloaded,
    RequestError,
    Unavailable,
)
from subquad.server.health import RETRY_SECONDS
from subquad.server.metrics import SchedulerNumbers

LIVENESS_SECONDS = 1.0


@runtime_checkable
class SchedulerPort(Protocol):
    """What the service asks of a scheduler; `subquad.inference.Scheduler` is one."""

    max_sequence_tokens: int

    @property
    def alive(self) -> bool:
        """Whether the engine thread runs."""
        ...

    def generate(self, job: GenerateJob, notify: Callable[[], None]) -> Ticket:
        """Queues a generation; `notify` is called from the engine thread when events are ready."""
        ...

    def score(self, job: ScoreJob, notify: Callable[[], None]) -> Ticket:
        """Queues a scoring job."""
        ...

    def embed(self, job: EmbedJob, notify: Callable[[], None]) -> Ticket:
        """Queues an embedding job."""
        ...

    def stats(self) -> SchedulerNumbers:
        """The numbers of this moment."""
        ...

    def close(self, drain_seconds: float) -> None:
        """Ends the engine thread after the running requests, or after `drain_seconds`."""
        ...


class EngineEvents:
    """The events of one submitted request; leaving the block frees its slot, however it is left.

    Args:
      scheduler: The engine's scheduler.
      submit: Hands the job over, given the function to call from the engine thread when events are ready.
    """

    def __init__(self, scheduler: SchedulerPort, submit: Callable[[Callable[[], None]], Ticket]) -> None:
        self._scheduler = scheduler
        self._submit = submit
        self._ready = asyncio.Event()

    async def __aenter__(self) -> "EngineEvents":
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(self._ready.set)

        try:
            self._ticket = self._submit(wake)
        except Exception as error:
            raise request_error(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticket.cancel()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yields events as they come.

        Raises:
          RequestError: The engine refused or failed the request, or has died.
        """
        while True:
            await self._wait()
            for event in self._ticket.take():
                if isinstance(event, Failed):
                    raise request_error(event.error) from event.error
                yield event

    async def _wait(self) -> None:
        while not self._ready.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LIVENESS_SECONDS):
                    await self._ready.wait()
            if not self._ready.is_set() and not self._scheduler.alive:
                raise Unavailable("the engine has stopped", retry_delay=RETRY_SECONDS)
        self._ready.clear()


def request_error(error: BaseException) -> RequestError:
    """The engine's error as this service tells it; the text of an unknown one stays in the log."""
    match error:
        case QueueFull():
            return Overloaded(str(error), retry_delay=RETRY_SECONDS, quota=f"queued {error.what}")
        case RequestTooLarge():
            described = f"has {error.got} {error.unit}; accepted: at most {error.limit}"
            return InvalidRequest(str(error), violations=(FieldViolation(error.field, described),))
        case NonFiniteActivations():
            return NonFiniteOutput("the model produced activations that are not finite")
        case NonFiniteLogits():
            return NonFiniteOutput("the model produced logits that are not finite")
        case InvalidSequence():
            return InvalidRequest(str(error), violations=(FieldViolation(error.field, error.problem),))
        case SchedulerClosed() | EngineStopped() | RequestCancelled():
            return Unavailable("the engine has stopped", retry_delay=RETRY_SECONDS)
        case _ if _out_of_memory(error):
            return Overloaded("the device ran out of memory for this request", quota="device memory")
    return InternalError("the engine failed this request; the server's log names the cause under this request id")


def _out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        error = error.__cause__
    return False
