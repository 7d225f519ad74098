"""The decode step: one network step for a fixed number of rows, and what each row makes of its new token."""

from dataclasses import dataclass

from subquad.inference.decode_program import Results, RowSettings, decode_program
from subquad.inference.jobs import Finished, GenerateJob, Timing, Tokens
from subquad.inference.network import Network
from subquad.inference.options import FinishReason
from subquad.inference.state_pool import StatePool
from subquad.inference.stopping import StopMatcher, Token
from subquad.inference.ticket import Ticket
from subquad.inference.tokenizer import Tokenizer


class SampleStream:
    """One continuation of a prompt: counts its tokens, looks for its end and hands certain tokens to the ticket."""

    def __init__(
        self, ticket: Ticket, job: GenerateJob, index: int, seed: int, tokenizer: Tokenizer, max_sequence_tokens: int
    ) -> None:
        self.ticket, self.options, self.index, self.seed = ticket, job.options, index, seed
        self.reason: FinishReason | None = None
        self.stop_sequence: str | None = None
        self.sampled = 0
        self._emitted = 0
        self._eod = None if job.ignore_end_of_document else tokenizer.eod_id
        self._room = max_sequence_tokens - len(job.prompt_ids)
        stops = [tuple(tokenizer.encode(text, field=f"stop[{i}]")) for i, text in enumerate(job.options.stop)]
        self._matcher = StopMatcher(stops)

    @property
    def settings(self) -> RowSettings:
        """How this continuation is sampled."""
        o = self.options
        return RowSettings(o.temperature, o.top_k, o.top_p, self.seed, self.index, o.return_logprobs)

    def has_room(self, tokens: int = 1) -> bool:
        """Whether the reader has taken enough for so many more tokens."""
        return self.ticket.has_room(self.index, tokens)

    def wants_more(self, under_way: int) -> bool:
        """Whether another token can be wanted, and taken, behind those that are under way."""
        most = min(self.options.max_new_tokens, self._room)
        return self.sampled + under_way < most and self.has_room(under_way + 1)

    def accept(self, token: Token) -> None:
        """Takes one sampled token; sets ``reason`` when it is the last."""
        self.sampled += 1
        if token.id == self._eod:
            self._emit(self._matcher.flush())
            self.reason = "end_of_document"
            return
        certain, stop = self._matcher.push(token)
        self._emit(certain)
        if stop is not None:
            self.reason, self.stop_sequence = "stop_sequence", self.options.stop[stop]
        elif self.sampled >= min(self.options.max_new_tokens, self._room):
            self._emit(self._matcher.flush())
            self.reason = "max_new_tokens" if self.sampled >= self.options.max_new_tokens else "context_length"

    def finish(self, timing: Timing) -> None:
        """Puts the last event."""
        assert self.reason is not None
        self.ticket.put(Finished(self.index, self.reason, self.stop_sequence, self.sampled, timing))

    def _emit(self, tokens: list[Token]) -> None:
        if tokens:
            logprobs = [t.logprob for t in tokens] if self.options.return_logprobs else None
            self.ticket.put(Tokens(self.index, self._emitted, [t.id for t in tokens], logprobs))
            self._emitted += len(tokens)


@dataclass
class _Flight:
    """A step that was launched and not yet read."""

    streams: dict[int, SampleStream]
    results: Results


class DecodeRows:
    """The rows that are being decoded, and the step that is ahead of its reader.

    With one shape for all steps a row's arithmetic does not depend on how many others run, nor on which. Where the
    device allows, step n + 1 is launched before the results of step n are read, for the rows that may need it; what it
    computed for a row that ended with step n is dropped.
    """

    def __init__(self, network: Network, pool: StatePool) -> None:
        self.program = decode_program(network, pool)
        self._streams: list[SampleStream | None] = [None] * pool.slots
        self._settings_changed = True
        self._flight: _Flight | None = None

    def place(self, slot: int, stream: SampleStream, first_id: int) -> None:
        """Adds a row whose prompt is in its state and whose first token was drawn."""
        self._streams[slot], self._settings_changed = stream, True
        self.program.set_id(slot, first_id)

    def remove(self, slot: int) -> None:
        """Takes a row out."""
        self._streams[slot], self._settings_changed = None, True

    def ready(self) -> list[int]:
        """Returns the slots that have a token under way, or whose reader has room for one."""
        ahead = {} if self._flight is None else self._flight.streams
        return [
            slot
            for slot, stream in enumerate(self._streams)
            if stream is not None and (ahead.get(slot) is stream or stream.has_room())
        ]

    def step(self, slots: list[int]) -> list[tuple[int, Token, bool]]:
        """Returns slot, next token and whether its logits were finite, for the rows of the step that is due.

        Args:
          slots: What `ready` said.
        """
        flight, self._flight = self._flight, None
        if flight is None or not any(self._streams[slot] is stream for slot, stream in flight.streams.items()):
            flight = self._launch({slot: self._stream(slot) for slot in slots})
        if self.program.overlaps:
            following = {  # of those rows alone: the caller ends them, and no others, where this fails
                slot: stream
                for slot in slots
                if (stream := self._streams[slot]) is not None
                and stream.wants_more(1 if flight.streams.get(slot) is stream else 0)
            }
            if following:
                self._flight = self._launch(following)
        rows = flight.results.read()
        return [
            (slot, Token(rows[slot][0], rows[slot][1]), rows[slot][2])
            for slot, stream in flight.streams.items()
            if self._streams[slot] is stream
        ]

    def _launch(self, streams: dict[int, SampleStream]) -> _Flight:
        if self._settings_changed:
            self.program.settings.set([RowSettings() if s is None else s.settings for s in self._streams])
            self._settings_changed = False
        return _Flight(streams, self.program.launch(sorted(streams)))

    def _stream(self, slot: int) -> SampleStream:
        stream = self._streams[slot]
        assert stream is not None
        return stream
