"""Draws how well each base of a sequence was predicted, and writes it as a bedGraph track."""

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from warnings import catch_warnings, filterwarnings

import numpy as np

from subquad.inference.errors import InvalidOption, MissingPackage
from subquad.inference.unfinished import replaced_file

MOST_PANELS = 32
LONGEST_TITLE = 100


@dataclass(frozen=True)
class Track:
    """The predictions of one sequence.

    Attributes:
      name: Of the sequence, e.g. its contig.
      logprobs: Natural logarithm of the probability of each base, in order.
      first_position: Position of the first of these bases, 0-based.
    """

    name: str
    logprobs: Sequence[float]
    first_position: int = 0


def check_pictures(tracks: int) -> None:
    """Checks that a picture of so many tracks can be drawn, which is better known before they are computed.

    Raises:
      InvalidOption: They are none, or too many.
      MissingPackage: matplotlib is not there.
    """
    if not 1 <= tracks <= MOST_PANELS:
        raise InvalidOption("tracks", tracks, f"1 to {MOST_PANELS} tracks in one picture")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackage("a picture", "matplotlib", "plot")


def check_bedgraph(names: Iterable[str]) -> None:
    """Checks that a bedGraph, whose fields end at any space, can have tracks of these names.

    Raises:
      InvalidOption: It cannot.
    """
    for name in names:
        if not name.isprintable() or len(name.split()) != 1 or name.strip() != name:
            raise InvalidOption(
                "the name of a track", name, "for a bedGraph one word, without spaces or control characters"
            )


def draw_tracks(
    tracks: Sequence[Track],
    path: Path,
    *,
    title: str = "",
    window: int = 25,
    first_shown: int = 0,
) -> None:
    """Draws the per-base likelihood and its running mean, one panel a track, as PNG or SVG by the name of the file.

    Args:
      tracks: 1 to 32 of them.
      path: Where the picture goes, ``.png`` or ``.svg``; it appears when it is complete.
      title: Above the first panel; default: each panel has its track's name.
      window: Bases in the running mean.
      first_shown: What the horizontal axis calls position 0.

    Raises:
      InvalidOption: Too many tracks or another suffix.
      MissingPackage: matplotlib is not there.
    """
    if path.suffix not in (".png", ".svg"):
        raise InvalidOption("path", str(path), "a name that ends in .png or .svg")
    check_pictures(len(tracks))
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2 * len(tracks)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tracks), squeeze=False)[:, 0]
    for track, axes in zip(tracks, panels, strict=True):
        likelihood = np.exp(np.asarray(track.logprobs, dtype=np.float64))
        positions = first_shown + track.first_position + np.arange(len(likelihood))
        width = min(window, len(likelihood))
        axes.vlines(positions, 0, likelihood, color="#9db8d2", linewidth=0.6, label="each base")
        axes.plot(positions, running_mean(likelihood, width), color="#1f4e79", linewidth=1.4, label=f"mean of {width}")
        axes.axhline(0.25, color="#b03a2e", linewidth=0.9, linestyle="--", label="uniform guess")
        name = title if title and track is tracks[0] else _shown(track.name)
        axes.set_title(name, parse_math=False)
        axes.set(xlabel="position (bases)", ylabel="likelihood", ylim=(0, 1))
        axes.margins(x=0.01)
        axes.legend(loc="upper right", fontsize=8, ncols=3)
    undated = {"Date": None} if path.suffix == ".svg" else {}  # the same tracks give the same file
    with replaced_file(path) as partial, rc_context({"svg.hashsalt": "subquad"}), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from font")  # is drawn as a box
        figure.savefig(partial, dpi=130, format=path.suffix[1:], metadata=undated)


def write_bedgraph(tracks: Sequence[Track], path: Path, *, name: str = "likelihood") -> None:
    """Writes the likelihood of each base as bedGraph, positions from 0, neighbours of equal value joined.

    Args:
      tracks: Their names are the chromosomes.
      path: The file; it appears when it is complete.
      name: Of the track.

    Raises:
      InvalidOption: See `check_bedgraph`.

    Source: https://genome.ucsc.edu/goldenPath/help/bedgraph.html
    """
    check_bedgraph(track.name for track in tracks)
    with replaced_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(f'track type=bedGraph name="{name}" viewLimits=0:1 autoScale=off\n')
        for track in tracks:
            values = [f"{value:.6g}" for value in np.exp(np.asarray(track.logprobs, dtype=np.float64))]
            start = 0
            for stop in range(1, len(values) + 1):
                if stop == len(values) or values[stop] != values[start]:
                    first = track.first_position
                    file.write(f"{track.name}\t{first + start}\t{first + stop}\t{values[start]}\n")
                    start = stop


def _shown(name: str) -> str:
    """Returns a name as it fits above a panel."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1] + "…"


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Returns the mean of ``width`` neighbours of each value, of fewer at the ends."""
    ones = np.ones(width)
    return np.convolve(values, ones, mode="same") / np.convolve(np.ones_like(values), ones, mode="same")
