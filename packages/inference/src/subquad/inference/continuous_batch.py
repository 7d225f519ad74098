"""Continuous batching: requests enter and leave between steps, and no request changes another's result.

One step: drop what was cancelled; admit in order of arrival while rows are free; read a chunk of one prompt or
sequence, of a grid that does not depend on load, and further prompts while all of them together are no longer than a
full chunk; decode one token for every row. Every request reserves all it will need when it is admitted, so that nothing
ever runs out half-way. This class has no thread and no lock: the offline calls of the engine drive it directly,
`Scheduler` drives it from its thread.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.inference.decode_program import Results, SamplingTable
from subquad.inference.decoding import DecodeRows, SampleStream
from subquad.inference.embedding import EmbeddingPass, resolve_layer
from subquad.inference.errors import InferenceError, NonFiniteLogits, RequestCancelled, StepFailed
from subquad.inference.id_rows import id_rows
from subquad.inference.jobs import Embedded, EmbedJob, Failed, GenerateJob, Scored, ScoreJob, Started, Timing
from subquad.inference.network import Network, read_prompt, require_alive, wide_logits
from subquad.inference.scoring import Score, ScoringPass, average_strands, strand_inputs
from subquad.inference.short_prompts import short_prompts
from subquad.inference.state_pool import StatePool, pages_for
from subquad.inference.stopping import Token
from subquad.inference.ticket import Ticket
from subquad.inference.tokenizer import Tokenizer

Job = GenerateJob | ScoreJob | EmbedJob


def job_tokens(job: Job) -> int:
    """Returns how many tokens a job has to read before it can answer."""
    return len(job.prompt_ids) if isinstance(job, GenerateJob) else sum(len(ids) for ids in job.sequences)


def reserved_tokens(job: Job, most: int) -> int:
    """Returns how many tokens a row of this job may come to hold, ``most`` at most."""
    if isinstance(job, GenerateJob):
        return min(len(job.prompt_ids) + job.options.max_new_tokens, most)
    return min(max(len(ids) for ids in job.sequences) + 1, most)


@dataclass
class Counters:
    """What was done so far."""

    steps: int = 0
    prefill_chunks: int = 0
    decode_steps: int = 0
    generated_tokens: int = 0
    prefills: int = 0


@dataclass(eq=False)
class _Request:
    """A request from its submission to its end."""

    ticket: Ticket
    job: Job
    submitted: float
    slots: list[int] = field(default_factory=list)
    admitted: float = 0.0
    prefilled: float = 0.0
    ended: bool = False

    @property
    def wanted_slots(self) -> int:
        return _wanted_slots(self.job)


def _wanted_slots(job: Job) -> int:
    return job.num_samples if isinstance(job, GenerateJob) else 1


@dataclass(eq=False)
class _Generation(_Request):
    job: GenerateJob  # type: ignore[assignment]
    next_token: int = 0
    streams: dict[int, SampleStream] = field(default_factory=dict)


@dataclass(eq=False)
class _Scoring(_Request):
    job: ScoreJob  # type: ignore[assignment]
    begun: int = 0
    passes: deque[ScoringPass] = field(default_factory=deque)
    unread: ScoringPass | None = None
    strands: list[Score] = field(default_factory=list)
    answered: int = 0


@dataclass(eq=False)
class _Embedding(_Request):
    job: EmbedJob  # type: ignore[assignment]
    begun: int = 0
    names: dict[str, str] = field(default_factory=dict)
    reading: EmbeddingPass | None = None
    unread: EmbeddingPass | None = None
    answered: int = 0


class _Draw(NamedTuple):
    """How the first tokens are drawn, one row a sample, and their positions on the device where chance draws them."""

    settings: SamplingTable
    positions: Tensor | None


class ContinuousBatch:
    """Runs generations, scorings and embeddings over one network and one pool of states.

    Args:
      network: The network.
      tokenizer: Gives the special ids and encodes stop texts.
      slots: Rows of the pool and of every decode step.
      max_sequence_tokens: Prompt and new tokens of one sequence at most.
      prefill_chunk: Tokens of a chunk; chunk ``i`` of a prompt is ``ids[i * C : (i + 1) * C]``.
      longest_wait: Seconds after which a step reads no further prompt, where rows wait to decode.
      prefill_rows: Short prompts that are read side by side; see `short_prompts`.
      page_count: Pages of keys and values in the pool; default: enough for the longest sequence in every slot.
      poison_freed: Fill freed rows with NaN (for tests).
      made_for: What its owner knows it by.
      clock: Seconds, for timings.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        *,
        slots: int,
        max_sequence_tokens: int,
        prefill_chunk: int,
        longest_wait: float = math.inf,
        prefill_rows: int = 1,
        page_count: int | None = None,
        poison_freed: bool = False,
        made_for: object = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.made_for = made_for
        self._network, self._tokenizer, self._clock = network, tokenizer, clock
        self._chunk, self._max_sequence_tokens = prefill_chunk, max_sequence_tokens
        self._longest_wait = longest_wait
        self.pool = StatePool(network, slots, max_sequence_tokens, page_count=page_count, poison_freed=poison_freed)
        self._short = short_prompts(network, self.pool, rows=prefill_rows, longest=prefill_chunk)
        self._rows = DecodeRows(network, self.pool)
        self._device = self.pool.state.position.device
        self._queue: deque[_Request] = deque()
        self._reading: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._touched: dict[str, Ticket] = {}
        self.counters = Counters()

    @property
    def eager_reason(self) -> str | None:
        """Why decode steps do not run as one captured graph; None where they do, or will."""
        return self._rows.program.eager_reason

    @property
    def running(self) -> int:
        """Number of requests that hold rows."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Number of requests that wait for rows."""
        return len(self._queue)

    def left_waiting(self, coming: Sequence[Job]) -> list[Job]:
        """Returns the jobs that wait once the free rows are given out, of those here and of ``coming`` behind them."""
        jobs = [*(request.job for request in tuple(self._queue)), *coming]
        rows, pages = self.pool.free, self.pool.free_pages  # after the queue: rows are taken before it is left
        for index, job in enumerate(jobs):
            wanted = _wanted_slots(job)
            needed = wanted * pages_for(reserved_tokens(job, self._max_sequence_tokens))
            if wanted > rows or needed > pages:
                return jobs[index:]
            rows, pages = rows - wanted, pages - needed
        return []

    @property
    def queued_tokens(self) -> int:
        """Number of tokens that they have to read."""
        return sum(job_tokens(request.job) for request in tuple(self._queue))

    @property
    def idle(self) -> bool:
        """Whether there is no request at all."""
        return not self._queue and not self._running

    def submit(self, ticket: Ticket, job: Job, submitted: float | None = None) -> None:
        """Appends a request that was checked against the limits; see `checks.check_job`."""
        kind = {GenerateJob: _Generation, ScoreJob: _Scoring, EmbedJob: _Embedding}[type(job)]
        self._queue.append(kind(ticket, job, self._clock() if submitted is None else submitted))  # type: ignore[arg-type]

    def step(self, *, decode: bool = True) -> bool:
        """Does one step, without its decode step if so asked, and returns whether there was anything to do."""
        self.counters.steps += 1
        worked = self._drop_cancelled()
        worked |= self._admit()
        self._notify()
        worked |= self._read_chunks()
        if decode:
            worked |= self._decode()
            self._notify()
        return worked

    def fail_all(self, error: InferenceError) -> None:
        """Ends every request, waiting or running, with ``error``; every reader is told before any row is given back."""
        ending = [request for request in [*self._running, *self._queue] if not request.ended]
        for request in ending:
            request.ticket.put(Failed(error))
            self._touch(request)
        self._queue.clear()
        self._notify()
        for request in ending:
            self._release(request)

    def _notify(self) -> None:
        touched, self._touched = self._touched, {}
        for ticket in touched.values():
            try:
                ticket.notify()
            except Exception:  # a reader that cannot be told has gone; nobody else may suffer from it
                ticket.cancel()

    def _touch(self, request: _Request) -> None:
        self._touched[request.ticket.id] = request.ticket

    def _drop_cancelled(self) -> bool:
        dropped = [r for r in [*self._running, *self._queue] if r.ticket.cancelled]
        for request in dropped:
            self._fail(request, RequestCancelled())
        if dropped:
            self._queue = deque(r for r in self._queue if not r.ended)
        return bool(dropped)

    def _admit(self) -> bool:
        admitted = False
        while self._queue:
            request = self._queue[0]
            slots = self.pool.acquire(request.wanted_slots, reserved_tokens(request.job, self._max_sequence_tokens))
            if slots is None:
                break
            self._queue.popleft()
            request.slots, request.admitted = slots, self._clock()
            self._running.append(request)
            self._reading.append(request)
            admitted = True
            if isinstance(request, _Generation):
                try:
                    self._start(request)
                except Exception as error:  # such as a stop text that the tokenizer does not know
                    self._fail(request, _as_inference_error(error))
        return admitted

    def _start(self, request: _Generation) -> None:
        seed = request.job.options.with_seed()
        for index, slot in enumerate(request.slots):
            request.streams[slot] = SampleStream(
                request.ticket, request.job, index, seed, self._tokenizer, self._max_sequence_tokens
            )
        request.ticket.put(Started(request.ticket.id, seed, len(request.job.prompt_ids)))
        self._touch(request)

    def _read_chunks(self) -> bool:
        """Reads a chunk of the request whose turn it is, and as many of the following as fit the tokens of one.

        Rows that wait to decode would have more steps with fewer rows in them if each step read one short prompt.
        """
        if not self._reading:
            return False
        room, waiting, start = self._chunk, bool(self._rows.ready()), self._clock()
        while self._reading and room >= self._next_chunk(self._reading[0]):
            room -= self._next_chunk(self._reading[0])
            self._read_one_chunk()
            self._notify()
            if waiting and self._clock() - start >= self._longest_wait:
                break
        return True

    def _next_chunk(self, request: _Request) -> int:
        """Returns the tokens that are read next; what is not a prompt counts as a full chunk."""
        if not isinstance(request, _Generation):
            return self._chunk
        width = self._short_width(request)
        if width is not None and self._short is not None:
            return min(self._chunk, self._short.rows * width)
        return min(self._chunk, len(request.job.prompt_ids) - request.next_token)

    def _read_one_chunk(self) -> None:
        """Reads a chunk of the request whose turn it is; requests that read take turns, but for short prompts."""
        request = self._reading.popleft()
        together = self._take_short(request)
        if together:
            self._read_short(together)
            return
        self.counters.prefill_chunks += 1
        try:
            if isinstance(request, _Generation):
                more = self._read_prompt(request)
            elif isinstance(request, _Embedding):
                more = self._read_embedded(request)
            else:
                assert isinstance(request, _Scoring)
                more = self._read_sequence(request)
        except Exception as error:
            self._fail(request, _as_inference_error(error))
            return
        if more:
            self._reading.append(request)

    def _short_width(self, request: _Request) -> int | None:
        if self._short is None or not isinstance(request, _Generation):
            return None
        return self._short.width(len(request.job.prompt_ids))

    def _take_short(self, first: _Request) -> list[_Generation]:
        """Takes those whose prompts are read beside that of ``first``; none where it is not read so."""
        width = self._short_width(first)
        if width is None:
            return []
        assert self._short is not None
        waiting = [request for request in self._reading if self._short_width(request) == width]
        taken = [request for request in [first, *waiting[: self._short.rows - 1]] if isinstance(request, _Generation)]
        self._reading = deque(request for request in self._reading if request not in taken)
        return taken

    @torch.inference_mode()
    def _read_short(self, requests: list[_Generation]) -> None:
        """Reads short prompts side by side; where that fails, each by itself, so that only the culprit ends."""
        assert self._short is not None
        self.counters.prefill_chunks += 1
        slots = [request.slots[0] for request in requests]
        try:
            draw = self._prepared_draw(requests)
            hidden = self._short.read([request.job.prompt_ids for request in requests], slots)
            self._draw_first(requests, hidden, draw)
        except Exception as error:
            if len(requests) == 1:
                self._fail(requests[0], _as_inference_error(error))
                return
            for request in requests:
                if not request.ended and not request.prefilled:
                    self.pool.reset(request.slots)
                    self._read_short([request])

    @torch.inference_mode()
    def _read_prompt(self, request: _Generation) -> bool:
        prompt, start = request.job.prompt_ids, request.next_token
        stop = min(start + self._chunk, len(prompt))
        draw = self._prepared_draw([request]) if stop == len(prompt) else None
        ids = id_rows([prompt[start:stop]], device=self._device)
        first = request.slots[0]
        hidden = read_prompt(self._network, ids, self.pool.row(first), [start])
        request.next_token = stop
        if draw is None:
            return True
        self._draw_first([request], hidden, draw)
        return False

    def _prepared_draw(self, requests: list[_Generation]) -> _Draw:
        """Sends ahead what the draw of the first tokens needs, so that it has nothing to wait for but the logits."""
        positions = [len(request.job.prompt_ids) for request in requests for _ in request.slots]
        settings = SamplingTable(len(positions), self._device)
        settings.set([request.streams[slot].settings for request in requests for slot in request.slots])
        return _Draw(settings, None if settings.greedy else id_rows([positions], device=self._device)[0])

    def _draw_first(self, requests: list[_Generation], hidden: Tensor, draw: _Draw) -> None:
        """Draws the first token of every sample from the last hidden state of each prompt, the first rows given."""
        logits = wide_logits(self._network, hidden[:, None])[: len(requests), 0]
        for request in requests:
            self.pool.copy(request.slots[0], request.slots[1:])
        rows = [row.expand(len(request.slots), -1) for row, request in zip(logits.split(1), requests, strict=True)]
        _, table = draw.settings.draw(rows[0] if len(rows) == 1 else torch.cat(rows), draw.positions)
        now, drawn = self._clock(), Results(table).read()
        require_alive(self._network)
        for request in requests:
            self.counters.prefills += 1
            request.prefilled = now
            own, drawn = drawn[: len(request.slots)], drawn[len(request.slots) :]
            try:
                self._begin(request, own)
            except Exception as error:  # of this request alone: what the others have drawn stands
                self._fail(request, _as_inference_error(error))

    def _begin(self, request: _Generation, drawn: list[tuple[int, float, bool]]) -> None:
        """Lets every sample of a request go on from its first token."""
        for slot, (token_id, logprob, finite) in zip(list(request.slots), drawn, strict=True):
            if request.ended:
                continue
            if not finite:
                self._fail(request, NonFiniteLogits(f"token {len(request.job.prompt_ids)}"))
                continue
            stream = request.streams[slot]
            self._accept(request, slot, Token(token_id, logprob))
            if stream.reason is None:
                self._rows.place(slot, stream, token_id)

    def _read_sequence(self, request: _Scoring) -> bool:
        """Launches a chunk, then takes the score of the pass before; that of the last is waited for."""
        job, index = request.job, request.begun
        if not request.passes:
            prepend = self._tokenizer.eod_id if job.prepend_eod else None
            name = f"sequences[{index}]"
            for ids in strand_inputs(job.sequences[index], prepend=prepend, strand=job.strand, field=name):
                request.passes.append(self._scoring_pass(request, ids))
            request.begun += 1
            self.pool.reset(request.slots)
        current = request.passes[0]
        try:
            current.advance()
        finally:  # where the launch failed, too: what came before is told before
            self._take_score(request)
        if current.done:
            request.unread = request.passes.popleft()
            if request.passes:
                self.pool.reset(request.slots)
            elif request.begun == len(job.sequences):
                self._take_score(request)
        return not request.ended

    def _take_score(self, request: _Scoring) -> None:
        """Reads the score of the pass that was launched before, if there is one; two strands make one score."""
        if request.unread is None:
            return
        before, request.unread = request.unread, None
        request.strands += before.results()
        if len(request.strands) == (2 if request.job.strand == "both" else 1):
            self._put_score(request, average_strands(request.strands))

    def _scoring_pass(self, request: _Scoring, ids: list[int]) -> ScoringPass:
        return ScoringPass(
            self._network,
            [ids],
            chunk=self._chunk,
            device=self._device,
            state=self.pool.row(request.slots[0]),
            keep_logprobs=request.job.return_logprobs,
            pad_id=self._tokenizer.pad_id,
        )

    def _put_score(self, request: _Scoring, score: Score) -> None:
        index = request.answered
        request.answered, request.strands = index + 1, []
        last = request.answered == len(request.job.sequences)
        timing = None
        if last:
            now = self._clock()
            timing = Timing(request.admitted - request.submitted, now - request.admitted, 0.0)
        request.ticket.put(Scored(index, score.log_likelihood, score.scored_tokens, score.logprobs, timing))
        self._touch(request)
        if last:
            self._release(request)

    def _read_embedded(self, request: _Embedding) -> bool:
        """Launches a chunk, then takes the vectors of the sequence before; those of the last are waited for."""
        job = request.job
        if request.reading is None:
            request.reading = self._embedding_pass(request, job.sequences[request.begun])
            request.begun += 1
        current = request.reading
        try:
            current.advance()
        finally:  # as for scores
            self._take_embedding(request)
        if current.done:
            request.reading, request.unread = None, current
            if request.begun == len(job.sequences):
                self._take_embedding(request)
        return not request.ended

    def _embedding_pass(self, request: _Embedding, sequence: Sequence[int]) -> EmbeddingPass:
        self.pool.reset(request.slots)
        assert isinstance(self._network, torch.nn.Module)
        request.names = {layer: resolve_layer(layer, self._network) for layer in request.job.layers}
        return EmbeddingPass(
            self._network,
            [sequence],
            sorted(set(request.names.values())),
            pooling=request.job.pooling,
            first=0,
            chunk=self._chunk,
            device=self._device,
            pad_id=self._tokenizer.pad_id,
            state=self.pool.row(request.slots[0]),
        )

    def _take_embedding(self, request: _Embedding) -> None:
        """Reads the vectors of the sequence that was launched before, if there is one."""
        if request.unread is None:
            return
        before, request.unread = request.unread, None
        (found,) = before.results()
        request.ticket.put(Embedded(request.answered, {layer: found[full] for layer, full in request.names.items()}))
        request.answered += 1
        self._touch(request)
        if request.answered == len(request.job.sequences):
            self._release(request)

    def _decode(self) -> bool:
        slots = self._rows.ready()
        if not slots:
            return False
        owners = {slot: r for r in self._running if isinstance(r, _Generation) for slot in r.streams}
        self.counters.decode_steps += 1
        try:
            results = self._rows.step(slots)
        except Exception as error:
            for request in {id(owners[slot]): owners[slot] for slot in slots}.values():
                self._fail(request, _as_inference_error(error))
            return True
        for slot, token, finite in results:
            request = owners[slot]
            if request.ended:
                continue
            if finite:
                self._accept(request, slot, token)
            else:
                stream = request.streams[slot]
                position = len(request.job.prompt_ids) + stream.sampled
                self._fail(request, NonFiniteLogits(f"token {position} of sample {stream.index}"))
        return True

    def _accept(self, request: _Generation, slot: int, token: Token) -> None:
        stream = request.streams[slot]
        stream.accept(token)
        self.counters.generated_tokens += 1
        self._touch(request)
        if stream.reason is None:
            return
        now = self._clock()
        stream.finish(
            Timing(request.admitted - request.submitted, request.prefilled - request.admitted, now - request.prefilled)
        )
        self._rows.remove(slot)
        del request.streams[slot]
        request.slots.remove(slot)
        self.pool.release([slot])
        if not request.slots:
            self._release(request)

    def _fail(self, request: _Request, error: InferenceError) -> None:
        if not request.ended:
            request.ticket.put(Failed(error))
            self._touch(request)
            self._release(request)

    def _release(self, request: _Request) -> None:
        request.ended = True
        for slot in request.slots:
            self._rows.remove(slot)
        if request.slots:
            self.pool.release(request.slots)
        request.slots = []
        if request in self._running:
            self._running.remove(request)
        if request in self._reading:
            self._reading.remove(request)


def _as_inference_error(error: Exception) -> InferenceError:
    if isinstance(error, InferenceError):
        return error
    failure = StepFailed(f"a step of the network failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
