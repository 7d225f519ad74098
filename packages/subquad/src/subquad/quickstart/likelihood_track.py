"""Draws how well each base of a sequence was predicted."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def draw_likelihood_track(
    logprobs: Sequence[float], path: Path, *, title: str, first_position: int = 0, window: int = 25
) -> None:
    """Draws the per-base likelihood of one sequence and its running mean as a PNG.

    Args:
      logprobs: Natural logarithm of the probability of each base, in order.
      path: Where the PNG goes; written beside it first, then renamed.
      title: What the picture shows.
      first_position: Position of the first base, 0-based, for the horizontal axis.
      window: Bases in the running mean.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    likelihood = np.exp(np.asarray(logprobs, dtype=np.float64))
    positions = first_position + np.arange(len(likelihood))
    width = min(window, len(likelihood))
    ones = np.ones(width)
    mean = np.convolve(likelihood, ones, mode="same") / np.convolve(np.ones_like(likelihood), ones, mode="same")
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.vlines(positions, 0, likelihood, color="#9db8d2", linewidth=0.6, label="each base")
    axes.plot(positions, mean, color="#1f4e79", linewidth=1.4, label=f"mean of {width}")
    axes.axhline(0.25, color="#b03a2e", linewidth=0.9, linestyle="--", label="uniform guess")
    axes.set(title=title, xlabel="position (bases)", ylabel="likelihood", ylim=(0, 1))
    axes.margins(x=0.01)
    axes.legend(loc="upper right", fontsize=8, ncols=3)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=130, format="png")
    os.replace(partial, path)
