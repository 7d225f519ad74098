"""What became of each tensor of a conversion."""

from collections.abc import Iterable
from typing import NamedTuple

SAME = "same"


class MappedTensor(NamedTuple):
    """One line of a conversion's report.

    Attributes:
      source: Name of the tensor that was read.
      target: Name of the tensor that was written, or None.
      how: ``"same"``, or what was done to it.
    """

    source: str
    target: str | None
    how: str


def joined(first: Iterable[MappedTensor], second: Iterable[MappedTensor]) -> list[MappedTensor]:
    """Follows tensors through two conversions: what the first wrote is what the second read."""
    onward: dict[str, list[MappedTensor]] = {}
    for row in second:
        onward.setdefault(row.source, []).append(row)
    rows = []
    for row in first:
        if row.target is None:
            rows.append(row)
            continue
        for after in onward.pop(row.target, []):
            steps = [step for step in (row.how, after.how) if step != SAME]
            rows.append(MappedTensor(row.source, after.target, "; ".join(steps) or SAME))
    return rows + [row for left in onward.values() for row in left]
