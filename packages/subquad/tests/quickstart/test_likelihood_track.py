"""Tests of subquad.quickstart.likelihood_track."""

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from subquad.quickstart.likelihood_track import draw_likelihood_track


def test_the_track_is_a_readable_picture_and_no_partial_file_stays(tmp_path: Path):
    logprobs = np.log(np.random.default_rng(0).uniform(0.05, 0.9, size=300))
    draw_likelihood_track(logprobs.tolist(), tmp_path / "track.png", title="likelihood")
    picture = imread(tmp_path / "track.png")
    assert picture.shape[0] > 300
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.01, "the picture is blank"
    assert [path.name for path in tmp_path.iterdir()] == ["track.png"]


def test_a_sequence_shorter_than_the_running_mean_is_drawn(tmp_path: Path):
    draw_likelihood_track([-1.0, -0.5, -2.0], tmp_path / "short.png", title="likelihood", window=25)
    assert imread(tmp_path / "short.png").size
