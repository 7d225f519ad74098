"""Continuous batching behind one thread: the only one that touches the network and the states."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from subquad.inference.checks import check_embed_job, check_generate_job, check_score_job
from subquad.inference.continuous_batch import ContinuousBatch, Job, job_tokens
from subquad.inference.engine import Engine
from subquad.inference.errors import EngineStopped, InvalidOption, QueueFull, RequestTooLarge, SchedulerClosed
from subquad.inference.jobs import EmbedJob, GenerateJob, ScoreJob
from subquad.inference.network import SharedNetwork, require_alive
from subquad.inference.ticket import DEFAULT_CAPACITY, Ticket

DEFAULT_SEQUENCE_TOKENS = 8192

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0  # how often an idle engine looks whether all processes of a shared network are there
_LONGEST_WAIT = 0.05  # seconds that short prompts of newcomers may keep running streams waiting


def _nothing() -> None:
    return None


def _closed() -> SchedulerClosed:
    return SchedulerClosed("the scheduler was closed before the request ended")


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """What a scheduler takes; state is reserved for all of it at the start, so that no step can run out of memory.

    Args:
      max_running: Rows of the pool: samples that run at once. Every decode step has this many rows.
      max_queued: Requests that may wait for rows; those for which rows are free do not count.
      max_queued_tokens: Prompt tokens and tokens to score that may wait in all, likewise.
      prefill_chunk: Tokens read in one step.
      max_sequence_tokens: Prompt and new tokens of one sequence; default: the engine's, at most 8,192.

    Raises:
      InvalidOption: A limit is too small.
    """

    max_running: int = 16
    max_queued: int = 64
    max_queued_tokens: int = 1 << 20
    prefill_chunk: int = 2048
    max_sequence_tokens: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low = 2 if field.name == "max_sequence_tokens" else 1
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
                raise InvalidOption(field.name, value, f"an integer, {low} or more")


@dataclass(frozen=True)
class SchedulerStats:
    """A look at the scheduler; counters only grow.

    Attributes:
      running: Requests that hold rows.
      queued: Requests that wait.
      queued_tokens: Their tokens.
      slots_free: Rows that nobody holds.
      slots_total: All rows.
      steps, prefill_chunks, prefills, decode_steps, generated_tokens: What was done so far.
      step_seconds: How long the present step has been running, 0 between steps; a watchdog's reading.
    """

    running: int
    queued: int
    queued_tokens: int
    slots_free: int
    slots_total: int
    steps: int
    prefill_chunks: int
    prefills: int
    decode_steps: int
    generated_tokens: int
    step_seconds: float


class Scheduler:
    """Runs the requests of many callers over one engine; every public method may be called from any thread.

    Args:
      engine: The engine; while the scheduler runs nobody else should use it heavily.
      limits: What is accepted.
      poison_freed: Fill freed states with NaN (for tests).

    Raises:
      InvalidOption: The limits ask for longer sequences than the engine takes.
    """

    def __init__(self, engine: Engine, limits: SchedulerLimits | None = None, *, poison_freed: bool = False) -> None:
        limits = limits or SchedulerLimits()
        most = engine.max_sequence_tokens
        tokens = limits.max_sequence_tokens or min(most, DEFAULT_SEQUENCE_TOKENS)
        if tokens > most:
            raise InvalidOption("max_sequence_tokens", tokens, f"an integer from 2 to {most}, what the engine takes")
        self.engine = engine
        self.limits = dataclasses.replace(limits, max_sequence_tokens=tokens)
        self.max_sequence_tokens = tokens
        self._batch = ContinuousBatch(
            engine.network,
            engine.tokenizer,
            slots=limits.max_running,
            max_sequence_tokens=tokens,
            prefill_chunk=limits.prefill_chunk,
            longest_wait=_LONGEST_WAIT,
            prefill_rows=engine.prefill_rows,
            poison_freed=poison_freed,
        )
        self._condition = threading.Condition()
        self._inbox: list[tuple[Ticket, Job, float]] = []
        self._woken = self._closing = self._stopping = False
        self._died: BaseException | None = None
        self._step_started: float | None = None
        self._thread = threading.Thread(target=self._run, name="subquad-engine", daemon=True)

    def start(self) -> None:
        """Starts the engine thread; requests may have been submitted before."""
        self._thread.start()

    def close(self, drain_seconds: float = 30.0) -> None:
        """Takes no more requests, lets the accepted ones end for up to ``drain_seconds``, then drops the rest.

        Called by a ``notify``, which must return at once, it drops the rest soon after.
        """
        if threading.current_thread() is self._thread:
            with self._condition:
                self._closing = self._stopping = True
            return
        deadline = time.monotonic() + drain_seconds
        with self._condition:
            self._closing = True
            self._condition.notify_all()
            while self._thread.is_alive() and not self._empty():
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._condition.wait(min(left, 0.05))
            self._stopping = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._end_all(_closed())

    def __enter__(self) -> "Scheduler":
        """Starts the engine thread."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes; without waiting where an error is under way."""
        self.close(30.0 if kind is None else 0.0)

    @property
    def alive(self) -> bool:
        """Whether the engine thread runs and takes steps."""
        return self._thread.is_alive() and self._died is None

    def stats(self) -> SchedulerStats:
        """Returns the present numbers."""
        with self._condition:
            batch, counters, started = self._batch, self._batch.counters, self._step_started
            return SchedulerStats(
                running=batch.running,
                queued=batch.queued + len(self._inbox),
                queued_tokens=self._queued_tokens(),
                slots_free=batch.pool.free,
                slots_total=batch.pool.slots,
                steps=counters.steps,
                prefill_chunks=counters.prefill_chunks,
                prefills=counters.prefills,
                decode_steps=counters.decode_steps,
                generated_tokens=counters.generated_tokens,
                step_seconds=0.0 if started is None else time.monotonic() - started,
            )

    def generate(
        self, job: GenerateJob, notify: Callable[[], object] = _nothing, *, buffer_capacity: int = DEFAULT_CAPACITY
    ) -> Ticket:
        """Queues a generation.

        Args:
          job: What to generate.
          notify: Called from the engine thread whenever events became available; must return at once.
          buffer_capacity: Tokens of one sample that may wait in the ticket.

        Raises:
          InvalidSequence, InvalidOption: The job is not valid.
          RequestTooLarge: It can never fit.
          QueueFull: Too much waits already.
          SchedulerClosed, EngineStopped: Nothing is taken any more.
        """
        check_generate_job(
            job,
            vocab_size=self.engine.tokenizer.vocab_size,
            max_sequence_tokens=self.max_sequence_tokens,
            slots=self.limits.max_running,
        )
        return self._submit(
            job, Ticket(job.num_samples, notify=notify, wake=self._wake, buffer_capacity=buffer_capacity)
        )

    def score(self, job: ScoreJob, notify: Callable[[], object] = _nothing) -> Ticket:
        """Queues a scoring; see `generate`. One `Scored` event a sequence follows, in order."""
        check_score_job(job, vocab_size=self.engine.tokenizer.vocab_size, max_sequence_tokens=self.max_sequence_tokens)
        return self._submit(job, Ticket(len(job.sequences), notify=notify, wake=self._wake))

    def embed(self, job: EmbedJob, notify: Callable[[], object] = _nothing) -> Ticket:
        """Queues an embedding; see `generate`. One `Embedded` event a sequence follows, in order."""
        check_embed_job(
            job,
            vocab_size=self.engine.tokenizer.vocab_size,
            max_sequence_tokens=self.max_sequence_tokens,
            model=self.engine.model,
        )
        return self._submit(job, Ticket(len(job.sequences), notify=notify, wake=self._wake))

    def _submit(self, job: Job, ticket: Ticket) -> Ticket:
        tokens = job_tokens(job)
        if tokens > self.limits.max_queued_tokens:
            raise RequestTooLarge("the request", tokens, self.limits.max_queued_tokens, "tokens")
        with self._condition:
            if self._died is not None:
                raise EngineStopped(f"the engine thread ended: {self._died}")
            if self._closing:
                raise SchedulerClosed("the scheduler is closing and takes no more requests")
            waiting = self._batch.left_waiting([*(earlier for _, earlier, _ in self._inbox), job])
            if len(waiting) > self.limits.max_queued:
                raise QueueFull("requests", len(waiting), self.limits.max_queued)
            if (left := sum(map(job_tokens, waiting))) > self.limits.max_queued_tokens:
                raise QueueFull("tokens", left, self.limits.max_queued_tokens)
            self._inbox.append((ticket, job, time.monotonic()))
            self._condition.notify_all()
        return ticket

    def _queued_tokens(self) -> int:
        return self._batch.queued_tokens + sum(job_tokens(job) for _, job, _ in self._inbox)

    def _empty(self) -> bool:
        return not self._inbox and self._batch.idle

    def _wake(self) -> None:
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def _run(self) -> None:
        try:
            worked = False
            while self._take_inbox(wait=not worked):
                require_alive(self.engine.model)
                self._step_started = time.monotonic()
                worked = self._batch.step()
                self._step_started = None
            self._end_all(_closed())
        except BaseException as error:
            ended = f"the engine thread ended: {type(error).__name__}: {error}"
            _LOG.error(ended)  # where no request waits nobody else would hear of it
            self._died = error
            self._end_all(EngineStopped(ended))

    def _take_inbox(self, *, wait: bool) -> bool:
        """Moves what was submitted into the batch, waiting for something to do if asked; False to stop."""
        with self._condition:
            if wait:
                look = _LOOK_SECONDS if isinstance(self.engine.model, SharedNetwork) else None
                self._condition.wait_for(lambda: self._inbox or self._woken or self._stopping, look)
            self._woken = False
            if self._stopping:
                return False
            inbox, self._inbox = self._inbox, []
            for ticket, job, submitted in inbox:
                self._batch.submit(ticket, job, submitted)
            return True

    def _end_all(self, error: SchedulerClosed | EngineStopped) -> None:
        with self._condition:
            inbox, self._inbox = self._inbox, []
            for ticket, job, submitted in inbox:
                self._batch.submit(ticket, job, submitted)
        self._batch.fail_all(error)
