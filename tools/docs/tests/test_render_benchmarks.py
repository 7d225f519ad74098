"""Pages and plots of measurements: any record of lists of objects becomes tables, and one column a plot."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.docs.render_benchmarks import compact, draw, index_of, main, page_of, text_of

LINES: dict[str, Any] = {
    "title": "Two lines",
    "date": "2026-11-27",
    "command": "python3 measure.py",
    "versions": {"torch": "2.11"},
    "plot": {"x": "length", "y": "milliseconds", "series": "name"},
    "rows": [
        {"name": "a", "length": 1024, "milliseconds": 1.25, "problem": None},
        {"name": "a", "length": 4096, "milliseconds": 5.0, "problem": None},
        {"name": "b", "length": 1024, "milliseconds": None, "problem": "out of | memory"},
    ],
}


def test_a_page_says_how_and_where_and_shows_every_column_that_holds_something() -> None:
    page = page_of("lines", LINES)
    assert page.startswith("# Two lines\n")
    for line in (
        "- date: 2026-11-27",
        "- command: `python3 measure.py`",
        "- versions torch: 2.11",
        "![Two lines](lines.svg)",
        "| name | length | milliseconds | problem |",
        "|---|--:|--:|---|",
        "| a | 1,024 | 1.25 |  |",
        "| b | 1,024 |  | out of \\| memory |",
    ):
        assert line in page.splitlines()


def test_further_lists_are_tables_of_their_own_and_inner_objects_columns() -> None:
    page = page_of("x", {"rows": [{"a": 1, "at": {"p50": 0.5}}], "memory_use": [{"b": True}]})
    assert "| a | at.p50 |" in page
    assert "## memory use" in page
    assert "| yes |" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (12345, "12,345"),
        (12345.6, "12,346"),
        (0.00123456, "0.001235"),
        (float("nan"), "nan"),
        ([1, 2], "1, 2"),
    ],
)
def test_numbers_are_shown_with_the_digits_that_count(value: Any, text: str) -> None:
    assert text_of(value) == text


def test_lines_and_bars_are_small_drawings_that_name_their_series(tmp_path: Path) -> None:
    bars = {"rows": [{"op": "one", "dtype": "float32", "microseconds": 3.5, "error": 1e-6}]}
    for record, words in ((LINES, ("Two lines", "milliseconds", ">a<")), (bars, ("one, float32", "microseconds"))):
        path = tmp_path / "plot.svg"
        assert draw(record, path)
        drawing = path.read_text()
        assert all(word in drawing for word in words)
        assert len(drawing) < 12_000
        assert draw(record, path)
        assert path.read_text() == drawing


def test_several_columns_and_chosen_rows_are_drawn_beside_each_other(tmp_path: Path) -> None:
    record = {
        "plot": {
            "y": ["ours", "theirs"],
            "label": ["case"],
            "where": {"kind": "decode"},
            "log": False,
            "table": "speed",
        },
        "speed": [
            {"case": "x", "kind": "decode", "ours": 2.0, "theirs": 1},
            {"case": "y", "kind": "prefill", "ours": 9.0},
        ],
    }
    assert draw(record, tmp_path / "plot.svg")
    drawing = (tmp_path / "plot.svg").read_text()
    assert ">ours<" in drawing
    assert ">y<" not in drawing


def test_a_compact_drawing_keeps_shapes_styles_and_what_is_referred_to() -> None:
    drawing = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">
      <metadata>date</metadata><!-- note --><defs><style>*{a: b}</style><clipPath id="c"/></defs>
      <g id="axes_1"><g transform="translate(1.04 2.96)"><path id="m" d="M 0.123 -4.56 &#10;L 1 2 &#10;"
      style="fill: none"/>
      <use xlink:href="#m" clip-path="url(#c)" x="7.98"/></g></g>
      <text style="fill: none" y="1.26" transform="rotate(-0 1 2)">1.234 a</text></svg>"""
    shown = compact(drawing)
    for gone in ("metadata", "note", "axes_1", "rotate", "style=", ' id="axes'):
        assert gone not in shown
    for kept in (
        "translate(1 3)",
        'd="M0.1 -4.6L1 2"',
        'id="m"',
        'id="c"',
        '#m"',
        'x="8"',
        'y="1.3"',
        ">1.234 a<",
        ".s0{fill: none}",
    ):
        assert kept in shown
    assert shown.count('class="s0"') == 2
    assert compact(shown) == shown


def test_a_record_without_numbers_has_no_plot(tmp_path: Path) -> None:
    record = {"rows": [{"name": "a", "result": "passed"}]}
    assert not draw(record, tmp_path / "plot.svg")
    assert "svg" not in page_of("x", record)


def test_one_command_writes_all_pages_and_then_finds_them_up_to_date(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "docs" / "benchmarks"
    folder.mkdir(parents=True)
    for name in ("first", "second"):
        (folder / f"{name}.json").write_text(json.dumps(LINES))
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert (folder / "index.md").read_text() == index_of(["first", "second"])
    assert sorted(path.name for path in folder.glob("*.svg")) == ["first.svg", "second.svg"]
    (folder / "first.json").write_text(json.dumps({**LINES, "date": "2026-11-28"}))
    assert main(["--check"]) == 1
