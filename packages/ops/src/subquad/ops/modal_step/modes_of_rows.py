"""A modal filter that takes one sample of one row at a time, on the host."""

import torch
from torch import Tensor


class ModesOfRows:
    """Advances the state of a row by one sample ``[channel]`` and returns the filtered one; see ``modal_step``.

    Poles are those at the start; states are read and written where they lie.
    """

    def __init__(self, log_poles: Tensor, residues: Tensor, state: Tensor, *, skip: Tensor | None) -> None:
        self._poles = torch.exp(log_poles.double()).to(state.dtype)
        self._residues, self._state = residues.to(state.dtype), state
        self._skip = None if skip is None else skip.to(state.dtype)

    def __call__(self, sample: Tensor, row: int, position: int) -> Tensor:
        """Returns the filtered sample of a row, whatever its position."""
        state = self._state[row]
        torch.addcmul(sample.unsqueeze(1), state, self._poles, out=state)
        y = (self._residues * state).sum(dim=-1)
        return y if self._skip is None else y.addcmul_(self._skip, sample)
