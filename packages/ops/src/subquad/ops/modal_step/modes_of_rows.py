"""A modal filter that takes one sample of one row at a time, on the host."""

import torch
from torch import Tensor


class ModesOfRows:
    """Advances the state of a row by one sample ``[channel]`` and returns the filtered one; see ``modal_step``.

    The tensors are looked at through views that are made once: their storage must stay, their values may change.
    """

    def __init__(self, log_poles: Tensor, residues: Tensor, state: Tensor, *, skip: Tensor | None) -> None:
        self._log_poles, self._residues, self._skip = log_poles, residues, skip
        self._states = list(state)

    def __call__(self, sample: Tensor, row: int, position: int) -> Tensor:
        """Returns the filtered sample of a row, whatever its position."""
        poles = torch.exp(self._log_poles.double()).to(sample.dtype)
        state = self._states[row].mul_(poles).add_(sample[:, None])
        y = (self._residues * state).sum(dim=-1)
        return y if self._skip is None else y.addcmul_(self._skip, sample)
