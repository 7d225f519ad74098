"""The one contract of sequence mixers, and the state that a mixer carries from token to token."""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclasses.dataclass
class MixerState:
    """What a causal mixer remembers of a batch of sequences: tensors whose first axis is the batch, updated in place.

    The mixer reads ``position`` and writes everything else; whoever drives the mixer calls ``advance`` once all
    layers that share the position have seen the tokens.

    Attributes:
      position: Tokens already seen by each row, int64.
    """

    position: Int[Tensor, " batch"]

    def tensors(self) -> dict[str, Tensor]:
        """Returns what the mixer holds, by name: ``[batch, ...]`` (without ``position``, which layers share)."""
        held = ((name, getattr(self, name)) for name in _held_names(type(self)))
        return {name: value for name, value in held if value is not None}

    def advance(self, count: int, active: Bool[Tensor, " batch"] | None = None) -> None:
        """Counts ``count`` more tokens for every row, or for the rows where ``active`` is true."""
        if active is None:
            self.position.add_(count)
        else:
            self.position.add_(active.to(self.position.dtype), alpha=count)

    def rows(self, start: int, count: int, position: Int[Tensor, " rows"] | None = None) -> "MixerState":
        """Returns a view of ``count`` rows that shares storage with this state."""
        position = self.position.narrow(0, start, count) if position is None else position
        return dataclasses.replace(
            self, position=position, **{name: value.narrow(0, start, count) for name, value in self.tensors().items()}
        )

    def reset(self, rows: Int[Tensor, " rows"] | slice | None = None) -> None:
        """Makes the given rows (all by default) as new: nothing seen."""
        index = slice(None) if rows is None else rows
        for tensor in (self.position, *self.tensors().values()):
            tensor[index] = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors of this layer (without ``position``)."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())


@functools.cache
def _held_names(kind: type[MixerState]) -> tuple[str, ...]:
    """Lists what states of a kind hold beside their position; to ask anew takes longer than to reset them."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.name != "position")


@runtime_checkable
class Mixer(Protocol):
    """Mixes positions of a sequence or of a grid over several axes: ``y = mixer(q, k, v)``, channels last.

    q, k, v and the output have the channels of the block around, unless the mixer has an attribute ``stream_channels``
    that says how many of each stream it takes (none of q and k for a plain convolution, fewer of k and v where heads
    share them) or ``output_channels`` that says how many it returns. A mixer whose ``takes_condition`` is true also
    accepts ``condition=``, a vector per sample, in ``forward``.

    A causal mixer also runs in pieces: with a state, ``forward`` continues a sequence by a chunk and ``step`` by one
    token, both updating the state in place except for ``state.position``, which the caller advances. Any way of
    cutting a sequence into chunks and steps gives the output of the uncut ``forward``. A mixer that is not causal
    raises ``StateUnsupported`` instead.
    """

    def forward(
        self,
        q: Float[Tensor, "batch *space query"],
        k: Float[Tensor, "batch *space key"],
        v: Float[Tensor, "batch *space value"],
        *,
        state: MixerState | None = None,
    ) -> Float[Tensor, "batch *space channel"]:
        """Mixes whole sequences, or the next chunk of the sequences in ``state``."""
        ...

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MixerState:
        """Returns the state of sequences of which nothing was seen, with room for ``max_length`` tokens each."""
        ...

    def step(
        self,
        q: Float[Tensor, "batch channel"],
        k: Float[Tensor, "batch channel"],
        v: Float[Tensor, "batch channel"],
        state: MixerState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Mixes one more token per row; rows where ``active`` is false keep their state, their output means nothing."""
        ...

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        """Counts floating-point operations of ``forward`` on one sample, of a length or of a size per axis.

        A multiply-add is two.
        """
        ...


@runtime_checkable
class ProjectedMixer(Mixer, Protocol):
    """A mixer that can also run the short convolution in front of it, fused."""

    def forward_projected(
        self,
        z: Float[Tensor, "batch rows length"],
        short_taps: Float[Tensor, "rows tap"],
        *,
        state: MixerState | None = None,
    ) -> tuple[Float[Tensor, "batch channel length"], MixerState | None]:
        """Equals ``forward`` on the streams of ``causal_conv(z, short_taps)``, row ``3 * c + p`` stream p of channel c.

        Channels first on both sides; returns the output and the state that was given.
        """
        ...
