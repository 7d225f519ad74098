"""How many times as fast as the best competitor of the same run each case is."""

from collections.abc import Iterable
from dataclasses import dataclass

from measure import Row

OURS = ("cuda", "triton")  # and by delegation, where neither has the operator
_DELEGATED = "vendor"
KEPT_FILTER = ", kept filter"  # of a case whose competitor does not make its filter again; ours has none to keep
# The targets of the issue, by operator and case; shape b stands for long sequences.
_TARGETS = {
    ("causal_conv", "3 taps"): 1.0,
    ("causal_conv", "4 taps"): 1.0,
    ("causal_conv", "7 taps"): 1.0,
    ("causal_conv", "128 taps"): 3.5,
    ("gated_conv", "3 + 7 taps"): 1.4,
    ("gated_conv", "3 + 128 taps"): 2.3,
    ("fft_conv", "length taps"): 1.0,
}
_MODAL_TARGETS = {"a": 5.0, "b": 8.0}
_STEP_TARGET, _BACKWARD_TARGET, _IMAGE_TARGET = 5.0, 3.0, 1.3  # the last for sides that are no power of two


@dataclass
class Ratio:
    """One comparison; times in microseconds."""

    op: str
    case: str
    shape: str
    dtype: str
    direction: str
    timed: str  # "graph": replayed in a CUDA graph; "cold": alone, with a cold cache
    ours: str
    microseconds: float
    best: str
    best_microseconds: float
    ratio: float
    target: float | None = None


def ratios(rows: Iterable[Row]) -> list[Ratio]:
    """Compares the rows of each case, forward and backward, by both ways of timing."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.op, row.case, row.shape, row.dtype), []).append(row)
    found = []
    for (op, case, shape, dtype), group in groups.items():
        mine_too = groups.get((op, case.removesuffix(KEPT_FILTER), shape, dtype), [])
        own = [r for r in mine_too if r.backend in OURS and r.microseconds is not None]
        own = own or [r for r in mine_too if r.backend == _DELEGATED]
        others = [r for r in group if r.backend not in (*OURS, _DELEGATED)]
        for direction, timed, field in (
            ("forward", "graph", "graph_microseconds"),
            ("forward", "cold", "microseconds"),
            ("backward", "graph", "backward_microseconds"),
        ):
            mine, theirs = _fastest(own, field), _fastest(others, field)
            if mine is None or theirs is None:
                continue
            (name, time), (best, best_time) = mine, theirs
            target = _backward_target(op, case) if direction == "backward" else _target(op, case, shape)
            places = (op, case, shape, dtype, direction, timed)
            found.append(Ratio(*places, name, time, best, best_time, best_time / time, target))
    return found


def _fastest(rows: list[Row], field: str) -> tuple[str, float] | None:
    timed = [(getattr(row, field), row.backend) for row in rows if getattr(row, field) is not None]
    return (min(timed)[1], min(timed)[0]) if timed else None


def _target(op: str, case: str, shape: str) -> float | None:
    if op == "gated_modal_conv":
        return _MODAL_TARGETS.get(shape)
    if op == "fft_conv2d":
        side = int(case.partition("²")[0].rpartition(" ")[2])
        return _IMAGE_TARGET if side & (side - 1) else 1.0
    return _STEP_TARGET if op.endswith("_step") else _TARGETS.get((op, case))


def _backward_target(op: str, case: str) -> float | None:
    trained = op in ("gated_conv", "modal_conv", "gated_modal_conv") or (op, case) == ("causal_conv", "128 taps")
    return _BACKWARD_TARGET if trained else None


def print_ratio(ratio: Ratio) -> None:
    """Prints a comparison as one line."""
    target = "" if ratio.target is None else f"  target {ratio.target:g}"
    print(
        f"{ratio.op:17s} {ratio.case:22s} {ratio.shape:4s} {ratio.dtype:9s} {ratio.direction:8s} {ratio.timed:5s} "
        f"{ratio.ours:7s} {ratio.microseconds:10.1f} us  {ratio.best:17s} {ratio.best_microseconds:10.1f} us  "
        f"x{ratio.ratio:6.2f}{target}",
        flush=True,
    )
