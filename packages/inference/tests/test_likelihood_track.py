"""Tests of likelihood tracks."""

import math

import numpy as np
import pytest
from matplotlib.image import imread

from subquad.inference.errors import InvalidOption
from subquad.inference.likelihood_track import Track, draw_tracks, running_mean, write_bedgraph


def track(length=300, name="chr1", seed=0):
    return Track(name, np.log(np.random.default_rng(seed).uniform(0.05, 0.9, size=length)).tolist())


def test_a_png_is_readable_and_no_partial_file_stays(tmp_path):
    draw_tracks([track()], tmp_path / "track.png", title="likelihood")
    picture = imread(tmp_path / "track.png")
    assert picture.shape[0] > 300
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.01, "the picture is blank"
    assert [path.name for path in tmp_path.iterdir()] == ["track.png"]


def test_an_svg_is_the_same_for_the_same_tracks(tmp_path):
    for name in ("a.svg", "b.svg"):
        draw_tracks([track(), track(name="chr2", seed=1)], tmp_path / name)
    assert (tmp_path / "a.svg").read_text().lstrip().startswith("<?xml")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_several_tracks_are_panels_of_one_picture(tmp_path):
    draw_tracks([track()], tmp_path / "one.png")
    draw_tracks([track(), track(seed=1)], tmp_path / "two.png")
    assert imread(tmp_path / "two.png").shape[0] == 2 * imread(tmp_path / "one.png").shape[0]


def test_a_sequence_shorter_than_the_running_mean_is_drawn(tmp_path):
    draw_tracks([Track("x", [-1.0, -0.5, -2.0])], tmp_path / "short.png", window=25)
    assert imread(tmp_path / "short.png").size


def test_the_running_mean_is_true_at_the_ends():
    assert running_mean(np.array([1.0, 2.0, 6.0, 3.0]), 3) == pytest.approx([1.5, 3.0, 11 / 3, 4.5])


def test_bedgraph_counts_from_zero_and_joins_equal_neighbours(tmp_path):
    half, quarter = math.log(0.5), math.log(0.25)
    tracks = [Track("chr1", [half, half, quarter], 100), Track("chr2", [quarter])]
    write_bedgraph(tracks, tmp_path / "x.bedgraph")
    lines = (tmp_path / "x.bedgraph").read_text().splitlines()
    assert lines[0].startswith("track type=bedGraph")
    assert lines[1:] == ["chr1\t100\t102\t0.5", "chr1\t102\t103\t0.25", "chr2\t0\t1\t0.25"]


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match=r"a name that ends in \.png or \.svg"):
        draw_tracks([track()], tmp_path / "x.pdf")
    with pytest.raises(InvalidOption, match="tracks is 33; accepted: 1 to 32"):
        draw_tracks([track(3)] * 33, tmp_path / "x.png")
