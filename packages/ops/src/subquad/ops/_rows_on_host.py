"""Decode steps row by row, where the host can look at values without waiting for a device.

A row that has no token costs nothing then, and what a row gives cannot depend on the others.
"""

from collections.abc import Callable

from torch import Tensor

from subquad.ops import _checks, dispatch

RowStep = Callable[[Tensor, int, int], Tensor]  # from a row's vector, its number and its position to its result


def host_takes_rows(x: Tensor, *others: Tensor | None) -> bool:
    """Says whether a call lies on the CPU, all of it in the type of its sums, and nothing traces or transforms it."""
    wide = _checks.accumulation_dtype(x)
    same = all(tensor is None or tensor.dtype == wide for tensor in (x, *others))
    return same and x.device.type == "cpu" and dispatch.runs_plainly(x)


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
