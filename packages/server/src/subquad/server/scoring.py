"""ScoreSequences and ScoreVariants: log-likelihoods from the engine, and variants against their reference."""

from collections.abc import AsyncIterator

from subquad.genomics.v1 import service_pb2 as pb
from subquad.inference import Scored, ScoreJob
from subquad.inference.tokenizer import Tokenizer
from subquad.server.engine_events import EngineEvents, SchedulerPort
from subquad.server.generation import timing_message
from subquad.server.metrics import Metrics
from subquad.server.validation import ScoringPlan, VariantPlan


class Scorer:
    """Scores plans over one scheduler."""

    def __init__(self, scheduler: SchedulerPort, tokenizer: Tokenizer, metrics: Metrics) -> None:
        self._scheduler, self._tokenizer, self._metrics = scheduler, tokenizer, metrics

    async def sequences(self, plan: ScoringPlan) -> pb.ScoreSequencesResponse:
        """The score of each sequence, in request order."""
        response = pb.ScoreSequencesResponse()
        async for event in self._scores(plan):
            response.scores.add(
                log_likelihood=event.log_likelihood, scored_tokens=event.scored_tokens, logprobs=event.logprobs or ()
            )
            if event.timing is not None:
                response.timing.CopyFrom(timing_message(event.timing))
        return response

    async def variants(self, plan: VariantPlan) -> AsyncIterator[pb.ScoreVariantsResponse]:
        """The change of each variant against the reference window, as each is ready."""
        windows = (plan.reference, *plan.alternates)
        reference = 0.0
        async for event in self._scores(ScoringPlan(windows, both_strands=plan.both_strands)):
            if event.index == 0:
                reference = event.log_likelihood
                continue
            yield pb.ScoreVariantsResponse(
                id=plan.ids[event.index - 1],
                index=event.index - 1,
                reference_log_likelihood=reference,
                alternate_log_likelihood=event.log_likelihood,
                delta_log_likelihood=event.log_likelihood - reference,
            )

    async def _scores(self, plan: ScoringPlan) -> AsyncIterator[Scored]:
        """Yields the score of each sequence in order, as the engine ends it."""
        job = ScoreJob(
            sequences=[self._tokenizer.encode(sequence) for sequence in plan.sequences],
            prepend_eod=plan.prepend_end_of_document,
            strand="both" if plan.both_strands else "forward",
            return_logprobs=plan.return_logprobs,
        )
        left = len(plan.sequences)
        async with EngineEvents(self._scheduler, lambda wake: self._scheduler.score(job, wake)) as events:
            async for event in events:
                if isinstance(event, Scored):
                    self._metrics.scored_tokens.inc(event.scored_tokens)
                    left -= 1
                    yield event
                if not left:
                    return
