"""EmbedSequences: activations of layers from the engine, cut into messages of bounded size."""

from collections.abc import AsyncIterator, Iterator

from subquad.genomics.v1 import service_pb2 as pb
from subquad.inference import Embedded, EmbedJob, tensor_bytes
from subquad.inference.tokenizer import Tokenizer
from subquad.server.engine_events import EngineEvents, SchedulerPort
from subquad.server.limits import RESPONSE_CHUNK_BYTES
from subquad.server.messages import DATA_TYPES
from subquad.server.validation import EmbeddingPlan


class Embedder:
    """Embeds plans over one scheduler."""

    def __init__(self, scheduler: SchedulerPort, tokenizer: Tokenizer) -> None:
        self._scheduler, self._tokenizer = scheduler, tokenizer

    async def messages(self, plan: EmbeddingPlan) -> AsyncIterator[pb.EmbedSequencesResponse]:
        """Yields the messages of each sequence in order, layer by layer; the last one of each layer says so."""
        job = EmbedJob(
            sequences=[self._tokenizer.encode(sequence) for sequence in plan.sequences],
            layers=plan.layers,
            pooling=plan.pooling,
        )
        final = len(plan.sequences) - 1
        async with EngineEvents(self._scheduler, lambda wake: self._scheduler.embed(job, wake)) as events:
            async for event in events:
                if not isinstance(event, Embedded):
                    continue
                for layer in plan.layers:
                    for message in _messages(event, layer, plan.data_type):
                        yield message
                if event.index == final:
                    return


def _messages(event: Embedded, layer: str, data_type: int) -> Iterator[pb.EmbedSequencesResponse]:
    """Cuts one tensor along its positions; a pooled one is a single message."""
    values, dtype = event.values[layer], DATA_TYPES[data_type]
    rows = values.shape[0]
    step = rows
    if values.dim() == 2:
        step = max(1, RESPONSE_CHUNK_BYTES // len(tensor_bytes(values[:1], dtype)))
    for start in range(0, rows, step):
        part = values[start : start + step]
        tensor = pb.Tensor(data_type=data_type, shape=part.shape, data=tensor_bytes(part, dtype))  # type: ignore[arg-type]
        yield pb.EmbedSequencesResponse(
            sequence_index=event.index, layer=layer, first_position=start, values=tensor, last=start + step >= rows
        )
