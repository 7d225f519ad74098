"""A network of which this process holds a part and leads the rest: every call goes to all ranks."""

import itertools
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from subquad.inference.decode_program import DecodeProgram, Results, RowSettings, SamplingTable
from subquad.inference.network import Network, RecurrentState, StepRows
from subquad.inference.tensor_parallel.following import StateName, StateRows
from subquad.inference.tensor_parallel.memory import peak_bytes, reset_peak_bytes
from subquad.inference.tensor_parallel.passing import announced, pass_on


@runtime_checkable
class Followers(Protocol):
    """What is asked of the workers here; see ``ShardWorkers``."""

    size: int

    def together(self, name: str, *arguments: Any) -> AbstractContextManager[None]:
        """Lets the workers do what this process does inside the block."""
        ...

    def require_alive(self) -> None:
        """Raises unless all workers are at work."""
        ...

    def drop_state(self, number: int) -> None:
        """Gives a state back."""
        ...

    def release_at_end(self, program: DecodeProgram) -> None:
        """Gives the captured steps of a program back before the ranks part."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


class LeadingState:
    """This rank's part of a state; what is done to it is done to the others too. See ``RecurrentState``."""

    def __init__(self, own: RecurrentState, name: StateName, workers: Followers) -> None:
        self.own, self.name, self._workers = own, name, workers

    @property
    def position(self) -> Tensor:
        """Tokens already seen by each row."""
        return self.own.position

    def row(self, index: int) -> "LeadingState":
        """Returns one row as a batch of one that shares its storage."""
        assert self.name.row is None, "a row has no rows"
        row = LeadingState(self.own.row(index), StateName(self.name.number, index), self._workers)
        row._whole = self  # type: ignore[attr-defined]  # so that the state lives as long as its rows
        return row

    def reset(self, rows: Tensor | None = None) -> None:
        """Sets rows, all by default, to the state before the first token."""
        with self._workers.together("reset", self.name, announced(rows)):
            pass_on(rows)
            self.own.reset(rows)  # type: ignore[arg-type]

    def copy_(self, source: "LeadingState") -> None:
        """Takes over another state of the same shape."""
        with self._workers.together("copy", self.name, source.name):
            self.own.copy_(source.own)

    def take_rows(self, source: "LeadingState", rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Takes over the first rows of ``source``, which hold ``lengths`` tokens, as the given rows of this state."""
        with self._workers.together("take_rows", self.name, source.name, list(rows), list(lengths)):
            self.own.take_rows(source.own, rows, lengths)  # type: ignore[attr-defined]

    def fill_(self, value: float) -> None:
        """Overwrites all that the rows hold with one number."""
        with self._workers.together("fill", self.name, value):
            self.own.fill_(value)

    def hold_pages(self, row: int, pages: Sequence[int]) -> None:
        """Gives a row the pages that its tokens go to, in order."""
        with self._workers.together("hold_pages", self.name, row, list(pages)):
            self.own.hold_pages(row, pages)


class LeadingTable(SamplingTable):
    """The settings of the rows, on every rank."""

    def __init__(self, rows: int, device: torch.device, number: int, workers: Followers) -> None:
        super().__init__(rows, device)
        self._number, self._workers = number, workers

    def set(self, settings: Sequence[RowSettings]) -> None:
        """Takes over the settings of all rows."""
        with self._workers.together("settings", self._number, list(settings)):
            super().set(settings)


class LeadingResults(Results):
    """The results of a step of all ranks."""

    def __init__(self, table: Tensor, workers: Followers) -> None:
        super().__init__(table)
        self._workers = workers

    def read(self) -> list[tuple[int, float, bool]]:
        """Waits and returns what `Results.read` does.

        Raises:
          WorkerFailed: A rank ended before the step did, whose numbers then mean nothing.
        """
        rows = super().read()
        self._workers.require_alive()
        return rows


class LeadingProgram(DecodeProgram):
    """The decode step, on every rank: each captures its own graph, draws the same tokens and feeds them to itself."""

    def __init__(self, network: Network, rows: StateRows, number: int, workers: Followers) -> None:
        super().__init__(network, rows)
        self._number, self._workers = number, workers
        self.settings = LeadingTable(rows.slots, self._device, number, workers)

    def set_id(self, slot: int, token_id: int) -> None:
        """Sets the token that a row is fed next."""
        with self._workers.together("set_id", self._number, slot, token_id):
            super().set_id(slot, token_id)

    def launch(self, slots: list[int]) -> Results:
        """Launches a step of these rows."""
        with self._workers.together("launch", self._number, slots):
            return LeadingResults(self.advance(slots), self._workers)


class LeadingNetwork(nn.Module):
    """Looks like the whole network to the engine: the same calls and results, every layer shared by all ranks.

    Its modules are those of this rank's part, so that its parameters and states are what this device holds.

    Args:
      part: This rank's part.
      workers: The other ranks.
    """

    def __init__(self, part: nn.Module, workers: Followers) -> None:
        super().__init__()
        assert isinstance(part, Network)
        for name, child in part.named_children():
            self.add_module(name, child)
        self._held: tuple[Any] = (part,)  # a tuple, so that its modules are not counted twice
        self._workers = workers
        self._numbers = itertools.count()
        self._device = next(part.parameters()).device

    @property
    def ranks(self) -> int:
        """Processes that share the network."""
        return self._workers.size

    @property
    def part(self) -> Any:
        """This rank's part."""
        return self._held[0]

    @property
    def fp8_projections(self) -> bool:
        """Whether the input projections of Hyena layers are FP8 ones."""
        return bool(getattr(self.part, "fp8_projections", False))

    @property
    def use_subquadratic_ops(self) -> bool | None:
        """What is asked of the fused operators; setting it changes every rank."""
        return self.part.use_subquadratic_ops

    @use_subquadratic_ops.setter
    def use_subquadratic_ops(self, value: bool | None) -> None:
        with self._workers.together("use_subquadratic_ops", value):
            self.part.use_subquadratic_ops = value

    def require_subquadratic_ops(self) -> None:
        """Asks this rank's layers whether a fused kernel runs; the others are like them."""
        self.part.require_subquadratic_ops()

    def require_alive(self) -> None:
        """Raises unless all ranks are at work.

        Raises:
          WorkerFailed: One is not; says why.
        """
        self._workers.require_alive()

    def close(self) -> None:
        """Ends the other ranks."""
        self._workers.close()

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Returns the logits of every position."""
        return self.unembed(self.encode(ids))

    @torch.no_grad()
    def encode(
        self,
        ids: Int[Tensor, "batch length"],
        state: LeadingState | None = None,
        *,
        starts: list[int] | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Returns the hidden states after the final norm, going on from ``state`` and updating it in place."""
        with self._workers.together("encode", announced(ids), _name(state), starts):
            pass_on(ids)
            return self.part.encode(ids, _own(state), starts=starts)

    @torch.no_grad()
    def encode_last(
        self, ids: Int[Tensor, "batch length"], state: LeadingState, *, starts: list[int] | None = None
    ) -> Float[Tensor, "batch channel"]:
        """Does what ``encode`` does with a state and returns the last position alone; see ``StripedHyena2``."""
        with self._workers.together("encode_last", announced(ids), state.name, starts):
            pass_on(ids)
            return self.part.encode_last(ids, state.own, starts=starts)

    @torch.no_grad()
    def encode_short(
        self, ids: Int[Tensor, "batch length"], state: LeadingState, lengths: list[int]
    ) -> Float[Tensor, "batch channel"]:
        """Reads sequences of different lengths into a new state; returns the last position of each."""
        with self._workers.together("encode_short", announced(ids), state.name, lengths):
            pass_on(ids)
            return self.part.encode_short(ids, state.own, lengths)

    @torch.no_grad()
    def encode_blocks(
        self,
        ids: Int[Tensor, "batch length"],
        count: int,
        state: LeadingState | None = None,
        *,
        starts: list[int] | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Returns the residual stream after the first ``count`` blocks."""
        with self._workers.together("encode_blocks", announced(ids), count, _name(state), starts):
            pass_on(ids)
            return self.part.encode_blocks(ids, count, _own(state), starts=starts)

    def unembed(self, hidden: Float[Tensor, "batch length channel"]) -> Float[Tensor, "batch length vocabulary"]:
        """Returns the logits of hidden states; every rank has the whole embedding, so that nobody is asked."""
        return self.part.unembed(hidden)

    def unembed_wide(self, hidden: Float[Tensor, "batch length channel"]) -> Float[Tensor, "batch length vocabulary"]:
        """Does the same with sums that stay in float32; see ``StripedHyena2``."""
        return self.part.unembed_wide(hidden)

    @torch.no_grad()
    def step(
        self, ids: Int[Tensor, " batch"], state: LeadingState, *, active: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch vocabulary"]:
        """Feeds one token a row; rows that are not active keep their state."""
        with self._workers.together("step", announced(ids), state.name, announced(active)):
            pass_on(ids)
            pass_on(active)
            return self.part.step(ids, state.own, active=active)

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        page_count: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """Returns an empty state on every rank; on the meta device, this rank's part alone."""
        if device is not None and device.type == "meta":
            return self.part.init_state(
                batch_size, max_length=max_length, page_count=page_count, device=device, dtype=dtype
            )
        number = next(self._numbers)
        with self._workers.together("init_state", number, batch_size, max_length, page_count, dtype):
            own = self.part.init_state(batch_size, max_length=max_length, page_count=page_count, dtype=dtype)
        state = LeadingState(own, StateName(number), self._workers)
        weakref.finalize(state, self._workers.drop_state, number).atexit = False
        return state

    def decode_program(self, rows: StepRows) -> DecodeProgram:
        """Makes the decode step of a pool of states, on every rank."""
        state = rows.state
        assert isinstance(state, LeadingState)
        number = state.name.number
        with self._workers.together("decode_program", number, rows.slots):
            program = LeadingProgram(self.part, StateRows(state.own, rows.slots), number, self._workers)
        self._workers.release_at_end(program)
        return program

    def peak_bytes(self) -> list[int]:
        """Returns the most memory that each rank held since ``reset_peak_bytes``; see `peak_bytes` of ``memory``."""
        with self._workers.together("peak_bytes"):
            return peak_bytes(self._device)

    def reset_peak_bytes(self) -> None:
        """Counts the memory of every rank's device anew."""
        with self._workers.together("reset_peak_bytes"):
            reset_peak_bytes(self._device)


def _name(state: LeadingState | None) -> StateName | None:
    return None if state is None else state.name


def _own(state: LeadingState | None) -> RecurrentState | None:
    return None if state is None else state.own
