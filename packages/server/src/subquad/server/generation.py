"""GenerateSequence: from a checked request to a stream of Started, Delta and Finished messages."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from subquad.genomics.v1 import service_pb2 as pb
from subquad.inference import Finished, GenerateJob, GenerationOptions, Started, Timing, Tokens
from subquad.inference.tokenizer import Tokenizer
from subquad.server.boundary import Call
from subquad.server.engine_events import EngineEvents, SchedulerPort
from subquad.server.metrics import Metrics
from subquad.server.validation import GenerationPlan
from subquad.server.wire import duration

REASONS = {
    "max_new_tokens": pb.FINISH_REASON_MAX_NEW_TOKENS,
    "end_of_document": pb.FINISH_REASON_END_OF_DOCUMENT,
    "stop_sequence": pb.FINISH_REASON_STOP_SEQUENCE,
    "context_length": pb.FINISH_REASON_CONTEXT_LENGTH,
}


@dataclass
class SampleBuffer:
    """The tokens of one sample that wait for a message; the first token goes alone, so that it arrives early."""

    tokens_per_message: int
    next_index: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    last_arrival: float | None = None

    def push(self, ids: Sequence[int], logprobs: Sequence[float] | None) -> None:
        """Takes new tokens."""
        self.ids.extend(ids)
        self.logprobs.extend(logprobs or ())

    def messages(
        self, sample: int, decode: Callable[[list[int]], str], *, rest: bool = False
    ) -> list[pb.GenerateSequenceResponse]:
        """Returns the messages that are full, and with `rest` the remaining tokens too."""
        full = []
        while self.ids:
            size = 1 if self.next_index == 0 else self.tokens_per_message
            if len(self.ids) < size and not rest:
                break
            full.append(self._message(sample, decode, min(size, len(self.ids))))
        return full

    def _message(self, sample: int, decode: Callable[[list[int]], str], size: int) -> pb.GenerateSequenceResponse:
        ids, self.ids = self.ids[:size], self.ids[size:]
        logprobs, self.logprobs = self.logprobs[:size], self.logprobs[size:]
        delta = pb.GenerateSequenceResponse.Delta(
            first_index=self.next_index, sequence=decode(ids), token_ids=ids, logprobs=logprobs, sample_index=sample
        )
        self.next_index += size
        return pb.GenerateSequenceResponse(delta=delta)


class GenerationStream:
    """One generation on its way through the engine."""

    def __init__(self, plan: GenerationPlan, scheduler: SchedulerPort, tokenizer: Tokenizer, metrics: Metrics) -> None:
        self._plan, self._scheduler, self._tokenizer, self._metrics = plan, scheduler, tokenizer, metrics
        self._buffers = [SampleBuffer(plan.tokens_per_message) for _ in range(plan.num_samples)]
        self._started: Started | None = None

    async def messages(self, call: Call) -> AsyncIterator[pb.GenerateSequenceResponse]:
        """Yields one Started, then for each sample its Deltas and one Finished."""
        plan = self._plan
        options = GenerationOptions(
            max_new_tokens=plan.max_new_tokens,
            temperature=plan.temperature,
            top_k=plan.top_k,
            top_p=plan.top_p,
            seed=plan.seed,
            stop=plan.stop,
            return_logprobs=plan.return_logprobs,
        )
        job = GenerateJob(
            prompt_ids=self._tokenizer.encode(plan.prompt),
            options=options,
            num_samples=plan.num_samples,
            ignore_end_of_document=plan.ignore_end_of_document,
        )
        unfinished = plan.num_samples
        async with EngineEvents(self._scheduler, lambda wake: self._scheduler.generate(job, wake)) as events:
            async for event in events:
                match event:
                    case Started():
                        yield self._on_started(event, call)
                    case Tokens():
                        for message in self._on_tokens(event, call):
                            yield message
                    case Finished():
                        for message in self._on_finished(event):
                            yield message
                        unfinished -= 1
                if not unfinished:
                    return

    def _on_started(self, event: Started, call: Call) -> pb.GenerateSequenceResponse:
        self._started = event
        self._metrics.prompt_tokens.inc(event.prompt_tokens)
        return pb.GenerateSequenceResponse(
            started=pb.GenerateSequenceResponse.Started(
                request_id=call.request_id,
                seed=event.seed,
                prompt_tokens=event.prompt_tokens,
                cached_prompt_tokens=event.cached_prompt_tokens,
            )
        )

    def _on_tokens(self, event: Tokens, call: Call) -> list[pb.GenerateSequenceResponse]:
        buffer, now = self._buffers[event.sample_index], time.monotonic()
        if buffer.last_arrival is None:
            self._metrics.first_token.observe(now - call.arrived)
        else:
            self._metrics.between_tokens.observe((now - buffer.last_arrival) / max(len(event.ids), 1))
        buffer.last_arrival = now
        self._metrics.generated_tokens.inc(len(event.ids))
        buffer.push(event.ids, event.logprobs if self._plan.return_logprobs else None)
        return buffer.messages(event.sample_index, self._tokenizer.decode)

    def _on_finished(self, event: Finished) -> list[pb.GenerateSequenceResponse]:
        self._metrics.finished.labels(event.reason).inc()
        started = self._started
        finished = pb.GenerateSequenceResponse.Finished(
            reason=REASONS[event.reason],
            stop_sequence=event.stop_sequence or "",
            usage=pb.Usage(
                prompt_tokens=started.prompt_tokens if started else 0,
                cached_prompt_tokens=started.cached_prompt_tokens if started else 0,
                generated_tokens=event.generated_tokens,
            ),
            sample_index=event.sample_index,
        )
        if self._plan.return_timing:
            finished.timing.CopyFrom(timing_message(event.timing))
        rest = self._buffers[event.sample_index].messages(event.sample_index, self._tokenizer.decode, rest=True)
        return [*rest, pb.GenerateSequenceResponse(finished=finished)]


def timing_message(timing: Timing) -> pb.Timing:
    """The wire form of the engine's timing."""
    return pb.Timing(
        queue=duration(timing.queue_seconds),
        prefill=duration(timing.prefill_seconds),
        decode=duration(timing.decode_seconds),
    )
