"""An engine and a scheduler without a network: tokens follow from the prompt alone, at a speed that tests choose."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import torch

from subquad.inference import (
    ByteTokenizer,
    Embedded,
    EmbedJob,
    Failed,
    Finished,
    GenerateJob,
    Scored,
    ScoreJob,
    Started,
    Ticket,
    Timing,
    Tokens,
)
from subquad.inference.errors import InferenceError, QueueFull, RequestCancelled, SchedulerClosed

BASES = b"ACGT"


class FakeEngine:
    """What GetModel describes."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(hidden_size=8)
        self.tokenizer = ByteTokenizer()
        self.weights_sha256 = "ab" * 32
        self.layer_names = ("blocks.0", "blocks.1")
        self.dtype, self.device = "torch.float32", "cpu"
        self.use_subquadratic_ops: bool | None = None


class FakeScheduler:
    """Serves tickets from a thread of its own, one token of every running request a step.

    Args:
      slots: Requests that run at once.
      max_sequence_tokens: Prompt and new tokens of one sequence.
      max_queued: Requests that may wait.
      step_seconds: Pause before each step.
      fail_at: Generated tokens after which a generation fails with `error`.
    """

    def __init__(
        self,
        *,
        slots: int = 16,
        max_sequence_tokens: int = 4096,
        max_queued: int = 64,
        step_seconds: float = 0.0,
        fail_at: int | None = None,
        error: InferenceError | None = None,
    ) -> None:
        self.slots, self.max_queued, self.step_seconds = slots, max_queued, step_seconds
        self.fail_at, self.error = fail_at, error
        self.max_sequence_tokens = max_sequence_tokens
        self.step_seconds_so_far = 0.0
        self.jobs: list[GenerateJob | ScoreJob | EmbedJob] = []
        self.released = 0
        self._lock = threading.Condition()
        self._queue: list[_Run] = []
        self._running: list[_Run] = []
        self._closing = False
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stats(self) -> SimpleNamespace:
        with self._lock:
            running = len(self._running)
            return SimpleNamespace(
                running=running,
                queued=len(self._queue),
                queued_tokens=0,
                slots_free=self.slots - running,
                step_seconds=self.step_seconds_so_far,
            )

    def generate(self, job: GenerateJob, notify: Callable[[], None]) -> Ticket:
        return self._submit(job, Ticket(job.num_samples, notify=notify))

    def score(self, job: ScoreJob, notify: Callable[[], None]) -> Ticket:
        return self._submit(job, Ticket(len(job.sequences), notify=notify))

    def embed(self, job: EmbedJob, notify: Callable[[], None]) -> Ticket:
        return self._submit(job, Ticket(len(job.sequences), notify=notify))

    def _submit(self, job: GenerateJob | ScoreJob | EmbedJob, ticket: Ticket) -> Ticket:
        with self._lock:
            if self._closing:
                raise SchedulerClosed("closed")
            if len(self._queue) >= self.max_queued:
                raise QueueFull("requests", len(self._queue) + 1, self.max_queued)
            self.jobs.append(job)
            self._queue.append(_Run(job, ticket))
            self._lock.notify()
        return ticket

    def die(self) -> None:
        """Ends the thread as a crash would: no event for anybody."""
        with self._lock:
            self._closing = True
            self._queue.clear()
            self._running.clear()
            self._lock.notify()
        self._thread.join(5)

    def close(self, drain_seconds: float = 0.0) -> None:
        self.die()

    def _loop(self) -> None:
        while True:
            with self._lock:
                while not (self._closing or self._queue or self._running):
                    self._lock.wait(0.05)
                if self._closing:
                    return
                while self._queue and len(self._running) < self.slots:
                    self._running.append(self._queue.pop(0))
                running = list(self._running)
            if self.step_seconds:
                threading.Event().wait(self.step_seconds)
            for run in running:
                run.step(self)
                run.ticket.notify()
            with self._lock:
                self.released += sum(run.done for run in self._running)
                self._running = [run for run in self._running if not run.done]
                for run in [run for run in self._queue if run.ticket.cancelled]:
                    self._queue.remove(run)


class _Run:
    def __init__(self, job: GenerateJob | ScoreJob | EmbedJob, ticket: Ticket) -> None:
        self.job, self.ticket, self.count, self.done = job, ticket, -1, False

    def step(self, scheduler: FakeScheduler) -> None:
        if self.ticket.cancelled:
            self.ticket.put(Failed(RequestCancelled()))
            self.done = True
        elif isinstance(self.job, ScoreJob):
            self._score(self.job)
        elif isinstance(self.job, EmbedJob):
            self._embed(self.job)
        elif self.count < 0:
            seed = self.job.options.seed if self.job.options.seed is not None else 7
            self.ticket.put(Started(self.ticket.id, seed, len(self.job.prompt_ids)))
            self.count = 0
        elif scheduler.fail_at is not None and self.count >= scheduler.fail_at and scheduler.error is not None:
            self.ticket.put(Failed(scheduler.error))
            self.done = True
        elif all(self.ticket.has_room(sample) for sample in range(self.job.num_samples)):
            self._generate(self.job)

    def _generate(self, job: GenerateJob) -> None:
        index, self.count = self.count, self.count + 1
        for sample in range(job.num_samples):
            token = BASES[(sum(job.prompt_ids) + index + sample) % 4]
            logprobs = [-0.25 * (index + 1)] if job.options.return_logprobs else None
            self.ticket.put(Tokens(sample, index, [token], logprobs))
            if self.count == job.options.max_new_tokens:
                self.ticket.put(Finished(sample, "max_new_tokens", None, self.count, Timing(0.5, 0.25, 0.125)))
                self.done = True

    def _embed(self, job: EmbedJob) -> None:
        for index, ids in enumerate(job.sequences):
            rows = torch.tensor(ids, dtype=torch.float32)[:, None].expand(-1, 8)
            values = rows.mean(0) if job.pooling == "mean" else rows[-1] if job.pooling == "last" else rows
            self.ticket.put(Embedded(index, dict.fromkeys(job.layers, values)))
        self.done = True

    def _score(self, job: ScoreJob) -> None:
        for index, ids in enumerate(job.sequences):
            scored = len(ids) - (0 if job.prepend_eod else 1)
            logprobs = [-1.0] * scored if job.return_logprobs else None
            self.ticket.put(Scored(index, -float(sum(ids)), scored, logprobs, Timing()))
        self.done = True
