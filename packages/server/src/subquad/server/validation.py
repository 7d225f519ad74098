"""Checks of requests: each returns a typed plan of the work, or raises with every refused field (16 at most)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from subquad.genomics.v1 import service_pb2 as pb
from subquad.server.errors import FieldViolation, InvalidRequest, NotFound
from subquad.server.limits import (
    DEFAULT_TOKENS_PER_MESSAGE,
    MAX_NAME_LENGTH,
    MAX_STOP_LENGTH,
    MAX_TOKENS_PER_MESSAGE,
    MAX_VIOLATIONS,
    ServingLimits,
)

_POOLINGS: dict[int, Literal["mean", "last", "none"]] = {
    pb.POOLING_UNSPECIFIED: "mean",
    pb.POOLING_MEAN: "mean",
    pb.POOLING_LAST: "last",
    pb.POOLING_NONE: "none",
}
OUTSIDE_DNA = re.compile("[^ACGTNacgtn]")
OUTSIDE_ASCII = re.compile("[^ -~]")


@dataclass(frozen=True)
class ServedModel:
    """What validation has to know of the served model; `max_sequence_tokens` is the effective limit of this server."""

    name: str
    vocab_size: int
    max_sequence_tokens: int


@dataclass(frozen=True)
class GenerationPlan:
    """A checked GenerateSequence request with every default filled in; the prompt is folded to upper case for DNA."""

    prompt: str
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    num_samples: int
    tokens_per_message: int
    ignore_end_of_document: bool
    return_logprobs: bool
    return_timing: bool


@dataclass(frozen=True)
class ScoringPlan:
    """A checked ScoreSequences request."""

    sequences: tuple[str, ...]
    both_strands: bool = False
    prepend_end_of_document: bool = False
    return_logprobs: bool = False


@dataclass(frozen=True)
class VariantPlan:
    """A checked ScoreVariants request: the reference window and, per variant, its id and the changed window."""

    reference: str
    ids: tuple[str, ...]
    alternates: tuple[str, ...]
    both_strands: bool


@dataclass(frozen=True)
class EmbeddingPlan:
    """A checked EmbedSequences request."""

    sequences: tuple[str, ...]
    layers: tuple[str, ...]
    pooling: Literal["mean", "last", "none"]
    data_type: int


class Refusals:
    """Collects the refused fields of one request."""

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []

    @property
    def full(self) -> bool:
        """Whether 16 violations were found; more would not fit the 8 KiB of a status."""
        return len(self.found) >= MAX_VIOLATIONS

    def add(self, field: str, description: str) -> None:
        """Refuses `field`."""
        if not self.full:
            self.found.append(FieldViolation(field, description))

    def at_most(self, field: str, count: int, cap: int, what: str) -> None:
        """Refuses `field` where it holds more than `cap` items."""
        if count > cap:
            self.add(field, f"has {count} {what}; accepted: at most {cap}")

    def known_enum(self, field: str, value: int, enum: object) -> None:
        """Refuses an enum number that this version of the service does not know (proto3 keeps them)."""
        names = enum.DESCRIPTOR.values_by_number  # type: ignore[attr-defined]
        if value not in names:
            self.add(field, f"is {value}; accepted: {', '.join(names[number].name for number in sorted(names))}")

    def raise_if_any(self) -> None:
        """Raises InvalidRequest where a field was refused."""
        if self.found:
            more = f" (and {len(self.found) - 1} more)" if len(self.found) > 1 else ""
            raise InvalidRequest(f"{self.found[0]}{more}", violations=tuple(self.found))


def check_model_name(wanted: str, served: str) -> None:
    """Raises NotFound where a request names another model; the empty name means the served one."""
    if wanted and wanted != served:
        name = printable(wanted)
        raise NotFound(f"model: {name} is not served; accepted: {served}", resource=("model", name.strip("'\"")))


def plan_generation(request: pb.GenerateSequenceRequest, model: ServedModel, limits: ServingLimits) -> GenerationPlan:
    """Checks a GenerateSequence request.

    Raises:
      NotFound: Another model is named.
      InvalidRequest: At least one field is refused.
    """
    check_model_name(request.model, model.name)
    refusals = Refusals()
    prompt = _checked_sequence(refusals, "prompt", request.prompt, request.alphabet)
    refusals.known_enum("alphabet", request.alphabet, pb.Alphabet)
    num_samples = request.num_samples or 1
    _check_lengths(refusals, request, num_samples, model, limits)
    temperature, top_k, top_p = _checked_sampling(refusals, request.sampling, model.vocab_size)
    stop = _checked_stops(refusals, request, limits)
    if request.return_logits:
        refusals.add("return_logits", "is true; accepted: false (this server returns return_logprobs only)")
    if len(request.cache_salt) > MAX_NAME_LENGTH:
        refusals.add("cache_salt", f"has {len(request.cache_salt)} characters; accepted: at most {MAX_NAME_LENGTH}")
    refusals.raise_if_any()
    return GenerationPlan(
        prompt=prompt,
        max_new_tokens=request.max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=request.sampling.seed if request.sampling.HasField("seed") else None,
        stop=stop,
        num_samples=num_samples,
        tokens_per_message=min(request.tokens_per_message or DEFAULT_TOKENS_PER_MESSAGE, MAX_TOKENS_PER_MESSAGE),
        ignore_end_of_document=request.ignore_end_of_document,
        return_logprobs=request.return_logprobs,
        return_timing=request.return_timing,
    )


def _check_lengths(
    refusals: Refusals,
    request: pb.GenerateSequenceRequest,
    num_samples: int,
    model: ServedModel,
    limits: ServingLimits,
) -> None:
    prompt_tokens, new_tokens = len(request.prompt), request.max_new_tokens
    if not 1 <= new_tokens <= limits.max_new_tokens:
        refusals.add("max_new_tokens", f"is {new_tokens}; accepted: 1 to {limits.max_new_tokens}")
    elif prompt_tokens + new_tokens > model.max_sequence_tokens:
        refusals.add(
            "max_new_tokens",
            f"is {new_tokens} after a prompt of {prompt_tokens} tokens; "
            f"accepted: at most {model.max_sequence_tokens} tokens together",
        )
    if num_samples > limits.max_samples_per_request:
        refusals.add("num_samples", f"is {num_samples}; accepted: 1 to {limits.max_samples_per_request}")
    elif prompt_tokens + num_samples * new_tokens > limits.max_tokens_per_request:
        refusals.add(
            "num_samples",
            f"asks for {prompt_tokens + num_samples * new_tokens} tokens with the prompt; "
            f"accepted: at most {limits.max_tokens_per_request} a request",
        )


def _checked_sampling(refusals: Refusals, sampling: pb.SamplingOptions, vocab_size: int) -> tuple[float, int, float]:
    temperature = sampling.temperature
    if not (math.isfinite(temperature) and temperature >= 0):
        refusals.add(
            "sampling.temperature", f"is {temperature:g}; accepted: a finite number from 0 (most likely token)"
        )
    top_k = sampling.top_k
    if top_k > vocab_size:
        refusals.add("sampling.top_k", f"is {top_k}; accepted: 0 (off) to {vocab_size}")
    top_p = sampling.top_p if sampling.HasField("top_p") else 1.0
    if not 0 < top_p <= 1:
        refusals.add("sampling.top_p", f"is {top_p:g}; accepted: above 0, at most 1")
    return temperature, top_k, top_p


def _checked_stops(refusals: Refusals, request: pb.GenerateSequenceRequest, limits: ServingLimits) -> tuple[str, ...]:
    refusals.at_most("stop_sequences", len(request.stop_sequences), limits.max_stop_sequences, "stop sequences")
    stops = []
    for index, stop in enumerate(request.stop_sequences):
        if refusals.full:
            break
        field = f"stop_sequences[{index}]"
        if len(stop) > MAX_STOP_LENGTH:
            refusals.add(field, f"has {len(stop)} characters; accepted: 1 to {MAX_STOP_LENGTH}")
        else:
            stops.append(_checked_sequence(refusals, field, stop, request.alphabet))
    return tuple(dict.fromkeys(stops))


def plan_scoring(request: pb.ScoreSequencesRequest, model: ServedModel, limits: ServingLimits) -> ScoringPlan:
    """Checks a ScoreSequences request.

    Raises:
      NotFound: Another model is named.
      InvalidRequest: At least one field is refused.
    """
    check_model_name(request.model, model.name)
    refusals = Refusals()
    both_strands = _checked_strand(refusals, request.strand, request.alphabet)
    if not request.sequences:
        refusals.add("sequences", "is empty; accepted: at least 1 sequence")
    refusals.at_most("sequences", len(request.sequences), limits.max_sequences_per_request, "sequences")
    longest = model.max_sequence_tokens - int(request.prepend_end_of_document)
    sequences = []
    for index, sequence in enumerate(request.sequences):
        if refusals.full:
            break
        field = f"sequences[{index}]"
        refusals.at_most(field, len(sequence), longest, "tokens")
        if len(sequence) == 1 and not request.prepend_end_of_document:
            refusals.add(field, "has 1 token; accepted without prepend_end_of_document: at least 2")
        sequences.append(_checked_sequence(refusals, field, sequence, request.alphabet))
    tokens = sum(map(len, request.sequences)) * (2 if both_strands else 1)
    refusals.at_most("sequences", tokens, limits.max_tokens_per_request, "tokens in all")
    if request.return_logprobs:
        if both_strands and not request.prepend_end_of_document:
            accepted = "accepted with STRAND_BOTH: false, or true with prepend_end_of_document"
            refusals.add("return_logprobs", f"is true; {accepted}")
        cap = limits.max_scored_tokens_with_logprobs
        refusals.at_most("sequences", tokens, cap, "tokens in all with return_logprobs")
    refusals.raise_if_any()
    return ScoringPlan(tuple(sequences), both_strands, request.prepend_end_of_document, request.return_logprobs)


def plan_variants(request: pb.ScoreVariantsRequest, model: ServedModel, limits: ServingLimits) -> VariantPlan:
    """Checks a ScoreVariants request and applies each variant to the window.

    Raises:
      NotFound: Another model is named.
      InvalidRequest: At least one field is refused.
    """
    check_model_name(request.model, model.name)
    refusals = Refusals()
    both_strands = _checked_strand(refusals, request.strand, request.alphabet)
    window = _checked_sequence(refusals, "reference_window", request.reference_window, request.alphabet)
    refusals.at_most("reference_window", len(window), model.max_sequence_tokens, "tokens")
    if len(window) == 1:
        refusals.add("reference_window", "has 1 token; accepted: at least 2")
    if not request.variants:
        refusals.add("variants", "is empty; accepted: at least 1 variant")
    refusals.at_most("variants", len(request.variants), limits.max_variants_per_request, "variants")
    strands = 2 if both_strands else 1
    alternates, tokens = [], strands * len(window)
    for index, variant in enumerate(request.variants[: limits.max_variants_per_request]):
        if refusals.full:
            break
        alternates.append(_applied(refusals, f"variants[{index}]", variant, window, request.alphabet, model))
        tokens += strands * len(alternates[-1])
        if tokens > limits.max_tokens_per_request:
            cap = limits.max_tokens_per_request
            refusals.add("variants", f"need more than {cap} tokens in all their windows; accepted: at most {cap}")
            break
    refusals.raise_if_any()
    return VariantPlan(window, tuple(variant.id for variant in request.variants), tuple(alternates), both_strands)


def plan_embedding(
    request: pb.EmbedSequencesRequest, model: ServedModel, limits: ServingLimits, layer_names: Sequence[str]
) -> EmbeddingPlan:
    """Checks an EmbedSequences request.

    Raises:
      NotFound: Another model is named.
      InvalidRequest: At least one field is refused.
    """
    check_model_name(request.model, model.name)
    refusals = Refusals()
    refusals.known_enum("pooling", request.pooling, pb.Pooling)
    refusals.known_enum("data_type", request.data_type, pb.DataType)
    refusals.known_enum("alphabet", request.alphabet, pb.Alphabet)
    if not request.layers:
        refusals.add("layers", f"is empty; accepted: at least 1 of {layer_names[0]} to {layer_names[-1]}")
    refusals.at_most("layers", len(request.layers), limits.max_layers_per_request, "layers")
    for index, layer in enumerate(request.layers[: limits.max_layers_per_request]):
        if layer not in layer_names:
            refusals.add(f"layers[{index}]", f"is {printable(layer)}; accepted: {layer_names[0]} to {layer_names[-1]}")
        elif layer in request.layers[:index]:
            refusals.add(f"layers[{index}]", f"is {layer} again; accepted: each layer once")
    if not request.sequences:
        refusals.add("sequences", "is empty; accepted: at least 1 sequence")
    refusals.at_most("sequences", len(request.sequences), limits.max_sequences_per_request, "sequences")
    sequences = []
    for index, sequence in enumerate(request.sequences):
        if refusals.full:
            break
        refusals.at_most(f"sequences[{index}]", len(sequence), model.max_sequence_tokens, "tokens")
        sequences.append(_checked_sequence(refusals, f"sequences[{index}]", sequence, request.alphabet))
    refusals.at_most("sequences", sum(map(len, request.sequences)), limits.max_tokens_per_request, "tokens in all")
    refusals.raise_if_any()
    data_type = request.data_type or pb.DATA_TYPE_FLOAT32
    return EmbeddingPlan(tuple(sequences), tuple(request.layers), _POOLINGS[request.pooling], data_type)


def _applied(
    refusals: Refusals, field: str, variant: pb.Variant, window: str, alphabet: int, model: ServedModel
) -> str:
    """The window with one variant applied; the window itself where the variant is refused."""
    before = len(refusals.found)
    if len(variant.id) > MAX_NAME_LENGTH:
        refusals.add(f"{field}.id", f"has {len(variant.id)} characters; accepted: at most {MAX_NAME_LENGTH}")
    reference, alternate = variant.reference_bases, variant.alternate_bases
    reference = _checked_sequence(refusals, f"{field}.reference_bases", reference, alphabet, empty=True)
    alternate = _checked_sequence(refusals, f"{field}.alternate_bases", alternate, alphabet, empty=True)
    end = variant.offset + len(reference)
    if not reference and not alternate:
        refusals.add(f"{field}.alternate_bases", "is empty like reference_bases; accepted: a change")
    if variant.offset > len(window) or end > len(window):
        refusals.add(f"{field}.offset", f"reaches to {end}; accepted: at most {len(window)}, the end of the window")
    elif window[variant.offset : end] != reference:
        refusals.add(f"{field}.reference_bases", f"differ from the window at offset {variant.offset}")
    changed = window[: variant.offset] + alternate + window[end:]
    if len(changed) < 2 <= len(window):
        refusals.add(f"{field}.alternate_bases", f"leave {len(changed)} tokens of the window; accepted: at least 2")
    refusals.at_most(f"{field}.alternate_bases", len(changed), model.max_sequence_tokens, "tokens in the window")
    return changed if len(refusals.found) == before else window


def _checked_strand(refusals: Refusals, strand: int, alphabet: int) -> bool:
    refusals.known_enum("strand", strand, pb.Strand)
    refusals.known_enum("alphabet", alphabet, pb.Alphabet)
    if strand == pb.STRAND_BOTH and alphabet == pb.ALPHABET_ASCII:
        refusals.add("strand", "is STRAND_BOTH; accepted with ALPHABET_ASCII: STRAND_FORWARD")
    return strand == pb.STRAND_BOTH


def _checked_sequence(refusals: Refusals, field: str, sequence: str, alphabet: int, *, empty: bool = False) -> str:
    """The sequence, in upper case for DNA; the first character outside the alphabet is refused."""
    if not sequence and not empty:
        refusals.add(field, "is empty; accepted: at least 1 character")
    if alphabet == pb.ALPHABET_ASCII:
        offending, accepted = OUTSIDE_ASCII.search(sequence), "printable ASCII"
    else:
        offending, accepted = OUTSIDE_DNA.search(sequence), "A C G T N"
    if offending:
        character = ascii(offending.group())
        refusals.add(field, f"has {character} at position {offending.start()}; accepted: {accepted}")
        return ""
    return sequence if alphabet == pb.ALPHABET_ASCII else sequence.upper()


def printable(text: str) -> str:
    """A name from outside as safe one-line text of at most 64 characters or so."""
    shown = ascii(text[:64])
    return shown if len(text) <= 64 else f"{shown}..."
