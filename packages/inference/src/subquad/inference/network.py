"""What the engine needs of a network, so that another one can take the place of StripedHyena2."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PAGE_TOKENS = 256


@runtime_checkable
class RecurrentState(Protocol):
    """The state of a batch of sequences.

    Attributes:
      position: Tokens already seen by each row, int64 on the device of the network.
    """

    position: Tensor

    def row(self, index: int) -> "RecurrentState":
        """Returns one row as a batch of one that shares its storage."""
        ...

    def reset(self, rows: Tensor | None = None) -> None:
        """Sets rows, all by default, to the state before the first token."""
        ...

    def copy_(self, source: Any) -> None:
        """Takes over another state of the same shape."""
        ...

    def hold_pages(self, row: int, pages: Sequence[int]) -> None:
        """Gives a row the pages that its tokens go to, in order."""
        ...

    def fill_(self, value: float) -> None:
        """Overwrites all that the rows hold with one number."""
        ...


@runtime_checkable
class StepRows(Protocol):
    """What a decode step runs over, such as a `StatePool`."""

    @property
    def state(self) -> Any:
        """The state of all rows."""
        ...

    @property
    def slots(self) -> int:
        """Number of rows."""
        ...


@runtime_checkable
class ReadsPrompts(Protocol):
    """A network that can leave out of the last chunk of a prompt what no prediction needs."""

    def encode_last(
        self, ids: Int[Tensor, "batch length"], state: Any, *, starts: list[int] | None = None
    ) -> Float[Tensor, "batch channel"]:
        """Does ``Network.encode`` with a state and returns the hidden state of the last position alone."""
        ...


@runtime_checkable
class PreparesSteps(Protocol):
    """A network that can look up what does not change from step to step before the first."""

    def prepare_step(self, state: Any, *, active: Bool[Tensor, " batch"] | None = None) -> Callable[[Tensor], Tensor]:
        """Returns ``Network.step`` over this state as a function of the tokens; reads ``active`` at every step."""
        ...


@runtime_checkable
class UnembedsWide(Protocol):
    """A network whose logits need not be rounded to the type of its weights."""

    def unembed_wide(self, hidden: Float[Tensor, "batch length channel"]) -> Float[Tensor, "batch length vocabulary"]:
        """Does ``Network.unembed`` with results of float32 or wider."""
        ...


@runtime_checkable
class Network(Protocol):
    """A causal network over token ids that can read a sequence in chunks and step by step."""

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Returns the logits of every position."""
        ...

    def encode(
        self,
        ids: Int[Tensor, "batch length"],
        state: RecurrentState | None = None,
        *,
        starts: list[int] | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Returns the hidden states after the final norm, going on from ``state`` and updating it in place.

        ``starts`` is ``state.position`` where the caller knows it, so that nobody has to wait for the device.
        """
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
        page_count: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> RecurrentState:
        """Returns an empty state for sequences of up to ``max_length`` tokens.

        With ``page_count`` what grows with the sequence lies in that many pages of ``PAGE_TOKENS`` tokens, which rows
        get by ``RecurrentState.hold_pages``.
        """
        ...


@runtime_checkable
class SharedNetwork(Protocol):
    """A network of which several processes hold a part each."""

    def require_alive(self) -> None:
        """Raises unless all of them are at work."""
        ...


def require_alive(network: object) -> None:
    """Raises where a process that shares a network has ended: numbers that were read since then mean nothing.

    A device ends sums that lack a part without an error, so that the host asks once it has read a result.
    """
    if isinstance(network, SharedNetwork):
        network.require_alive()


def read_prompt(
    network: Network, ids: Int[Tensor, "batch length"], state: RecurrentState, starts: list[int]
) -> Float[Tensor, "batch channel"]:
    """Feeds a chunk of a prompt and returns its last hidden state, by ``encode_last`` where there is one."""
    if isinstance(network, ReadsPrompts):
        return network.encode_last(ids, state, starts=starts)
    return network.encode(ids, state, starts=starts)[:, -1]


def wide_logits(
    network: Network, hidden: Float[Tensor, "batch length channel"]
) -> Float[Tensor, "batch length vocabulary"]:
    """Returns logits in float32 (float64 of float64 hidden states), by ``unembed_wide`` where there is one."""
    if isinstance(network, UnembedsWide):
        return network.unembed_wide(hidden)
    logits = network.unembed(hidden)
    return logits if logits.dtype == torch.float64 else logits.float()


def weight_addresses(module: torch.nn.Module) -> list[int]:
    """Says where the weights of a network are; ``Module.parameters`` takes milliseconds for some hundred of them."""
    found: list[int] = []
    waiting = [module]
    for part in waiting:  # which grows meanwhile
        if part._parameters:
            found += [weight.data_ptr() for weight in part._parameters.values() if weight is not None]
        if part._modules:
            waiting += [inner for inner in part._modules.values() if inner is not None]
    return found
