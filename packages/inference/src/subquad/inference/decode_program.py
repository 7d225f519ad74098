"""The decode step as a program over fixed buffers: network and sampling, captured as one CUDA graph where it can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from subquad.inference.host_copy import HostCopy
from subquad.inference.network import Network, PreparesSteps, StepRows
from subquad.inference.sampling import finite_rows, greedy, sample, seed_words, token_logprobs, uniforms
from subquad.ops import greedy_step, prepare


@dataclass(frozen=True)
class RowSettings:
    """How one row is sampled; the defaults are those of a row without work."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    sample_index: int = 0
    logprobs: bool = False

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0 or self.top_k == 1


class SamplingTable:
    """The settings of a number of rows as tensors on one device, which keep their places when the settings change.

    Only a draw by chance reads them, so that they are made for the first.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._rows, self._device = rows, device
        self._tensors: tuple[Tensor, Tensor] | None = None  # float64 [2, rows] and int64 [4, rows]
        self.greedy, self.logprobs = True, False

    def set(self, settings: Sequence[RowSettings]) -> None:
        """Takes over the settings of all rows; in the tensors where there is a draw by chance."""
        self.greedy = all(s.is_greedy for s in settings)
        self.logprobs = any(s.logprobs for s in settings)
        if self.greedy:
            return
        pinned = self._device.type == "cuda"  # a copy from other memory would wait for the device
        numbers = torch.tensor(
            [[s.temperature for s in settings], [s.top_p for s in settings]], dtype=torch.float64, pin_memory=pinned
        )
        seeds = [seed_words(s.seed) for s in settings]
        words = [[s.top_k for s in settings], [s.sample_index for s in settings], *map(list, zip(*seeds, strict=True))]
        own_numbers, own_words = self._places()
        own_numbers.copy_(numbers, non_blocking=True)
        own_words.copy_(torch.tensor(words, pin_memory=pinned), non_blocking=True)

    def _places(self) -> tuple[Tensor, Tensor]:
        """Returns the tensors, which any mode may write to."""
        if self._tensors is None:
            with torch.inference_mode(False):
                numbers = torch.zeros(2, self._rows, dtype=torch.float64, device=self._device)
                self._tensors = numbers, torch.zeros(4, self._rows, dtype=torch.int64, device=self._device)
        return self._tensors

    def draw(self, logits: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Draws one token a row.

        Args:
          logits: ``[rows, vocabulary]``.
          positions: int64 ``[rows]``, index in the sequence of the token to draw; a greedy draw does not ask.

        Returns:
          The ids, and a float64 table ``[rows, 3]``: id, log-probability (0 where nobody asked), whether the logits
          were finite.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.greedy:
            ids = greedy(logits)
        else:
            assert positions is not None
            numbers, words = self._places()
            uniform = uniforms(words[2:].T, words[1], positions)
            ids = sample(logits, numbers[0], words[0], numbers[1], uniform)
        logprobs = token_logprobs(logits, ids) if self.logprobs else torch.zeros_like(ids)
        return ids, torch.stack((ids.double(), logprobs.double(), finite_rows(logits).double()), dim=-1)


class DecodeProgram:
    """Feeds each active row its last token, draws its next, and keeps that for the step after.

    Every step has the shape ``[slots]``; rows without work are masked. On a CUDA device a step is one captured graph
    for each way of sampling (greedy or not, with log-probabilities or not), replayed without any work of the host. On
    a CPU what a step looks up and checks is looked up and checked once whenever a row begins, where the network can.

    Attributes:
      eager_reason: Why steps do not run as a graph; None where they do, or will.
    """

    def __init__(self, network: Network, pool: StepRows) -> None:
        self._network, self._state, self._slots = network, pool.state, pool.slots
        self._device = pool.state.position.device
        self._ids = torch.zeros(pool.slots, dtype=torch.int64, device=self._device)
        self._active = torch.zeros(pool.slots, dtype=torch.bool, device=self._device)
        self._active_slots: list[int] = []
        self.settings = SamplingTable(pool.slots, self._device)
        self._step: Callable[[Tensor], Tensor] | None = None
        self._choose: Callable[..., Tensor] | None = None
        self._graphs: dict[tuple[bool, bool], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.eager_reason = None if self._device.type == "cuda" else f"the network is on {self._device.type}"

    @property
    def overlaps(self) -> bool:
        """Whether a step may be launched before the result of the one before was read."""
        return self._device.type == "cuda"

    def set_id(self, slot: int, token_id: int) -> None:
        """Sets the token that a row is fed next; a row begins with this."""
        self._ids[slot] = token_id
        self._step = None  # weights may have changed since the last row began

    def launch(self, slots: list[int]) -> "Results":
        """Launches a step of these rows."""
        return Results(self.advance(slots))

    def release(self) -> None:
        """Gives the captured steps back; what they run, sums over several devices too, ends only when they are gone."""
        self._graphs.clear()

    @torch.inference_mode()
    def advance(self, slots: list[int]) -> Tensor:
        """Launches a step; returns its table, see `SamplingTable.draw`, which the next step overwrites."""
        if slots != self._active_slots:
            active = torch.zeros(self._slots, dtype=torch.bool, pin_memory=self._active.is_cuda)
            active[slots] = True
            self._active.copy_(active, non_blocking=True)
            self._active_slots = list(slots)
        if self.eager_reason is not None:
            return self._compute()
        variant = (self.settings.greedy, self.settings.logprobs and not self.settings.greedy)
        if variant not in self._graphs:
            try:
                self._graphs[variant] = self._captured()
            except RuntimeError as error:
                self.eager_reason = f"its capture failed: {error}"
                return self._compute()
        graph, table = self._graphs[variant]
        graph.replay()
        return table

    def _captured(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Captures a step; a step without active rows goes before, which compiles kernels and changes no state."""
        active = self._active.clone()
        self._active.zero_()
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            self._compute()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            table = self._compute()
        self._active.copy_(active)
        return graph, table

    def _compute(self) -> Tensor:
        if self._step is None:
            self._step = self._new_step()
        logits = self._step(self._ids)
        if self.settings.greedy:
            if self._choose is None:
                self._choose = self._new_choice(logits)
            return self._choose(logits)
        ids, table = self.settings.draw(logits, self._state.position)
        self._ids.copy_(torch.where(self._active, ids, self._ids))
        return table

    def _new_step(self) -> Callable[[Tensor], Tensor]:
        """Returns the step of the network as a function of the tokens."""
        if self._device.type != "cuda" and isinstance(self._network, PreparesSteps):
            return self._network.prepare_step(self._state, active=self._active)
        return partial(self._network.step, state=self._state, active=self._active)

    def _new_choice(self, logits: Tensor) -> Callable[..., Tensor]:
        """Returns the choice of the most likely token as a function of the logits."""
        if self._device.type != "cuda":
            return prepare("greedy_step", logits, self._ids, active=self._active)
        return partial(greedy_step, ids=self._ids, active=self._active)


@runtime_checkable
class OwnDecodeProgram(Protocol):
    """A network that makes its decode steps itself."""

    def decode_program(self, rows: StepRows) -> DecodeProgram:
        """Makes the decode step of a pool of states."""
        ...


def decode_program(network: Network, rows: StepRows) -> DecodeProgram:
    """Makes the decode step of a network over a pool of states."""
    return network.decode_program(rows) if isinstance(network, OwnDecodeProgram) else DecodeProgram(network, rows)


class Results:
    """The results of a step that may still be under way."""

    def __init__(self, table: Tensor) -> None:
        self._table = HostCopy(table)

    def read(self) -> list[tuple[int, float, bool]]:
        """Waits and returns id, log-probability and whether the logits were finite, for every row."""
        return [(int(i), value, bool(finite)) for i, value, finite in self._table.read().tolist()]
