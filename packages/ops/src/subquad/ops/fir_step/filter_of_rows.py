"""A FIR filter that takes one sample of one row at a time, on the host."""

import torch
from torch import Tensor

_FEW = 4  # earlier samples that are added one by one


class FilterOfRows:
    """Filters samples ``[channel]`` and stores each in the ring of its row; see ``fir_step``.

    Behind a matrix product that has emptied the caches an operation takes several times as long as by itself, so that
    their number counts. Taps and skip are those at the start; rings are read and written where they lie, in any type.
    """

    def __init__(
        self, taps: Tensor, ring: Tensor, *, bias: Tensor | None, skip: Tensor | None, dtype: torch.dtype
    ) -> None:
        """Prepares a filter of samples in ``dtype``, the type of the sums."""
        bias, skip = (None if value is None else value.to(dtype) for value in (bias, skip))
        self._groups, self._past, self._dtype = taps.shape[0], taps.shape[1] - 1, dtype
        self._ring, self._bias = ring, bias
        first = taps[:, :1].to(dtype).expand(-1, ring.shape[1] // self._groups).reshape(-1)
        self._first = first if skip is None else first + skip
        self._few = not self._past or (self._past <= _FEW and self._groups == ring.shape[1])
        if self._few:
            self._lags = list(taps[:, 1:].t().to(dtype).contiguous())
        else:
            backwards = taps[:, 1:].flip(1)
            self._turned = torch.cat([backwards, backwards], dim=1).to(dtype)[..., None]
        self._slots: dict[int, list[Tensor]] = {}

    def __call__(self, sample: Tensor, row: int, position: int) -> Tensor:
        """Returns the filtered sample of a row that has seen ``position`` tokens."""
        y = self._first * sample
        if self._few:
            self._add_few(y, sample, row, position)
        else:
            y = self._with_many(y, sample, row, position)
        return y if self._bias is None else y.add_(self._bias)

    def _add_few(self, y: Tensor, sample: Tensor, row: int, position: int) -> None:
        slots = self._slots.get(row)
        if slots is None:
            slots = self._slots[row] = list(self._ring[row].unbind(-1))
        for lag, taps in enumerate(self._lags, 1):
            y.addcmul_(taps, slots[(position - lag) % self._past])
        if slots:
            slots[position % self._past].copy_(sample)

    def _with_many(self, y: Tensor, sample: Tensor, row: int, position: int) -> Tensor:
        """Adds the past as one product: the slots hold lags 1 to ``slot`` backwards, then those before them."""
        slot, held = position % self._past, self._ring[row]
        turned, past = self._turned.narrow(1, self._past - slot, self._past), held.to(self._dtype)
        grouped = past.view(self._groups, -1, self._past)
        if grouped.shape[1] == 1:
            y.add_((past * turned[..., 0]).sum(dim=1))
        else:
            y = torch.baddbmm(y.view(self._groups, -1, 1), grouped, turned).view(-1)
        held.select(1, slot).copy_(sample)
        return y
