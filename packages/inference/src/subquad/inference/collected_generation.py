"""One offline generation, put together from its events."""

from subquad.inference.jobs import Failed, Finished, Started, Tokens
from subquad.inference.options import Generation, GenerationOptions
from subquad.inference.ticket import Ticket
from subquad.inference.tokenizer import Tokenizer


class CollectedGeneration:
    """Collects the events of one offline generation."""

    def __init__(self, ticket: Ticket, options: GenerationOptions) -> None:
        self.ticket, self._options = ticket, options

    def generation(self, tokenizer: Tokenizer) -> Generation:
        """Returns the finished generation, or raises what ended it."""
        seed, ids, finished = 0, [], None
        logprobs: list[float] | None = [] if self._options.return_logprobs else None
        for event in self.ticket.take():
            match event:
                case Started():
                    seed = event.seed
                case Tokens():
                    ids += event.ids
                    if logprobs is not None:
                        logprobs += event.logprobs or []
                case Finished():
                    finished = event
                case Failed():
                    raise event.error
                case _:
                    pass
        assert finished is not None
        return Generation(
            text=tokenizer.decode(ids),
            ids=ids,
            logprobs=logprobs,
            finish_reason=finished.reason,
            seed=seed,
            stop_sequence=finished.stop_sequence,
        )
