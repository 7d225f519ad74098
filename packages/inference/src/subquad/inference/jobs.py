"""What can be asked of a scheduler, and the events that answer it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from subquad.inference.embedding import Pooling
from subquad.inference.errors import InferenceError
from subquad.inference.options import FinishReason, GenerationOptions

Strand = Literal["forward", "both"]


@dataclass(frozen=True)
class GenerateJob:
    """Extends one prompt, once or several times.

    Args:
      prompt_ids: The prompt's tokens, at least one.
      options: How to extend it.
      num_samples: Independent continuations; they share one prefill, and each draws by its index.
      ignore_end_of_document: Go on after the end-of-document token and return it like any other.
    """

    prompt_ids: Sequence[int]
    options: GenerationOptions = field(default_factory=GenerationOptions)
    num_samples: int = 1
    ignore_end_of_document: bool = False


@dataclass(frozen=True)
class ScoreJob:
    """Scores sequences one after the other.

    Args:
      sequences: The tokens of each sequence.
      prepend_eod: Puts the end-of-document token in front, so that the first token is scored too.
      strand: ``"both"`` averages with the reverse complement.
      return_logprobs: Also return the log-probability of each scored token.
    """

    sequences: Sequence[Sequence[int]]
    prepend_eod: bool = False
    strand: Strand = "forward"
    return_logprobs: bool = False


@dataclass(frozen=True)
class EmbedJob:
    """Embeds sequences one after the other.

    Args:
      sequences: The tokens of each sequence.
      layers: Names of layers; see `Engine.embed`.
      pooling: How positions become one vector; ``"none"`` keeps one for each token.
    """

    sequences: Sequence[Sequence[int]]
    layers: Sequence[str]
    pooling: Pooling = "mean"


@dataclass(frozen=True)
class Timing:
    """Seconds that a request spent waiting, reading its prompt or sequences, and decoding."""

    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class Started:
    """A generation left the queue; sent once, before anything else."""

    request_id: str
    seed: int
    prompt_tokens: int
    cached_prompt_tokens: int = 0


@dataclass(frozen=True)
class Tokens:
    """New tokens of one sample, all that came since the last `Ticket.take`."""

    sample_index: int
    first_index: int
    ids: list[int]
    logprobs: list[float] | None


@dataclass(frozen=True)
class Finished:
    """One sample ended; sent once for each sample.

    ``generated_tokens`` counts every sampled token, those of a stop sequence and the end-of-document token included.
    """

    sample_index: int
    reason: FinishReason
    stop_sequence: str | None
    generated_tokens: int
    timing: Timing


@dataclass(frozen=True)
class Scored:
    """The score of one sequence, in request order; the last one of a job carries the job's timing."""

    index: int
    log_likelihood: float
    scored_tokens: int
    logprobs: list[float] | None
    timing: Timing | None = None


@dataclass(frozen=True)
class Embedded:
    """The activations of one sequence, in request order: float32 on the CPU for each layer of the job."""

    index: int
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Failed:
    """The request ended by an error; nothing follows."""

    error: InferenceError


Event = Started | Tokens | Finished | Scored | Embedded | Failed
