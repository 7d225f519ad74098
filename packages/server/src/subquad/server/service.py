"""The genomics service: each method checks its request, hands it to the engine, and answers."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, runtime_checkable

from subquad.genomics.v1 import service_pb2 as pb
from subquad.genomics.v1 import service_pb2_grpc
from subquad.inference.tokenizer import Tokenizer
from subquad.server.boundary import Call
from subquad.server.embedding import Embedder
from subquad.server.engine_events import SchedulerPort
from subquad.server.generation import GenerationStream
from subquad.server.limits import ServingLimits
from subquad.server.metrics import Metrics
from subquad.server.scoring import Scorer
from subquad.server.validation import (
    ServedModel,
    check_model_name,
    plan_embedding,
    plan_generation,
    plan_scoring,
    plan_variants,
)
from subquad.server.wire import limits_to_proto

DATA_TYPES = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "bfloat16": pb.DATA_TYPE_BFLOAT16,
    "float16": pb.DATA_TYPE_FLOAT16,
}

SUBQUADRATIC_OPS = {None: "auto", True: "on", False: "off"}


@runtime_checkable
class EnginePort(Protocol):
    """What the service asks of an engine; `subquad.inference.Engine` is one."""

    model: Any
    tokenizer: Tokenizer

    @property
    def weights_sha256(self) -> str | None:
        """Digest of the weights."""
        ...

    @property
    def layer_names(self) -> Sequence[str]:
        """Names of the layers."""
        ...

    @property
    def device(self) -> object:
        """Where the weights are; its text is ``cpu`` or names an accelerator."""
        ...

    @property
    def use_subquadratic_ops(self) -> bool | None:
        """What is asked of the fused operators."""
        ...

    @property
    def dtype(self) -> object:
        """Type of the activations; its text ends in ``float32`` or the like."""
        ...


@dataclass(frozen=True)
class ServedEngine:
    """What the service serves: an engine under a name, and the scheduler that runs it."""

    name: str
    engine: EnginePort
    scheduler: SchedulerPort


class GenomicsService(service_pb2_grpc.GenomicsServiceServicer):
    """The methods, over a `Call` (see `subquad.server.boundary`) instead of gRPC's context.

    Args:
      limits: What requests may ask for.
      metrics: Where work is counted.
    """

    def __init__(self, limits: ServingLimits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics

    def attach(self, served: ServedEngine) -> None:
        """Takes the loaded engine; the server enters SERVING only afterwards."""
        self._served = served
        longest, limits = served.scheduler.max_sequence_tokens, self._limits
        samples = min(limits.max_samples_per_request, limits.max_running_requests)
        self._limits = replace(limits, max_sequence_tokens=longest, max_samples_per_request=samples)
        self._model = ServedModel(served.name, served.engine.tokenizer.vocab_size, longest)
        self._embedder = Embedder(served.scheduler, served.engine.tokenizer)
        self._scorer = Scorer(served.scheduler, served.engine.tokenizer, self._metrics)

    async def GetModel(self, request: pb.GetModelRequest, context: Call) -> pb.GetModelResponse:
        """Describes the served model and the limits of this server."""
        check_model_name(request.model, self._model.name)
        engine = self._served.engine
        return pb.GetModelResponse(
            model=self._model.name,
            weights_sha256=engine.weights_sha256 or "",
            architecture=type(engine.model).__name__,
            vocab_size=self._model.vocab_size,
            alphabet="ACGTN",
            layers=engine.layer_names,
            hidden_size=engine.model.hidden_size,
            compute_type=DATA_TYPES.get(str(engine.dtype).removeprefix("torch."), pb.DATA_TYPE_UNSPECIFIED),
            batch_invariant=True,
            limits=limits_to_proto(self._limits),
            server_version=server_version(),
            subquadratic_ops=SUBQUADRATIC_OPS[engine.use_subquadratic_ops],
        )

    async def GenerateSequence(
        self, request: pb.GenerateSequenceRequest, context: Call
    ) -> AsyncGenerator[pb.GenerateSequenceResponse, None]:
        """Streams a continuation of the prompt."""
        plan = plan_generation(request, self._model, self._limits)
        stream = GenerationStream(plan, self._served.scheduler, self._served.engine.tokenizer, self._metrics)
        async for message in stream.messages(context):
            yield message

    async def ScoreSequences(self, request: pb.ScoreSequencesRequest, context: Call) -> pb.ScoreSequencesResponse:
        """Scores each sequence."""
        return await self._scorer.sequences(plan_scoring(request, self._model, self._limits))

    async def ScoreVariants(
        self, request: pb.ScoreVariantsRequest, context: Call
    ) -> AsyncGenerator[pb.ScoreVariantsResponse, None]:
        """Streams the score change of each variant."""
        async for message in self._scorer.variants(plan_variants(request, self._model, self._limits)):
            yield message

    async def EmbedSequences(
        self, request: pb.EmbedSequencesRequest, context: Call
    ) -> AsyncGenerator[pb.EmbedSequencesResponse, None]:
        """Streams the activations of layers for each sequence."""
        plan = plan_embedding(request, self._model, self._limits, self._served.engine.layer_names)
        async for message in self._embedder.messages(plan):
            yield message


def server_version() -> str:
    """The version of the installed subquad-server, or ``"source"`` where it runs from a source tree."""
    try:
        return version("subquad-server")
    except PackageNotFoundError:
        return "source"
