"""The course of a run is written, read and drawn."""

from pathlib import Path

import pytest

from subquad.recipes._atomic import write_atomically
from subquad.recipes.training import Measurement, read_metrics
from subquad.recipes.training.metrics import draw_course, write_metrics

COURSE = [
    Measurement(10, 3.0, 2.5, 1e-3, 1.0),
    Measurement(20, 2.0, 1.97, 1e-4, 2.0),
    Measurement(30, 1.9, None, 0.0, 3.0),
]


def test_what_was_written_is_read_again(tmp_path: Path):
    write_metrics(tmp_path / "metrics.jsonl", COURSE)
    assert read_metrics(tmp_path / "metrics.jsonl") == COURSE


@pytest.mark.parametrize("course", [COURSE, COURSE[:1], COURSE[2:]])
def test_the_picture_is_a_png(tmp_path: Path, course: list[Measurement]):
    draw_course(tmp_path / "loss.png", course, {0: 2.0, 3: 1.96})
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
