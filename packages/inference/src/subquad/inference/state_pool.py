"""A fixed number of state rows, handed out and taken back."""

import torch

from subquad.inference.network import Network, RecurrentState, state_tensors


class StatePool:
    """Owns one state of ``slots`` rows; a request holds a row from its admission to its end.

    Args:
      network: Makes the state.
      slots: Number of rows; also the fixed batch size of every decode step.
      max_length: Tokens that one row can hold.
      poison_freed: Fill freed rows with NaN, so that a test sees whoever reads one.
    """

    def __init__(self, network: Network, slots: int, max_length: int, *, poison_freed: bool = False) -> None:
        self.slots = slots
        self.max_length = max_length
        self.state = network.init_state(slots, max_length=max_length)
        self._free = list(range(slots))
        self._poison = poison_freed
        if poison_freed:
            self._fill(range(slots), float("nan"))

    @property
    def free(self) -> int:
        """Number of rows that nobody holds."""
        return len(self._free)

    def acquire(self, count: int) -> list[int] | None:
        """Returns ``count`` rows set to the empty state, or None when not so many are free."""
        if count > len(self._free):
            return None
        rows, self._free = self._free[:count], self._free[count:]
        self.reset(rows)
        return rows

    def release(self, rows: list[int]) -> None:
        """Takes rows back."""
        twice = set(rows) & set(self._free)
        assert not twice, f"rows {sorted(twice)} were released twice"
        if self._poison:
            self._fill(rows, float("nan"))
        self._free.extend(rows)

    def row(self, slot: int) -> RecurrentState:
        """Returns one row as a batch of one that shares its storage."""
        return self.state.row(slot)

    def reset(self, rows: list[int]) -> None:
        """Sets rows to the state before the first token."""
        if self._poison:
            self._fill(rows, 0.0)
        self.state.reset(torch.tensor(rows, device=self.state.position.device))

    def copy(self, source: int, targets: list[int]) -> None:
        """Copies the state of one row over others."""
        for target in targets:
            self.row(target).copy_(self.row(source))

    def _fill(self, rows: range | list[int], value: float) -> None:
        for slot in rows:
            for tensor in state_tensors(self.row(slot)):
                if tensor.is_floating_point():
                    tensor.fill_(value)
