"""Activations of named layers, read chunk by chunk; blocks after the last one asked for are not run."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.inference.errors import InvalidOption, NonFiniteActivations
from subquad.inference.network import Network, RecurrentState, require_alive

Pooling = Literal["mean", "last", "max", "none"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last", "max", "none")
_LAYER = re.compile(r"(?:blocks\.)?(-?\d+)((?:\.\w+)*)")


@runtime_checkable
class LayeredNetwork(Protocol):
    """A network whose first blocks can be run alone."""

    def encode_blocks(
        self, ids: Int[Tensor, "batch length"], count: int, state: RecurrentState | None = None
    ) -> Float[Tensor, "batch length channel"]:
        """Returns the residual stream after the first ``count`` blocks."""
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
    match = _LAYER.fullmatch(name)
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
    """Gives a dictionary in which every run of a layer leaves its output ``[batch, length, channel]``."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class PooledRows:
    """Pools activations ``[batch, chunk, channel]`` of one layer over the positions of each row, chunk by chunk.

    Args:
      pooling: How.
      first: Positions before this one are left out.
      lengths: Positions of each row, the left-out ones included; what follows is padding.
    """

    def __init__(self, pooling: Pooling, first: int, lengths: Sequence[int]) -> None:
        self._pooling, self._first, self._lengths = pooling, first, list(lengths)
        self._parts: list[list[Tensor]] = [[] for _ in lengths]

    def add(self, values: Tensor, start: int) -> None:
        """Takes the activations of the positions from ``start`` on."""
        for row, length in enumerate(self._lengths):
            low, high = max(self._first - start, 0), min(length - start, values.shape[1])
            if low < high:
                self._take(row, values[row, low:high])

    def _take(self, row: int, values: Tensor) -> None:
        parts = self._parts[row]
        match self._pooling:
            case "mean":
                total = values.double().sum(0)
                self._parts[row] = [total if not parts else parts[0] + total]
            case "max":
                top = values.float().amax(0)
                self._parts[row] = [top if not parts else torch.maximum(parts[0], top)]
            case "last":
                self._parts[row] = [values[-1].float()]
            case "none":
                parts.append(values.float().cpu())

    def result(self, row: int) -> Tensor:
        """Returns float32 on the CPU: ``[channel]``, or ``[position, channel]`` where nothing is pooled."""
        parts = self._parts[row]
        if self._pooling == "none":
            return torch.cat(parts)
        value = parts[0] / (self._lengths[row] - self._first) if self._pooling == "mean" else parts[0]
        return value.float().cpu()


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
        width = max(len(row) for row in rows)
        assert width <= chunk or state is not None, "a sequence longer than one chunk needs a state"
        self._network, self._chunk, self._state = network, chunk, state if width > chunk else None
        self._ids = torch.tensor([[*row, *([pad_id] * (width - len(row)))] for row in rows], device=device)
        self._pooled = {layer: PooledRows(pooling, first, [len(row) for row in rows]) for layer in layers}
        self._next = 0

    @property
    def done(self) -> bool:
        """Whether all chunks were read."""
        return self._next >= self._ids.shape[1]

    @torch.inference_mode()
    def advance(self) -> None:
        """Reads one chunk.

        Raises:
          InvalidOption: A layer is not run as a module of its own.
        """
        network, part = self._network, self._ids[:, self._next : self._next + self._chunk]
        assert isinstance(network, LayeredNetwork), "the network has no blocks to run alone"
        assert isinstance(network, nn.Module), "the network is no module, so that its layers have no names"
        with captured(network, list(self._pooled)) as outputs:
            network.encode_blocks(part, 1 + max(block_of(layer) for layer in self._pooled), self._state)
        for layer, pool in self._pooled.items():
            values = outputs.get(layer)
            if values is None or values.shape[:2] != part.shape:
                raise InvalidOption(
                    "layer", layer, "a layer with one output vector for each position, such as blocks.0"
                )
            pool.add(values, self._next)
        self._next += part.shape[1]

    def embeddings(self) -> list[dict[str, Tensor]]:
        """Returns for each row float32 values on the CPU by layer, once `done`.

        Raises:
          WorkerFailed: See `require_alive`.
          NonFiniteActivations: An activation is NaN or infinite.
        """
        rows = range(self._ids.shape[0])
        found = [{layer: pool.result(row) for layer, pool in self._pooled.items()} for row in rows]
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
) -> list[dict[str, Tensor]]:
    """Returns the pooled activations of each row, for every layer; see `EmbeddingPass` for arguments and errors.

    ``batch_size`` rows of like length are read side by side.
    """
    order = sorted(range(len(rows)), key=lambda k: -len(rows[k]))
    found: dict[int, dict[str, Tensor]] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        longest = len(rows[chosen[0]])
        state = network.init_state(len(chosen), max_length=longest) if longest > chunk else None
        reading = EmbeddingPass(
            network,
            [rows[k] for k in chosen],
            layers,
            pooling=pooling,
            first=first,
            chunk=chunk,
            device=device,
            pad_id=pad_id,
            state=state,
        )
        while not reading.done:
            reading.advance()
        found.update(zip(chosen, reading.embeddings(), strict=True))
    return [found[k] for k in range(len(rows))]


def tensor_bytes(values: Tensor, dtype: str) -> bytes:
    """Returns the numbers of a tensor in memory order, little-endian, rounded to a type.

    Args:
      values: Of any shape, on the CPU; float32.
      dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    """
    return values.to(getattr(torch, dtype)).contiguous().view(torch.uint8).numpy().tobytes()
