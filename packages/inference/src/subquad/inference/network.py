"""What the engine needs of a network, so that another one can take the place of StripedHyena2."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class RecurrentState(Protocol):
    """The state of a batch of sequences: every tensor has the batch axis first."""

    position: Tensor

    def row(self, index: int) -> "RecurrentState":
        """Returns one row as a batch of one that shares its storage."""
        ...

    def reset(self, rows: Tensor) -> None:
        """Sets rows to the state before the first token."""
        ...

    def copy_(self, source: Any) -> None:
        """Takes over another state of the same shape."""
        ...


@runtime_checkable
class Network(Protocol):
    """A causal network over token ids that can read a sequence in chunks and step by step."""

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Returns the logits of every position."""
        ...

    def encode(
        self, ids: Int[Tensor, "batch length"], state: RecurrentState | None = None
    ) -> Float[Tensor, "batch length channel"]:
        """Returns the hidden states after the final norm, going on from ``state`` and updating it in place."""
        ...

    def unembed(self, hidden: Float[Tensor, "batch length channel"]) -> Float[Tensor, "batch length vocabulary"]:
        """Returns the logits of hidden states."""
        ...

    def step(
        self, ids: Int[Tensor, " batch"], state: RecurrentState, *, active: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch vocabulary"]:
        """Feeds one token a row; rows that are not active keep their state."""
        ...

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> RecurrentState:
        """Returns an empty state for sequences of up to ``max_length`` tokens."""
        ...


def state_tensors(state: object) -> Iterator[Tensor]:
    """Yields every tensor of a state, in an order that is the same for two states of one network."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from state_tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from state_tensors(value)
    elif hasattr(state, "__dict__"):
        yield from state_tensors(vars(state))
