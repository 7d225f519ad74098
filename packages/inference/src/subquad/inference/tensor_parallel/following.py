"""What a rank does beside the leader: the same calls on its own part of the network and of the states."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from subquad.inference.decode_program import DecodeProgram, RowSettings
from subquad.inference.network import Network, RecurrentState
from subquad.inference.tensor_parallel.memory import peak_bytes, reset_peak_bytes
from subquad.inference.tensor_parallel.passing import Announced, received

_LOG = logging.getLogger(__name__)


class StateRows(NamedTuple):
    """A state as a decode program takes it."""

    state: RecurrentState
    slots: int


class StateName(NamedTuple):
    """Names a state, or one row of it, in messages."""

    number: int
    row: int | None = None


class Follower:
    """Obeys messages; ``obey("encode", ...)`` and so on, one method a message.

    Args:
      network: This rank's part.
    """

    def __init__(self, network: nn.Module) -> None:
        assert isinstance(network, Network)
        self._network = network
        self._device = next(network.parameters()).device
        self._states: dict[int, Any] = {}
        self._programs: dict[int, DecodeProgram] = {}

    def obey(self, name: str, *arguments: Any) -> None:
        """Does what a message says."""
        getattr(self, name)(*arguments)

    def encode(self, ids: Announced, state: StateName | None, starts: list[int] | None) -> None:
        """Reads tokens."""
        self._network.encode(self._received(ids), self._state(state), starts=starts)

    def encode_last(self, ids: Announced, state: StateName, starts: list[int] | None) -> None:
        """Reads tokens of a prompt."""
        self._network.encode_last(self._received(ids), self._state(state), starts=starts)  # type: ignore[attr-defined]

    def encode_short(self, ids: Announced, state: StateName, lengths: list[int]) -> None:
        """Reads short prompts side by side."""
        self._network.encode_short(self._received(ids), self._state(state), lengths)  # type: ignore[attr-defined]

    def encode_blocks(self, ids: Announced, count: int, state: StateName | None, starts: list[int] | None) -> None:
        """Reads tokens by the first blocks."""
        tokens = self._received(ids)
        self._network.encode_blocks(tokens, count, self._state(state), starts=starts)  # type: ignore[attr-defined]

    def step(self, ids: Announced, state: StateName, active: Announced | None) -> None:
        """Feeds one token a row."""
        tokens = self._received(ids)
        self._network.step(tokens, self._state(state), active=received(active, self._device))

    def use_subquadratic_ops(self, value: bool | None) -> None:
        """Sets what is asked of the fused operators."""
        self._network.use_subquadratic_ops = value  # type: ignore[attr-defined]

    def init_state(
        self, number: int, rows: int, max_length: int, page_count: int | None, dtype: torch.dtype | None
    ) -> None:
        """Makes a state."""
        self._states[number] = self._network.init_state(rows, max_length=max_length, page_count=page_count, dtype=dtype)

    def drop_state(self, number: int) -> None:
        """Gives a state back, and the captured steps over it."""
        self._programs.pop(number, None)
        self._states.pop(number, None)

    def reset(self, state: StateName, rows: Announced | None) -> None:
        """Sets rows, all by default, to the state before the first token."""
        self._state(state).reset(received(rows, self._device))

    def copy(self, state: StateName, source: StateName) -> None:
        """Takes over another state."""
        self._state(state).copy_(self._state(source))

    def take_rows(self, state: StateName, source: StateName, rows: list[int], lengths: list[int]) -> None:
        """Takes over rows of another state."""
        self._state(state).take_rows(self._state(source), rows, lengths)

    def fill(self, state: StateName, value: float) -> None:
        """Overwrites all that the rows hold."""
        self._state(state).fill_(value)

    def hold_pages(self, state: StateName, row: int, pages: Sequence[int]) -> None:
        """Gives a row its pages."""
        self._state(state).hold_pages(row, pages)

    def decode_program(self, number: int, slots: int) -> None:
        """Makes a decode step over a state."""
        self._programs[number] = DecodeProgram(self._network, StateRows(self._states[number], slots))

    def set_id(self, number: int, slot: int, token_id: int) -> None:
        """Sets the token that a row is fed next."""
        self._programs[number].set_id(slot, token_id)

    def settings(self, number: int, settings: list[RowSettings]) -> None:
        """Sets how rows are sampled: every rank has the same logits, and draws the same tokens from them."""
        self._programs[number].settings.set(settings)

    def launch(self, number: int, slots: list[int]) -> None:
        """Launches a decode step; its results are the leader's."""
        program = self._programs[number]
        captured = program.eager_reason is None
        program.advance(slots)
        if captured and program.eager_reason is not None:
            _LOG.warning("rank %d: decode steps run eagerly: %s", dist.get_rank(), program.eager_reason)

    def peak_bytes(self) -> None:
        """Says how much memory this rank held."""
        peak_bytes(self._device)

    def reset_peak_bytes(self) -> None:
        """Counts memory anew."""
        reset_peak_bytes(self._device)

    def _received(self, ids: Announced) -> Tensor:
        tensor = received(ids, self._device)
        assert tensor is not None
        return tensor

    def _state(self, name: StateName | None) -> Any:
        if name is None:
            return None
        state = self._states[name.number]
        return state if name.row is None else state.row(name.row)
