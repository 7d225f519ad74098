"""Log-likelihoods: ``sum(log p(ids[t] | ids[:t]) for t >= 1)``, each at least float32, added in float64."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from subquad.inference.errors import InvalidOption, InvalidSequence, NonFiniteLogits
from subquad.inference.host_copy import HostCopy
from subquad.inference.id_rows import id_rows
from subquad.inference.jobs import Strand
from subquad.inference.network import Network, RecurrentState, require_alive, wide_logits
from subquad.inference.passes import StatesInTurn, in_order, results_in_turn, side_by_side

_BASES = "ACGTURYSWKMBDHVNacgturyswkmbdhvn-"
_ALIGNED = 64
_COMPLEMENT_OF = dict(zip(_BASES.encode(), b"TGCAAYRSWMKVHDBNtgcaayrswmkvhdbn-", strict=True))
_COMPLEMENTS = bytes(_COMPLEMENT_OF.get(i, 0) for i in range(256))


@dataclass(frozen=True)
class Score:
    """The score of one sequence.

    Attributes:
      log_likelihood: Sum over the scored tokens of the natural log-probability.
      scored_tokens: How many tokens were scored.
      logprobs: Each scored token's log-probability, in sequence order; None where it was not asked for.
    """

    log_likelihood: float
    scored_tokens: int
    logprobs: list[float] | None = None

    @property
    def mean(self) -> float:
        """The log-likelihood divided by the number of scored tokens."""
        return self.log_likelihood / self.scored_tokens


def reverse_complement(ids: Sequence[int], *, field: str = "sequence") -> list[int]:
    """Returns the tokens of the other strand; IUPAC letters of both cases, ``U`` reads as ``T``.

    Raises:
      InvalidSequence: A token is no nucleotide.
    """
    try:
        complement = bytes(list(ids)).translate(_COMPLEMENTS)
    except ValueError:  # an id that is no byte
        complement = b"\0"
    if 0 in complement:
        position = next(p for p, i in enumerate(ids) if i not in _COMPLEMENT_OF)
        shown = repr(chr(ids[position])) if 32 <= ids[position] < 127 else f"token {ids[position]}"
        message = f"has {shown} at position {position}, which has no complement; use strand='forward' or IUPAC letters"
        raise InvalidSequence(field, message)
    return list(reversed(complement))


def strand_inputs(ids: Sequence[int], *, prepend: int | None, strand: Strand, field: str) -> list[list[int]]:
    """Returns what the network reads for one sequence: the strands asked for, each after the ``prepend`` token if any.

    Raises:
      InvalidSequence: The sequence has no token that could be scored, or no complement.
    """
    if len(ids) < (2 if prepend is None else 1):
        problem = "is empty" if not ids else "has 1 token, and the first one is not scored without prepend_eod"
        raise InvalidSequence(field, f"{problem}; accepted: at least one scored token")
    strands = [list(ids)]
    if strand == "both":
        strands.append(reverse_complement(ids, field=field))
    return strands if prepend is None else [[prepend, *s] for s in strands]


def check_strand(strand: str, *, per_token: bool, prepend_eod: bool) -> None:
    """Checks that log-probabilities can be averaged over the strands.

    Raises:
      InvalidOption: Unknown strand, or per-token values of both strands without ``prepend_eod``: then each strand
        leaves out another token and there is no average for them.
    """
    if strand not in ("forward", "both"):
        raise InvalidOption("strand", strand, "'forward' or 'both'")
    if strand == "both" and per_token and not prepend_eod:
        raise InvalidOption(
            "strand", strand, "'forward' when values of each token are wanted without prepend_eod; set prepend_eod"
        )


def average_strands(scores: Sequence[Score]) -> Score:
    """Returns the mean of the forward score and of its reverse complement, tokens in forward order."""
    if len(scores) == 1:
        return scores[0]
    forward, backward = scores
    logprobs = None
    if forward.logprobs is not None and backward.logprobs is not None:
        logprobs = [(a + b) / 2 for a, b in zip(forward.logprobs, reversed(backward.logprobs), strict=True)]
    return Score((forward.log_likelihood + backward.log_likelihood) / 2, forward.scored_tokens, logprobs)


class _Chunk(NamedTuple):
    """The last chunk that was launched: its tokens, and the totals of the rows behind it, which may be under way."""

    start: int
    stop: int
    totals: HostCopy


class ScoringPass:
    """Scores one or more sequences side by side, one chunk of an absolute grid at a time.

    Shorter sequences are padded on the right; since the network is causal, padding changes nothing before it.
    Peak memory is that of one chunk.

    Args:
      network: The network.
      sequences: The tokens of each row, at least two each.
      chunk: Tokens of a chunk; chunk ``i`` reads ``ids[i * chunk : (i + 1) * chunk]``.
      device: Where the network lives.
      state: An empty state with one row a sequence; needed where more than one chunk is read.
      keep_logprobs: Keep each token's log-probability.
      pad_id: Fills the places after the end of shorter sequences.
    """

    def __init__(
        self,
        network: Network,
        sequences: Sequence[Sequence[int]],
        *,
        chunk: int,
        device: torch.device,
        state: RecurrentState | None = None,
        keep_logprobs: bool = False,
        pad_id: int = 1,
    ) -> None:
        lengths = [len(s) for s in sequences]
        self._pad_id = pad_id
        self._inputs = max(lengths) - 1
        assert self._inputs <= chunk or state is not None, "a sequence longer than one chunk needs a state"
        self._network, self._chunk, self._state = network, chunk, state if self._inputs > chunk else None
        self._ids = id_rows(sequences, pad_id=pad_id, device=device)
        self._counts = [length - 1 for length in lengths]
        self._lengths = id_rows([lengths], device=device).view(-1, 1)
        self._next = 0
        self._totals = torch.zeros(len(sequences), dtype=torch.float64, device=device)
        self._kept: list[HostCopy] | None = [] if keep_logprobs else None
        self._unread: _Chunk | None = None
        self._scores: list[float] = []

    @property
    def done(self) -> bool:
        """Whether all chunks were launched."""
        return self._next >= self._inputs

    @torch.inference_mode()
    def advance(self) -> None:
        """Launches one chunk, then reads whether the one before was finite.

        Raises:
          NonFiniteLogits: The network produced NaN or infinity in the chunk before.
        """
        start, stop = self._next, min(self._next + self._chunk, self._inputs)
        self._launch(start, stop)
        before, self._unread = self._unread, _Chunk(start, stop, HostCopy(self._totals))
        self._next = stop
        if self.done:
            self._state = None  # the next pass may want its memory
        if before is not None:
            self._read(before)

    def results(self) -> list[Score]:
        """Waits for the last chunk and returns the score of each row, once `done`.

        Raises:
          NonFiniteLogits: The network produced NaN or infinity in the last chunk.
        """
        assert self.done
        if self._unread is not None:
            last, self._unread = self._unread, None
            self._scores = self._read(last)
        kept: list[list[float]] | None = None
        if self._kept is not None:
            rows = torch.cat([chunk.read() for chunk in self._kept], dim=-1).tolist()
            kept = [row[:count] for row, count in zip(rows, self._counts, strict=True)]
        return [
            Score(total, count, None if kept is None else kept[i])
            for i, (total, count) in enumerate(zip(self._scores, self._counts, strict=True))
        ]

    def _launch(self, start: int, stop: int) -> None:
        """Adds up the log-probabilities of a chunk; nothing waits for the device."""
        starts = None if self._state is None else [start] * len(self._counts)
        hidden = self._network.encode(self._aligned(start, stop), self._state, starts=starts)
        logits = wide_logits(self._network, hidden)[:, : stop - start]
        targets = self._ids[:, start + 1 : stop + 1]
        logprobs = (logits.gather(-1, targets[..., None])[..., 0] - torch.logsumexp(logits, dim=-1)).double()
        scored = torch.arange(start + 1, stop + 1, device=targets.device) < self._lengths
        logprobs = torch.where(scored, logprobs, 0.0)
        self._totals = self._totals + logprobs.sum(-1)  # a new tensor: the one before may not have been read
        if self._kept is not None:
            self._kept.append(HostCopy(logprobs))

    def _read(self, chunk: _Chunk) -> list[float]:
        """Waits for a chunk and returns the totals behind it."""
        totals = chunk.totals.read()
        require_alive(self._network)
        if not torch.isfinite(totals).all():
            raise NonFiniteLogits(f"the tokens {chunk.start} to {chunk.stop - 1}")
        return totals.tolist()

    def _aligned(self, start: int, stop: int) -> Tensor:
        """Returns the tokens of a chunk, on a GPU up to a length that its kernels take at full speed where possible.

        What stands behind the last token that is read changes nothing before it; with a state it would be kept.
        """
        if self._state is not None or not self._ids.is_cuda:
            return self._ids[:, start:stop]
        padding = -(stop - start) % _ALIGNED
        return functional.pad(self._ids[:, start:stop], (0, padding), value=self._pad_id)


def score_rows(
    network: Network,
    rows: Sequence[Sequence[int]],
    *,
    chunk: int,
    batch_size: int,
    device: torch.device,
    keep_logprobs: bool,
    pad_id: int,
) -> Iterator[Score]:
    """Yields the score of each row, in order; see `ScoringPass` for arguments and errors.

    Up to ``batch_size`` rows of like length, as many as make a chunk, are read side by side. What one pass gave is read
    once the next was launched.
    """
    batches = side_by_side([len(row) - 1 for row in rows], batch_size, chunk)
    states = StatesInTurn(network, chunk, device)

    def passes() -> Iterator[ScoringPass]:
        for batch in batches:
            yield ScoringPass(
                network,
                [rows[k] for k in batch],
                chunk=chunk,
                device=device,
                state=states.empty(len(batch), len(rows[batch[0]]) - 1),
                keep_logprobs=keep_logprobs,
                pad_id=pad_id,
            )

    return in_order(batches, results_in_turn(passes()))
