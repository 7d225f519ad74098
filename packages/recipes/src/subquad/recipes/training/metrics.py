"""The course of a run: one JSON object per line, and its picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from subquad.recipes._atomic import write_atomically


class Measurement(NamedTuple):
    """One line of `metrics.jsonl`; `held_out_bits` is None where nothing was validated.

    Attributes:
      step: Optimiser steps done.
      train_bits: Mean training loss in bits per target since the line before.
      held_out_bits: Bits per held-out base.
      learning_rate: That of the last step.
      seconds: Time spent training up to here, over all resumed parts.
    """

    step: int
    train_bits: float
    held_out_bits: float | None
    learning_rate: float
    seconds: float


def read_metrics(path: Path) -> list[Measurement]:
    """Reads `metrics.jsonl`."""
    return [Measurement(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def write_metrics(path: Path, course: Sequence[Measurement]) -> None:
    """Writes `metrics.jsonl` as a whole."""
    text = "".join(json.dumps(entry._asdict()) + "\n" for entry in course)
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def draw_course(path: Path, course: Sequence[Measurement], baselines: Mapping[int, float]) -> None:
    """Draws training loss and held-out bits per base over the steps as a PNG, with the Markov baselines as lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="optimiser step", ylabel="bits per base", title="Training course")
    axes.plot([m.step for m in course], [m.train_bits for m in course], color="0.6", label="training")
    held_out = [(m.step, m.held_out_bits) for m in course if m.held_out_bits is not None]
    axes.plot([s for s, _ in held_out], [b for _, b in held_out], color="C0", marker="o", label="held out")
    ceiling = max([2.05, *(b for s, b in held_out[1:])])
    shown = {order: bits for order, bits in baselines.items() if bits <= ceiling}
    for index, (order, bits) in enumerate(shown.items()):
        style = {"color": f"C{1 + index}", "linestyle": "--", "linewidth": 1}
        axes.axhline(bits, label=f"Markov order {order}", **style)
    lowest = min([b for _, b in held_out] + list(shown.values()) + [m.train_bits for m in course])
    axes.set_ylim(max(0.0, lowest - 0.02), min(ceiling, 2.2) + 0.02)
    axes.legend(fontsize="small", ncols=2)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))
