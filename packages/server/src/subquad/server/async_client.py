"""The typed client for asyncio: the methods of `GenomicsClient`, awaited."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc

from subquad.genomics.v1 import service_pb2 as pb
from subquad.genomics.v1 import service_pb2_grpc
from subquad.server.channel import Connection
from subquad.server.client import DEFAULT_NEW_TOKENS, typed_errors
from subquad.server.messages import (
    Alphabet,
    ElementType,
    EmbeddingPart,
    GenerationEvent,
    ModelInfo,
    Pooling,
    SequenceScore,
    Strand,
    Variant,
    VariantScore,
    embedding_part,
    generation_event,
    model_info,
    sequence_score,
    variant_score,
)
from subquad.server.requests import GenerationRequest, embedding_request, scoring_request, variants_request
from subquad.server.retrying import Attempts

Item = TypeVar("Item")


class AsyncStream(Generic[Item]):
    """An answer that arrives in pieces: iterate it once, in an ``async with`` block where you may leave early."""

    def __init__(self, attempts: Attempts, read: Callable[[Any], Item]) -> None:
        self._attempts, self._read = attempts, read
        self._closed = self._answered = False
        self._ask()

    def __aiter__(self) -> "AsyncStream[Item]":
        return self

    async def __anext__(self) -> Item:
        with typed_errors():
            while True:
                try:
                    message = await anext(self._messages)
                except grpc.RpcError as error:
                    pause = None if self._answered else self._attempts.pause_after(error)
                    if pause is None:
                        raise
                    await asyncio.sleep(pause)
                    if self._closed:
                        raise
                    self._ask()
                else:
                    self._answered = True
                    return self._read(message)

    def _ask(self) -> None:
        self._call = self._attempts.begin()
        self._messages: AsyncIterator[Any] = aiter(self._call)

    def close(self) -> None:
        """Cancels the request unless it has ended."""
        self._closed = True
        self._call.cancel()

    async def __aenter__(self) -> "AsyncStream[Item]":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class AsyncGenomicsClient:
    """A client of one or several equal servers, as an ``async with`` block; leaving it cancels what still runs.

    Args:
      target: ``HOST:PORT`` or a gRPC target; or a `Connection` with TLS and token.
      timeout: Seconds each call may take where it names none itself; None leaves it to the server.
    """

    def __init__(self, target: str | Connection, *, timeout: float | None = None) -> None:
        self._connection = Connection(target) if isinstance(target, str) else target
        self._timeout = timeout
        self._channel = self._connection.open_async()
        self._stub: Any = service_pb2_grpc.GenomicsServiceStub(self._channel)

    async def __aenter__(self) -> "AsyncGenomicsClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels every open call and disconnects."""
        await self._channel.close()

    async def get_model(self, *, model: str = "", timeout: float | None = None) -> ModelInfo:
        """Describes the served model and the limits of the server; see `GenomicsClient.get_model`."""
        return model_info(await self._call(self._stub.GetModel, pb.GetModelRequest(model=model), timeout))

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
    ) -> AsyncStream[GenerationEvent]:
        """Extends a prompt; see `GenomicsClient.generate` for the arguments and the errors."""
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
        return AsyncStream(self._attempts(self._stub.GenerateSequence, request, timeout), generation_event)

    async def score(
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
        """Returns the log-likelihood of each sequence; see `GenomicsClient.score`."""
        request = scoring_request(
            sequences,
            strand=strand,
            prepend_eod=prepend_eod,
            return_logprobs=return_logprobs,
            alphabet=alphabet,
            model=model,
        )
        response = await self._call(self._stub.ScoreSequences, request, timeout)
        return [sequence_score(score) for score in response.scores]

    def score_variants(
        self,
        reference_window: str,
        variants: Sequence[Variant],
        *,
        strand: Strand = "forward",
        alphabet: Alphabet = "dna",
        model: str = "",
        timeout: float | None = None,
    ) -> AsyncStream[VariantScore]:
        """Yields the log-likelihood change of each variant; see `GenomicsClient.score_variants`."""
        request = variants_request(reference_window, variants, strand=strand, alphabet=alphabet, model=model)
        return AsyncStream(self._attempts(self._stub.ScoreVariants, request, timeout), variant_score)

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
    ) -> AsyncStream[EmbeddingPart]:
        """Yields the activations of layers for each sequence; see `GenomicsClient.embed`."""
        request = embedding_request(
            sequences, layers, pooling=pooling, data_type=data_type, alphabet=alphabet, model=model
        )
        return AsyncStream(self._attempts(self._stub.EmbedSequences, request, timeout), embedding_part)

    async def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        attempts = self._attempts(method, request, timeout)
        with typed_errors():
            while True:
                try:
                    return await attempts.begin()
                except grpc.RpcError as error:
                    pause = attempts.pause_after(error)
                    if pause is None:
                        raise
                await asyncio.sleep(pause)

    def _attempts(self, method: Any, request: Any, timeout: float | None) -> Attempts:
        def start(seconds: float | None) -> Any:
            return method(request, timeout=seconds, metadata=self._connection.metadata())

        return Attempts(start, self._timeout if timeout is None else timeout)
