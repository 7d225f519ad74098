"""Tests of likelihood tracks."""

import math
import re

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


@pytest.mark.parametrize("name", ["gène", "$x_{$ of the model", "tab\tand\nline", "基因", "a" * 3000])
def test_any_name_can_stand_above_a_panel(tmp_path, recwarn, name):
    draw_tracks([track(name=name)], tmp_path / "x.svg")
    draw_tracks([track(name="plain")], tmp_path / "plain.svg")
    assert size_of(tmp_path / "x.svg") == size_of(tmp_path / "plain.svg")
    assert not recwarn.list


def size_of(path):
    """Returns width and height of an SVG."""
    return re.search(r'width="[^"]*" height="[^"]*"|viewBox="[^"]*"', path.read_text())[0]


@pytest.mark.parametrize("name", ["two words", "", "tab\tin", "line\n", "\u2003"])
def test_a_name_that_would_break_the_fields_of_a_bedgraph_is_refused(tmp_path, name):
    with pytest.raises(InvalidOption, match=r"the name of a track is .*; accepted: for a bedGraph one word, without"):
        write_bedgraph([track(name=name)], tmp_path / "x.bedgraph")
    assert not list(tmp_path.iterdir())


def test_a_bedgraph_may_have_names_beyond_ascii(tmp_path):
    write_bedgraph([Track("gène", [0.0])], tmp_path / "x.bedgraph")
    assert (tmp_path / "x.bedgraph").read_text(encoding="utf-8").splitlines()[1] == "gène\t0\t1\t1"


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match=r"a name that ends in \.png or \.svg"):
        draw_tracks([track()], tmp_path / "x.pdf")
    with pytest.raises(InvalidOption, match="tracks is 33; accepted: 1 to 32"):
        draw_tracks([track(3)] * 33, tmp_path / "x.png")
