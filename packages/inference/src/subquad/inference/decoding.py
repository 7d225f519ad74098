"""The decode step: one network step for a fixed number of rows, and what each row makes of its new token."""

import torch
from torch import Tensor

from subquad.inference.jobs import Finished, GenerateJob, Timing, Tokens
from subquad.inference.network import Network
from subquad.inference.options import FinishReason
from subquad.inference.sampling import finite_rows, greedy, sample, seed_words, token_logprobs, uniforms
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
    def has_room(self) -> bool:
        """Whether the reader has taken enough for another token."""
        return self.ticket.has_room(self.index)

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


class Draw:
    """Draws one token for each of several rows, every row with its own settings and seed."""

    def __init__(self, streams: list[SampleStream | None], device: torch.device) -> None:
        options = [None if s is None else s.options for s in streams]
        self.greedy = all(o is None or o.is_greedy for o in options)
        self.logprobs = any(o is not None and o.return_logprobs for o in options)
        double = {"dtype": torch.float64, "device": device}
        self._temperature = torch.tensor([0.0 if o is None else o.temperature for o in options], **double)
        self._top_p = torch.tensor([1.0 if o is None else o.top_p for o in options], **double)
        self._top_k = torch.tensor([0 if o is None else o.top_k for o in options], device=device)
        self._seeds = torch.tensor([(0, 0) if s is None else seed_words(s.seed) for s in streams], device=device)
        self._samples = torch.tensor([0 if s is None else s.index for s in streams], device=device)

    def __call__(self, logits: Tensor, positions: Tensor) -> tuple[Tensor, list[tuple[int, float, bool]]]:
        """Returns the ids on the device, and for each row id, log-probability and whether its logits were finite.

        Args:
          logits: ``[rows, vocabulary]``.
          positions: int64 ``[rows]``, index in the sequence of the token to draw.
        """
        logits = logits.float()
        if self.greedy:
            ids = greedy(logits)
        else:
            uniform = uniforms(self._seeds, self._samples, positions)
            ids = sample(logits, self._temperature, self._top_k, self._top_p, uniform)
        logprobs = token_logprobs(logits, ids) if self.logprobs else torch.zeros(len(ids), device=ids.device)
        table = torch.stack((ids.double(), logprobs.double(), finite_rows(logits).double()), dim=-1)
        return ids, [(int(i), value, bool(finite)) for i, value, finite in table.tolist()]


class DecodeRows:
    """The rows that are being decoded. Every step has the shape ``[slots]``; rows without work are masked.

    With one shape for all steps a row's arithmetic does not depend on how many others run, nor on which.
    """

    def __init__(self, network: Network, pool: StatePool) -> None:
        self._network, self._pool = network, pool
        self._device = pool.state.position.device
        self._streams: list[SampleStream | None] = [None] * pool.slots
        self._ids = torch.zeros(pool.slots, dtype=torch.int64, device=self._device)
        self._draw: Draw | None = None

    def place(self, slot: int, stream: SampleStream, first_id: int) -> None:
        """Adds a row whose prompt is in its state and whose first token was drawn."""
        self._streams[slot], self._draw = stream, None
        self._ids[slot] = first_id

    def remove(self, slot: int) -> None:
        """Takes a row out."""
        self._streams[slot], self._draw = None, None

    def ready(self) -> list[int]:
        """Returns the slots whose reader has room for a token."""
        return [slot for slot, stream in enumerate(self._streams) if stream is not None and stream.has_room]

    @torch.inference_mode()
    def step(self, slots: list[int]) -> list[tuple[int, Token, bool]]:
        """Feeds the last token of ``slots`` and draws the next; returns slot, token, whether the logits were finite."""
        active = torch.zeros(self._pool.slots, dtype=torch.bool)
        active[slots] = True
        active = active.to(self._device)
        logits = self._network.step(self._ids, self._pool.state, active=active)
        if self._draw is None:
            self._draw = Draw(self._streams, self._device)
        ids, rows = self._draw(logits, self._pool.state.position)
        self._ids = torch.where(active, ids, self._ids)
        return [(slot, Token(rows[slot][0], rows[slot][1]), rows[slot][2]) for slot in slots]
