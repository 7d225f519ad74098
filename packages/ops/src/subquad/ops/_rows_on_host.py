"""Decode steps row by row, where the host can look at values without waiting for a device.

A row that has no token costs nothing then, and what a row gives cannot depend on the others.
"""

from collections.abc import Callable

from torch import Tensor

from subquad.ops import _checks, dispatch

RowStep = Callable[[Tensor, int, int], Tensor]  # from a row's vector, its number and its position to its result

_MANY_TAPS = (
    16  # with which a 16-bit filter is faster row by row: 32 rows of 1,024 channels, 128 taps 4.2 against 17 ms
)


def host_reads_freely(x: Tensor) -> bool:
    """Says whether the host can look at values without waiting for a device, and nothing traces the call."""
    return x.device.type == "cpu" and dispatch.runs_plainly(x)


def host_takes_rows(x: Tensor, *others: Tensor | None) -> bool:
    """Says whether the host can read a call freely, all of which is in the type of its sums."""
    wide = _checks.accumulation_dtype(x)
    return all(tensor is None or tensor.dtype == wide for tensor in (x, *others)) and host_reads_freely(x)


def host_filters_rows(x: Tensor, taps: int, *others: Tensor | None) -> bool:
    """Says whether to filter row by row, however many rows there are: few taps of 16 bits are faster all at once."""
    return host_takes_rows(x, *others) or (taps >= _MANY_TAPS and host_reads_freely(x))


def in_type_of_sums(step: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns a step on samples in the type of their sums as one on samples like x, rounded once."""
    wide, dtype = _checks.accumulation_dtype(x), x.dtype
    return step if dtype == wide else lambda x: step(x.to(wide)).to(dtype)


def each_row(
    compute: RowStep, position: Tensor, active: Tensor | None, shape: tuple[int, ...]
) -> Callable[[Tensor], Tensor]:
    """Returns a function of ``[batch, …]`` that computes the active rows, each of this shape; the others are zero.

    ``position`` and ``active`` are read at every call.
    """

    def run(x: Tensor) -> Tensor:
        positions = position.tolist()
        wanted = [True] * len(positions) if active is None else active.tolist()
        if wanted == [True]:
            return compute(x.squeeze(0), 0, positions[0]).unsqueeze(0)
        results = x.new_zeros(len(positions), *shape)
        for row, seen in enumerate(positions):
            if wanted[row]:
                results[row] = compute(x[row], row, seen)
        return results

    return run
