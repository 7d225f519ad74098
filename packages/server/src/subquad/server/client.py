"""The typed client: plain values in and out, typed errors, streams that never outlive it. Imports no torch."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from subquad.genomics.v1 import service_pb2 as pb
from subquad.genomics.v1 import service_pb2_grpc
from subquad.server.channel import Connection
from subquad.server.limits import SERVICE_NAME
from subquad.server.messages import (
    Alphabet,
    ElementType,
    EmbeddingPart,
    GeneratedSequence,
    GenerationEvent,
    ModelInfo,
    Pooling,
    SequenceScore,
    Strand,
    Variant,
    VariantScore,
    embedding_part,
    gather,
    generation_event,
    model_info,
    sequence_score,
    variant_score,
)
from subquad.server.requests import GenerationRequest, embedding_request, scoring_request, variants_request
from subquad.server.retrying import Attempts, answer
from subquad.server.status import error_of

Item = TypeVar("Item")
DEFAULT_NEW_TOKENS = 100


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turns gRPC's error into the typed one with its field violations."""
    try:
        yield
    except grpc.RpcError as error:
        call: Any = error
        trailers = tuple(call.trailing_metadata() or ())
        raise error_of(call.code(), call.details(), trailers) from None


class Stream(Generic[Item]):
    """An answer that arrives in pieces: iterate it once; leave it, `close` it or drop it, and the server stops."""

    def __init__(self, attempts: Attempts, read: Callable[[Any], Item]) -> None:
        self._attempts, self._read = attempts, read
        self._lock, self._closed, self._answered = threading.Lock(), threading.Event(), False
        self._ask()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with typed_errors():
            while True:
                try:
                    message = next(self._call)
                except grpc.RpcError as error:
                    pause = None if self._answered else self._attempts.pause_after(error)
                    if pause is None or self._closed.wait(pause) or not self._ask():
                        raise
                else:
                    self._answered = True
                    return self._read(message)

    def _ask(self) -> bool:
        """Starts an attempt, unless the stream was closed."""
        with self._lock:
            if self._closed.is_set():
                return False
            self._call = self._attempts.begin()
            # gRPC neither collects nor cancels an abandoned call by itself.
            self._finalizer = weakref.finalize(self, self._call.cancel)
        return True

    def close(self) -> None:
        """Cancels the request unless it has ended."""
        with self._lock:
            self._closed.set()
            self._finalizer()

    def __enter__(self) -> "Stream[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GenerationStream(Stream[GenerationEvent]):
    """The events of one generation."""

    def text_pieces(self) -> Iterator[str]:
        """The generated text as it comes; of a single sample."""
        for event in self:
            yield getattr(event, "text", "")

    def result(self) -> list[GeneratedSequence]:
        """Waits for the end and returns the whole samples."""
        return gather(self)


class GenomicsClient:
    """A client of one or several equal servers, as a context manager; leaving it cancels what still runs.

    Args:
      target: ``HOST:PORT`` or a gRPC target; or a `Connection` with TLS and token.
      timeout: Seconds each call may take where it names none itself; None leaves it to the server.
      wait_for_ready: Whether calls wait (within their timeout) for a server that can be reached and is serving.
    """

    def __init__(self, target: str | Connection, *, timeout: float | None = None, wait_for_ready: bool = False) -> None:
        self._connection = Connection(target) if isinstance(target, str) else target
        self._timeout, self._wait_for_ready = timeout, wait_for_ready
        self._channel = self._connection.open()
        self._stub: Any = service_pb2_grpc.GenomicsServiceStub(self._channel)
        self._streams: weakref.WeakSet[Stream[Any]] = weakref.WeakSet()

    def __enter__(self) -> "GenomicsClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Cancels every open stream and disconnects."""
        for stream in list(self._streams):
            stream.close()
        self._channel.close()

    def is_serving(self, *, timeout: float = 5.0) -> bool:
        """Whether a server can be reached and says that it is serving; needs no token."""
        health: Any = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        try:
            answer = health.Check(request, timeout=timeout)
        except grpc.RpcError:
            return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def get_model(self, *, model: str = "", timeout: float | None = None) -> ModelInfo:
        """Describes the served model and the limits of the server.

        Raises:
          NotFound: `model` is not served.
        """
        return model_info(self._call(self._stub.GetModel, pb.GetModelRequest(model=model), timeout))

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        num_samples: int = 1,
        return_logprobs: bool = False,
        tokens_per_message: int = 0,
        ignore_end_of_document: bool = False,
        alphabet: Alphabet = "dna",
        model: str = "",
        timeout: float | None = None,
    ) -> GenerationStream:
        """Extends a prompt; yields `Started`, then for each sample its `Delta`s and one `Finished`.

        Args:
          prompt: One character a token.
          max_new_tokens: Tokens to generate at most, for each sample.
          temperature: 0 takes the most likely token.
          top_k: Keeps the `top_k` most likely tokens; 0 keeps all.
          top_p: Keeps the smallest set of tokens whose probability reaches it.
          seed: None lets the server draw one, which `Started` tells.
          stop: Generation ends before the first of these.
          num_samples: Independent continuations.
          return_logprobs: Also return the natural log-probability of each token.
          tokens_per_message: Tokens a `Delta` holds; 0 takes the server's default, 16. The first token comes alone.
          ignore_end_of_document: Go on after the end-of-document token.
          alphabet: ``"dna"`` (A C G T N, case folded) or ``"ascii"``.
          model: Name of the model; empty takes the served one.
          timeout: Seconds until `DeadlineExceeded`.

        Raises:
          InvalidRequest: A field is refused (when iterated).
          RequestError: Any other error of the server (when iterated).
        """
        request = GenerationRequest(
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
            num_samples=num_samples,
            return_logprobs=return_logprobs,
            tokens_per_message=tokens_per_message,
            ignore_end_of_document=ignore_end_of_document,
            alphabet=alphabet,
            model=model,
        ).to_proto()
        stream = GenerationStream(self._attempts(self._stub.GenerateSequence, request, timeout), generation_event)
        self._streams.add(stream)
        return stream

    def score(
        self,
        sequences: Sequence[str],
        *,
        strand: Strand = "forward",
        prepend_eod: bool = False,
        return_logprobs: bool = False,
        alphabet: Alphabet = "dna",
        model: str = "",
        timeout: float | None = None,
    ) -> list[SequenceScore]:
        """Returns the log-likelihood of each sequence: ``sum(log p(s[t] | s[:t]))`` over its scored tokens.

        Args:
          sequences: One character a token.
          strand: ``"both"`` averages with the reverse complement.
          prepend_eod: Put the end-of-document token in front, so that the first token is scored too.
          return_logprobs: Also return each scored token's log-probability.
          alphabet: ``"dna"`` (A C G T N, case folded) or ``"ascii"``.
          model: Name of the model; empty takes the served one.
          timeout: Seconds until `DeadlineExceeded`.

        Raises:
          InvalidRequest: A field is refused.
          RequestError: Any other error of the server.
        """
        request = scoring_request(
            sequences,
            strand=strand,
            prepend_eod=prepend_eod,
            return_logprobs=return_logprobs,
            alphabet=alphabet,
            model=model,
        )
        return [sequence_score(score) for score in self._call(self._stub.ScoreSequences, request, timeout).scores]

    def score_variants(
        self,
        reference_window: str,
        variants: Sequence[Variant],
        *,
        strand: Strand = "forward",
        alphabet: Alphabet = "dna",
        model: str = "",
        timeout: float | None = None,
    ) -> Stream[VariantScore]:
        """Yields the log-likelihood change of each variant of a window, as it is ready.

        Raises:
          InvalidRequest: A field is refused, for example a reference that differs from the window (when iterated).
          RequestError: Any other error of the server (when iterated).
        """
        request = variants_request(reference_window, variants, strand=strand, alphabet=alphabet, model=model)
        stream = Stream(self._attempts(self._stub.ScoreVariants, request, timeout), variant_score)
        self._streams.add(stream)
        return stream

    def embed(
        self,
        sequences: Sequence[str],
        layers: Sequence[str],
        *,
        pooling: Pooling = "mean",
        data_type: ElementType = "float32",
        alphabet: Alphabet = "dna",
        model: str = "",
        timeout: float | None = None,
    ) -> Stream[EmbeddingPart]:
        """Yields the activations of layers for each sequence, in order: one part, or several of a long sequence.

        Args:
          sequences: One character a token.
          layers: Names out of `ModelInfo.layers`.
          pooling: ``"mean"`` or ``"last"`` over the tokens, or ``"none"`` for one vector a token.
          data_type: Type of the values on the wire.
          alphabet: ``"dna"`` (A C G T N, case folded) or ``"ascii"``.
          model: Name of the model; empty takes the served one.
          timeout: Seconds until `DeadlineExceeded`.

        Raises:
          InvalidRequest: A field is refused (when iterated).
          RequestError: Any other error of the server (when iterated).
        """
        request = embedding_request(
            sequences, layers, pooling=pooling, data_type=data_type, alphabet=alphabet, model=model
        )
        stream = Stream(self._attempts(self._stub.EmbedSequences, request, timeout), embedding_part)
        self._streams.add(stream)
        return stream

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        with typed_errors():
            return answer(self._attempts(method, request, timeout))

    def _attempts(self, method: Any, request: Any, timeout: float | None) -> Attempts:
        def start(seconds: float | None) -> Any:
            metadata = self._connection.metadata()
            return method(request, timeout=seconds, metadata=metadata, wait_for_ready=self._wait_for_ready)

        return Attempts(start, self._timeout if timeout is None else timeout)
