"""Activations of named layers, read chunk by chunk; blocks after the last one asked for are not run."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.inference.errors import InvalidOption, NonFiniteActivations
from subquad.inference.host_copy import HostCopy
from subquad.inference.id_rows import id_rows
from subquad.inference.network import Network, RecurrentState, require_alive
from subquad.inference.passes import StatesInTurn, in_order, results_in_turn, side_by_side

Pooling = Literal["mean", "last", "max", "none"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last", "max", "none")
_REGISTERING = threading.Lock()  # torch gives two hooks one number where two threads ask for it at once
_LAYER = re.compile(r"(?:blocks\.)?(-?[0-9]{1,9})((?:\.\w+)*)")


@runtime_checkable
class LayeredNetwork(Protocol):
    """A network whose first blocks can be run alone."""

    def encode_blocks(
        self,
        ids: Int[Tensor, "batch length"],
        count: int,
        state: RecurrentState | None = None,
        *,
        starts: list[int] | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Returns the residual stream after the first ``count`` blocks; ``starts`` as in ``Network.encode``."""
        ...


def resolve_layer(name: str, model: nn.Module) -> str:
    """Returns the full name of a layer.

    Args:
      name: ``blocks.N``, or a module inside a block such as ``blocks.28.mlp.l3``; N may be negative, counted from the
        last block, and ``blocks.`` may be left out.
      model: The network.

    Raises:
      InvalidOption: It has no such layer, or it lies inside a block that several processes share.
    """
    depth = sum(1 for _ in model.get_submodule("blocks").children())
    match = _LAYER.fullmatch(name) if isinstance(name, str) else None
    accepted = f"blocks.0 to blocks.{depth - 1}, blocks.-1 to blocks.-{depth}, or a module inside one"
    if match is None or not -depth <= int(match[1]) < depth:
        raise InvalidOption("layer", name, accepted)
    full = f"blocks.{int(match[1]) % depth}{match[2]}"
    try:
        model.get_submodule(full)
    except AttributeError:
        raise InvalidOption("layer", name, accepted) from None
    ranks = getattr(model, "ranks", 1)
    if ranks > 1 and match[2]:
        raise InvalidOption("layer", name, f"whole blocks such as blocks.0, since {ranks} processes share their inside")
    return full


def block_of(layer: str) -> int:
    """Returns the index of the block of a full layer name."""
    return int(layer.split(".")[1])


@contextmanager
def captured(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Gives a dictionary in which each run of a layer by this thread leaves its output ``[batch, length, channel]``."""
    outputs: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def keep(name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and threading.get_ident() == thread:
                outputs[name] = output

        return hook

    with _REGISTERING:
        handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class _Part(NamedTuple):
    """Vectors of some positions of one row, which may be under way to the host."""

    row: int
    position: int
    values: HostCopy


class PooledRows:
    """Pools activations ``[batch, chunk, channel]`` of one layer over the positions of each row, chunk by chunk.

    Args:
      pooling: How.
      first: Positions before this one are left out.
      lengths: Positions of each row, the left-out ones included; what follows is padding.
    """

    def __init__(self, pooling: Pooling, first: int, lengths: Sequence[int]) -> None:
        self._pooling, self._first, self._lengths = pooling, first, list(lengths)
        self._pooled: list[Tensor | None] = [None for _ in lengths]
        self._whole: list[Tensor | None] = [None for _ in lengths]
        self._under_way: list[_Part] = []
        self._copy: HostCopy | None = None

    def add(self, values: Tensor, start: int) -> None:
        """Takes the activations of the positions from ``start`` on; waits for those of the call before at most."""
        before, self._under_way = self._under_way, []
        for row, length in enumerate(self._lengths):
            low, high = max(self._first - start, 0), min(length - start, values.shape[1])
            if low < high:
                self._take(row, start + low - self._first, values[row, low:high])
        self._land(before)

    def finish(self) -> None:
        """Sends what was pooled to the host, after the last positions."""
        if self._pooling != "none":
            self._copy = HostCopy(torch.stack([self._mean(row) for row in range(len(self._lengths))]))

    def results(self) -> list[Tensor]:
        """Waits and returns float32 of each row: ``[channel]``, or ``[position, channel]`` where nothing is pooled."""
        if self._copy is not None:
            return [row.clone() for row in self._copy.read()]
        under_way, self._under_way = self._under_way, []
        self._land(under_way)
        whole, self._whole = self._whole, []  # they are large, and the caller's from now on
        return [row for row in whole if row is not None]

    def _take(self, row: int, position: int, values: Tensor) -> None:
        before = self._pooled[row]
        match self._pooling:
            case "mean":
                total = values.double().sum(0)
                self._pooled[row] = total if before is None else before + total
            case "max":
                top = values.float().amax(0)
                self._pooled[row] = top if before is None else torch.maximum(before, top)
            case "last":
                self._pooled[row] = values[-1].float()
            case "none":
                self._under_way.append(_Part(row, position, HostCopy(values.float())))

    def _mean(self, row: int) -> Tensor:
        value = self._pooled[row]
        assert value is not None
        return (value / (self._lengths[row] - self._first)).float() if self._pooling == "mean" else value

    @torch.inference_mode(mode=False)
    def _land(self, parts: Sequence[_Part]) -> None:
        """Moves vectors that have come to their places among those of their row."""
        for row, position, copy in parts:
            values, whole = copy.read(), self._whole[row]
            if whole is None:
                whole = self._whole[row] = torch.empty(self._lengths[row] - self._first, values.shape[1])
            whole[position : position + values.shape[0]] = values


class EmbeddingPass:
    """Reads one or more sequences side by side, one chunk of an absolute grid at a time, and pools what layers give.

    Shorter sequences are padded on the right; since the network is causal, padding changes nothing before it.

    Args:
      network: The network, a `LayeredNetwork` and a module.
      rows: The tokens of each row.
      layers: Full layer names.
      pooling: How positions become one vector.
      first: Positions before this one are left out.
      chunk: Tokens read at once.
      device: Where the network lives.
      pad_id: Fills the places after the end of shorter rows.
      state: An empty state with one row a sequence; needed where a row is longer than a chunk.
    """

    def __init__(
        self,
        network: Network,
        rows: Sequence[Sequence[int]],
        layers: Sequence[str],
        *,
        pooling: Pooling,
        first: int,
        chunk: int,
        device: torch.device,
        pad_id: int,
        state: RecurrentState | None,
    ) -> None:
        lengths = [len(row) for row in rows]
        width = max(lengths)
        assert width <= chunk or state is not None, "a sequence longer than one chunk needs a state"
        self._network, self._chunk, self._state = network, chunk, state if width > chunk else None
        self._ids = id_rows(rows, pad_id=pad_id, device=device)
        self._pooled = {layer: PooledRows(pooling, first, lengths) for layer in layers}
        self._next = 0

    @property
    def done(self) -> bool:
        """Whether all chunks were launched."""
        return self._next >= self._ids.shape[1]

    @torch.inference_mode()
    def advance(self) -> None:
        """Launches one chunk; waits for what the one before gave at most.

        Raises:
          InvalidOption: A layer is not run as a module of its own.
        """
        network, part = self._network, self._ids[:, self._next : self._next + self._chunk]
        assert isinstance(network, LayeredNetwork), "the network has no blocks to run alone"
        assert isinstance(network, nn.Module), "the network is no module, so that its layers have no names"
        count = 1 + max(block_of(layer) for layer in self._pooled)
        starts = None if self._state is None else [self._next] * part.shape[0]
        with captured(network, list(self._pooled)) as outputs:
            network.encode_blocks(part, count, self._state, starts=starts)
        for layer, pool in self._pooled.items():
            values = outputs.get(layer)
            if values is None or values.shape[:2] != part.shape:
                raise InvalidOption(
                    "layer", layer, "a layer with one output vector for each position, such as blocks.0"
                )
            pool.add(values, self._next)
        self._next += part.shape[1]
        if self.done:
            self._state = None  # the next pass may want its memory
            for pool in self._pooled.values():
                pool.finish()

    def results(self) -> list[dict[str, Tensor]]:
        """Waits for the last chunk and returns for each row float32 values on the CPU by layer, once `done`.

        Raises:
          WorkerFailed: See `require_alive`.
          NonFiniteActivations: An activation is NaN or infinite.
        """
        assert self.done
        columns = [pool.results() for pool in self._pooled.values()]
        found = [dict(zip(self._pooled, row, strict=True)) for row in zip(*columns, strict=True)]
        require_alive(self._network)
        for embedding in found:
            for layer, value in embedding.items():
                if not torch.isfinite(value).all():
                    raise NonFiniteActivations(layer)
        return found


def embed_rows(
    network: Network,
    rows: Sequence[Sequence[int]],
    layers: Sequence[str],
    *,
    pooling: Pooling,
    first: int,
    chunk: int,
    batch_size: int,
    device: torch.device,
    pad_id: int,
) -> Iterator[dict[str, Tensor]]:
    """Yields the pooled activations of each row by layer, in order; see `EmbeddingPass` for arguments and errors.

    Up to ``batch_size`` rows of like length, as many as make a chunk, are read side by side; where nothing is pooled,
    rows that follow each other, so that no more than two passes are held. What one pass gave is read once the next was
    launched.
    """
    batches = side_by_side([len(row) for row in rows], batch_size, chunk, keep_order=pooling == "none")
    states = StatesInTurn(network, chunk, device)

    def passes() -> Iterator[EmbeddingPass]:
        for batch in batches:
            yield EmbeddingPass(
                network,
                [rows[k] for k in batch],
                layers,
                pooling=pooling,
                first=first,
                chunk=chunk,
                device=device,
                pad_id=pad_id,
                state=states.empty(len(batch), len(rows[batch[0]])),
            )

    return in_order(batches, results_in_turn(passes()))


def tensor_bytes(values: Tensor, dtype: str) -> bytes:
    """Returns the numbers of a tensor in memory order, little-endian, rounded to a type.

    Args:
      values: Of any shape, on the CPU; float32.
      dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    """
    return values.to(getattr(torch, dtype)).contiguous().view(torch.uint8).numpy().tobytes()
