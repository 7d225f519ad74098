"""A FIR filter that takes one sample of one row at a time, on the host."""

import torch
from torch import Tensor

_FEW = 8  # earlier samples that are added one by one


class FilterOfRows:
    """Filters samples ``[channel]`` and stores each in the ring of its row; see ``fir_step``.

    Taps and rings are looked at through views that are made once: their storage must stay, their values may change.
    """

    def __init__(self, taps: Tensor, ring: Tensor, *, bias: Tensor | None, skip: Tensor | None) -> None:
        groups, self._past = taps.shape[0], taps.shape[1] - 1
        self._taps, self._bias, self._skip = taps, bias, skip
        self._columns = [taps[:, lag : lag + 1] for lag in range(min(self._past, _FEW) + 1)]  # [group, 1]
        self._held = list(ring.unflatten(1, (groups, -1)))  # of each row: [group, channel / group, slot]
        self._slots: dict[int, list[Tensor]] = {}

    def __call__(self, sample: Tensor, row: int, position: int) -> Tensor:
        """Returns the filtered sample of a row that has seen ``position`` tokens."""
        current = sample.reshape(self._taps.shape[0], -1)
        y = self._columns[0] * current
        if 0 < self._past <= _FEW:
            y = self._with_few(y, current, row, position)
        elif self._past:
            y = self._with_many(y, current, row, position)
        y = y.view(-1)
        if self._skip is not None:
            y.addcmul_(self._skip, sample)
        return y if self._bias is None else y.add_(self._bias)

    def _with_few(self, y: Tensor, current: Tensor, row: int, position: int) -> Tensor:
        slots = self._slots.get(row)
        if slots is None:
            slots = self._slots[row] = list(self._held[row].unbind(-1))
        for lag in range(1, self._past + 1):
            y.addcmul_(self._columns[lag], slots[(position - lag) % self._past])
        slots[position % self._past].copy_(current)
        return y

    def _with_many(self, y: Tensor, current: Tensor, row: int, position: int) -> Tensor:
        """Adds the past as one product: the slots hold lags 1 to ``slot`` backwards, then those before them."""
        slot, held = position % self._past, self._held[row]
        turned = torch.cat([self._taps[:, 1 : slot + 1].flip(1), self._taps[:, slot + 1 :].flip(1)], dim=1)
        if held.shape[1] == 1:
            y.add_((held[:, 0] * turned).sum(dim=1, keepdim=True))
        else:
            y.add_(torch.bmm(held, turned[:, :, None])[..., 0])
        held[..., slot].copy_(current)
        return y
