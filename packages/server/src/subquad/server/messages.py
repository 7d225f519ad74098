"""What the client takes and returns, as plain values; and their translation from and to the wire."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from subquad.genomics.v1 import service_pb2 as pb
from subquad.server.limits import ServingLimits
from subquad.server.wire import limits_from_proto

Alphabet = Literal["dna", "ascii"]
Strand = Literal["forward", "both"]
Pooling = Literal["mean", "last", "none"]
ElementType = Literal["float32", "bfloat16", "float16"]
FinishReason = Literal["max_new_tokens", "end_of_document", "stop_sequence", "context_length"]

ALPHABETS: dict[str, pb.Alphabet] = {"dna": pb.ALPHABET_DNA, "ascii": pb.ALPHABET_ASCII}
STRANDS: dict[str, pb.Strand] = {"forward": pb.STRAND_FORWARD, "both": pb.STRAND_BOTH}
REASONS: dict[int, FinishReason] = {
    pb.FINISH_REASON_MAX_NEW_TOKENS: "max_new_tokens",
    pb.FINISH_REASON_END_OF_DOCUMENT: "end_of_document",
    pb.FINISH_REASON_STOP_SEQUENCE: "stop_sequence",
    pb.FINISH_REASON_CONTEXT_LENGTH: "context_length",
}
DATA_TYPES: dict[int, str] = {
    pb.DATA_TYPE_FLOAT32: "float32",
    pb.DATA_TYPE_BFLOAT16: "bfloat16",
    pb.DATA_TYPE_FLOAT16: "float16",
}
POOLINGS: dict[str, pb.Pooling] = {"mean": pb.POOLING_MEAN, "last": pb.POOLING_LAST, "none": pb.POOLING_NONE}
ELEMENT_TYPES: dict[str, pb.DataType] = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "bfloat16": pb.DATA_TYPE_BFLOAT16,
    "float16": pb.DATA_TYPE_FLOAT16,
}


@dataclass(frozen=True)
class ModelInfo:
    """The served model; `subquadratic_ops` is ``"auto"``, ``"on"`` or ``"off"``."""

    name: str
    weights_sha256: str
    architecture: str
    vocab_size: int
    alphabet: str
    layers: tuple[str, ...]
    hidden_size: int
    compute_type: str
    batch_invariant: bool
    limits: ServingLimits
    server_version: str
    subquadratic_ops: str


@dataclass(frozen=True)
class Started:
    """The request left the queue; with `seed` the same request gives the same answer."""

    request_id: str
    seed: int
    prompt_tokens: int
    cached_prompt_tokens: int


@dataclass(frozen=True)
class Delta:
    """New tokens of one sample; `text` has one character a token, U+FFFD where it is not printable."""

    sample_index: int
    first_index: int
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Finished:
    """One sample ended."""

    sample_index: int
    reason: FinishReason
    stop_sequence: str
    generated_tokens: int


GenerationEvent = Started | Delta | Finished


@dataclass(frozen=True)
class GeneratedSequence:
    """One whole sample; `logprobs` is empty unless asked for."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    stop_sequence: str
    seed: int


@dataclass(frozen=True)
class SequenceScore:
    """The log-likelihood (natural logarithm) of one sequence, over `scored_tokens` tokens."""

    log_likelihood: float
    scored_tokens: int
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Variant:
    """A change of the reference window: at `offset` (0-based) `reference` becomes `alternate`; one may be empty."""

    offset: int
    reference: str
    alternate: str
    id: str = ""


@dataclass(frozen=True)
class VariantScore:
    """The log-likelihoods of the window with and without one variant, and their difference."""

    index: int
    id: str
    reference_log_likelihood: float
    alternate_log_likelihood: float
    delta_log_likelihood: float


@dataclass(frozen=True)
class EmbeddingPart:
    """Activations of one layer for some positions of one sequence; `last` ends the layer of that sequence.

    Attributes:
      sequence_index: Which sequence of the request.
      layer: The layer.
      first_position: Position of the first row; 0 where positions were pooled.
      shape: ``[channel]`` where positions were pooled, else ``[position, channel]``.
      data_type: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
      data: The values, row-major and little-endian.
      last: Whether nothing of this layer and sequence follows.
    """

    sequence_index: int
    layer: str
    first_position: int
    shape: tuple[int, ...]
    data_type: str
    data: bytes
    last: bool

    def numbers(self) -> list[float]:
        """Returns the values as Python floats, row-major."""
        size = 4 if self.data_type == "float32" else 2
        count = len(self.data) // size
        if self.data_type == "bfloat16":  # the upper half of a float32
            wide = b"".join(b"\0\0" + self.data[i : i + 2] for i in range(0, len(self.data), 2))
            return list(struct.unpack(f"<{count}f", wide))
        return list(struct.unpack(f"<{count}{'f' if size == 4 else 'e'}", self.data))


def embedding_part(response: pb.EmbedSequencesResponse) -> EmbeddingPart:
    """Reads one message of an embedding stream."""
    return EmbeddingPart(
        sequence_index=response.sequence_index,
        layer=response.layer,
        first_position=response.first_position,
        shape=tuple(response.values.shape),
        data_type=DATA_TYPES.get(response.values.data_type, "unspecified"),
        data=response.values.data,
        last=response.last,
    )


def model_info(response: pb.GetModelResponse) -> ModelInfo:
    """Reads a GetModelResponse."""
    return ModelInfo(
        name=response.model,
        weights_sha256=response.weights_sha256,
        architecture=response.architecture,
        vocab_size=response.vocab_size,
        alphabet=response.alphabet,
        layers=tuple(response.layers),
        hidden_size=response.hidden_size,
        compute_type=DATA_TYPES.get(response.compute_type, "unspecified"),
        batch_invariant=response.batch_invariant,
        limits=limits_from_proto(response.limits),
        server_version=response.server_version,
        subquadratic_ops=response.subquadratic_ops,
    )


def generation_event(response: pb.GenerateSequenceResponse) -> GenerationEvent:
    """Reads one message of a generation stream."""
    match response.WhichOneof("event"):
        case "started":
            started = response.started
            return Started(started.request_id, started.seed, started.prompt_tokens, started.cached_prompt_tokens)
        case "delta":
            delta = response.delta
            ids, logprobs = tuple(delta.token_ids), tuple(delta.logprobs)
            return Delta(delta.sample_index, delta.first_index, delta.sequence, ids, logprobs)
        case _:
            finished = response.finished
            return Finished(
                finished.sample_index,
                REASONS.get(finished.reason, "max_new_tokens"),
                finished.stop_sequence,
                finished.usage.generated_tokens,
            )


def gather(events: Iterable[GenerationEvent]) -> list[GeneratedSequence]:
    """Puts the events of a whole stream together, in the order of the samples."""
    seed, deltas, ends = 0, {}, {}
    for event in events:
        match event:
            case Started():
                seed = event.seed
            case Delta():
                deltas.setdefault(event.sample_index, []).append(event)
            case Finished():
                ends[event.sample_index] = event
    return [_sequence(deltas.get(sample, []), ends[sample], seed) for sample in sorted(ends)]


def _sequence(deltas: Sequence[Delta], end: Finished, seed: int) -> GeneratedSequence:
    return GeneratedSequence(
        text="".join(delta.text for delta in deltas),
        ids=tuple(i for delta in deltas for i in delta.ids),
        logprobs=tuple(value for delta in deltas for value in delta.logprobs),
        finish_reason=end.reason,
        stop_sequence=end.stop_sequence,
        seed=seed,
    )


def sequence_score(score: pb.SequenceScore) -> SequenceScore:
    """Reads one score."""
    return SequenceScore(score.log_likelihood, score.scored_tokens, tuple(score.logprobs))


def variant_score(response: pb.ScoreVariantsResponse) -> VariantScore:
    """Reads one variant's score."""
    return VariantScore(
        index=response.index,
        id=response.id,
        reference_log_likelihood=response.reference_log_likelihood,
        alternate_log_likelihood=response.alternate_log_likelihood,
        delta_log_likelihood=response.delta_log_likelihood,
    )
