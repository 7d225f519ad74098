"""The client's requests from plain values; ranges are checked by the server, whose limits are its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from subquad.genomics.v1 import service_pb2 as pb
from subquad.server.errors import FieldViolation, InvalidRequest
from subquad.server.messages import (
    ALPHABETS,
    ELEMENT_TYPES,
    POOLINGS,
    STRANDS,
    Alphabet,
    ElementType,
    Pooling,
    Strand,
    Variant,
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What `GenomicsClient.generate` asks for; see there."""

    prompt: str
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    stop: Sequence[str]
    num_samples: int
    return_logprobs: bool
    tokens_per_message: int
    ignore_end_of_document: bool
    alphabet: Alphabet
    model: str

    def to_proto(self) -> pb.GenerateSequenceRequest:
        """The wire form.

        Raises:
          InvalidRequest: A value does not fit its field.
        """
        return _checked(self._to_proto)

    def _to_proto(self) -> pb.GenerateSequenceRequest:
        sampling = pb.SamplingOptions(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
        if self.seed is not None:
            sampling.seed = self.seed
        return pb.GenerateSequenceRequest(
            model=self.model,
            prompt=self.prompt,
            max_new_tokens=self.max_new_tokens,
            sampling=sampling,
            stop_sequences=_texts("stop", self.stop),
            ignore_end_of_document=self.ignore_end_of_document,
            tokens_per_message=self.tokens_per_message,
            return_logprobs=self.return_logprobs,
            alphabet=_choice("alphabet", self.alphabet, ALPHABETS),
            num_samples=self.num_samples,
        )


def scoring_request(
    sequences: Sequence[str],
    *,
    strand: Strand,
    prepend_eod: bool,
    return_logprobs: bool,
    alphabet: Alphabet,
    model: str,
) -> pb.ScoreSequencesRequest:
    """A ScoreSequences request.

    Raises:
      InvalidRequest: A value does not fit its field.
    """
    return _checked(
        lambda: pb.ScoreSequencesRequest(
            model=model,
            sequences=_texts("sequences", sequences),
            strand=_choice("strand", strand, STRANDS),
            prepend_end_of_document=prepend_eod,
            return_logprobs=return_logprobs,
            alphabet=_choice("alphabet", alphabet, ALPHABETS),
        )
    )


def variants_request(
    reference_window: str, variants: Sequence[Variant], *, strand: Strand, alphabet: Alphabet, model: str
) -> pb.ScoreVariantsRequest:
    """A ScoreVariants request.

    Raises:
      InvalidRequest: A value does not fit its field.
    """
    return _checked(
        lambda: pb.ScoreVariantsRequest(
            model=model,
            reference_window=reference_window,
            variants=[
                pb.Variant(id=v.id, offset=v.offset, reference_bases=v.reference, alternate_bases=v.alternate)
                for v in variants
            ],
            strand=_choice("strand", strand, STRANDS),
            alphabet=_choice("alphabet", alphabet, ALPHABETS),
        )
    )


def embedding_request(
    sequences: Sequence[str],
    layers: Sequence[str],
    *,
    pooling: Pooling,
    data_type: ElementType,
    alphabet: Alphabet,
    model: str,
) -> pb.EmbedSequencesRequest:
    """An EmbedSequences request.

    Raises:
      InvalidRequest: A value does not fit its field.
    """
    return _checked(
        lambda: pb.EmbedSequencesRequest(
            model=model,
            sequences=_texts("sequences", sequences),
            layers=_texts("layers", layers),
            pooling=_choice("pooling", pooling, POOLINGS),
            data_type=_choice("data_type", data_type, ELEMENT_TYPES),
            alphabet=_choice("alphabet", alphabet, ALPHABETS),
        )
    )


def _checked(build: Callable[[], T]) -> T:
    """Runs `build`; protobuf's complaint about a value that does not fit its field becomes an InvalidRequest."""
    try:
        return build()
    except (ValueError, TypeError) as error:
        if isinstance(error, InvalidRequest):
            raise
        problem = f"a value does not fit its field: {error}"
        raise InvalidRequest(f"request: {problem}", violations=(FieldViolation("request", problem),)) from None


def _texts(field: str, texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise _refused(field, "is one text; accepted: a sequence of texts")
    return texts


def _choice(field: str, name: str, choices: Mapping[str, T]) -> T:
    if name not in choices:
        raise _refused(field, f"is {name!a}; accepted: {', '.join(choices)}")
    return choices[name]


def _refused(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {problem}", violations=(FieldViolation(field, problem),))
