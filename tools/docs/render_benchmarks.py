"""Turns every file of measurements, ``docs/benchmarks/*.json``, into a page with tables and a plot.

usage: render_benchmarks.py [--check] [FILE.json ...]

A file is one JSON object. Its lists of objects are tables (``rows`` first); everything else is said above them. Two
fields are for the renderer: ``title``, and ``plot``, an object with ``y`` (a column, or a list of columns to compare),
and either ``x`` (a column of numbers) with ``series`` (a column whose values make a line each), or ``label`` (columns
whose values name a bar). ``plot`` may also say ``table`` (which list), ``where`` (column: value that rows must have),
``log`` (false for a linear axis) and ``limit`` (bars). Without ``plot`` the first column of decimals makes bars.

Beside ``NAME.json`` stand ``NAME.md`` and ``NAME.svg``, and ``index.md`` lists all. ``--check`` writes nothing; the
exit status is 1 if a page would change.
"""

import argparse
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

FOLDER = Path("docs/benchmarks")
COMMAND = "./bazelw run //tools/docs:render_benchmarks"
_LIMIT = 40
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
Row = dict[str, Any]


def flat(row: Row, prefix: str = "") -> Row:
    """Returns a row whose inner objects are columns: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    result: Row = {}
    for key, value in row.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def tables_of(record: Row) -> dict[str, list[Row]]:
    """Returns the lists of objects in a record, by name, ``rows`` first."""
    found = {
        key: [flat(row) for row in value]
        for key, value in record.items()
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    }
    return dict(sorted(found.items(), key=lambda item: item[0] != "rows"))


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Returns the columns that hold anything, in the order of their first use."""
    return list(dict.fromkeys(key for row in rows for key, value in row.items() if value is not None))


def text_of(value: Any) -> str:
    """Returns how a cell shows a value: decimals with four digits that count, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(text_of, value))
    return str(value).replace("|", "\\|").replace("\n", " ")


def table(rows: list[Row]) -> list[str]:
    """Returns the lines of a table in Markdown."""
    columns = columns_of(rows)
    held = {column: [row[column] for row in rows if row.get(column) is not None] for column in columns}
    lines = [
        "| " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "|" + "|".join("--:" if all(map(_is_number, held[column])) else "---" for column in columns) + "|",
    ]
    return lines + ["| " + " | ".join(text_of(row.get(column)) for column in columns) + " |" for row in rows]


def page_of(name: str, record: Row) -> str:
    """Returns the page of one file."""
    tables, title = tables_of(record), record.get("title", name)
    lines = [f"# {title}", "", f"Written by `{COMMAND}` from `{name}.json`.", ""]
    for key, value in flat({k: v for k, v in record.items() if k not in (*tables, "title", "plot")}).items():
        shown = f"`{value}`" if key == "command" else text_of(value)
        lines.append(f"- {key.replace('_', ' ').replace('.', ' ')}: {shown}")
    if _figure(record) is not None:
        lines += ["", f"![{title}]({name}.svg)"]
    for heading, rows in tables.items():
        lines += ["", *([] if heading == "rows" else [f"## {heading.replace('_', ' ')}", ""]), *table(rows)]
    return "\n".join(lines) + "\n"


def index_of(names: Iterable[str]) -> str:
    """Returns the page that lists all."""
    lines = ["# Benchmarks", "", "Each page is one file of measurements, with the command that made it.", ""]
    lines += ["```{toctree}", ":maxdepth: 1", "", *names, "```"]
    return "\n".join(lines) + "\n"


def draw(record: Row, path: Path) -> bool:
    """Draws the plot of a record as SVG; returns whether there was anything to draw."""
    figure = _figure(record)
    if figure is None:
        return False
    import matplotlib
    from matplotlib.figure import Figure

    rows, plot = figure
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "subquad", "font.size": 8, "axes.grid": True}
    with matplotlib.rc_context({**settings, "grid.alpha": 0.3, "font.sans-serif": ["DejaVu Sans"]}):
        lines = "x" in plot
        canvas = Figure(figsize=(7, 4 if lines else 1 + 0.18 * len(rows)), layout="constrained")
        axes = canvas.add_subplot()
        (_draw_lines if lines else _draw_bars)(axes, rows, plot)
        axes.set_title(str(record.get("title", path.stem)))
        canvas.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    path.write_text(compact(path.read_text()))
    return True


def compact(drawing: str) -> str:
    """Returns an SVG that looks the same: tenths of points, a class for each style, no metadata, no bare groups."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(drawing)
    _flatten(root)
    elements = list(root.iter())
    used = {name for element in elements for v in element.attrib.values() for name in re.findall(r"#([\w-]+)", v)}
    styles = Counter(element.get("style") for element in elements if "style" in element.attrib)
    classes = {style: f"s{number}" for number, (style, _) in enumerate(styles.most_common())}
    for element in elements:
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        if "style" in element.attrib:
            element.set("class", classes[element.attrib.pop("style")])
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        for name, value in list(element.items()):
            if name in ("d", "x", "y", "transform"):
                rounded = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), value)
                element.set(name, re.sub(r"\s*([A-Za-z])\s*", r"\1", rounded).strip() if name == "d" else rounded)
        if not (element.text or "").strip():
            element.text = "\n" if element.tag == f"{{{_SVG}}}g" else None
        element.tail = None if element.tag == f"{{{_SVG}}}tspan" else "\n"
    sheet = root.find(f".//{{{_SVG}}}style")
    if sheet is not None:
        sheet.text = "\n".join([str(sheet.text), *(f".{name}{{{style}}}" for style, name in classes.items())])
    return ElementTree.tostring(root, encoding="unicode")


def _flatten(parent: ElementTree.Element) -> None:
    """Removes metadata, and puts what a group without a purpose holds in its place."""
    kept = []
    for child in parent:
        _flatten(child)
        if child.tag == f"{{{_SVG}}}g" and not child.attrib.keys() - {"id"}:
            kept += child
        elif child.tag != f"{{{_SVG}}}metadata":
            kept.append(child)
    parent[:] = kept


def _figure(record: Row) -> tuple[list[Row], Row] | None:
    """Returns the rows that a plot shows and how; None without numbers."""
    tables, plot = tables_of(record), dict(record.get("plot", {}))
    rows = tables.get(plot.get("table", next(iter(tables), "")), [])
    rows = [row for row in rows if all(row.get(key) == value for key, value in plot.get("where", {}).items())]
    columns = columns_of(rows)
    if "y" not in plot:
        measured = [column for column in columns if any(isinstance(row.get(column), float) for row in rows)]
        if not measured:
            return None
        plot["y"] = measured[0]
    plot["y"] = [plot["y"]] if isinstance(plot["y"], str) else list(plot["y"])
    if "x" not in plot and "label" not in plot:
        plot["label"] = [c for c in columns if c != "problem" and any(isinstance(row.get(c), str) for row in rows)]
    rows = [row for row in rows if any(_is_number(row.get(column)) for column in plot["y"])]
    if "x" not in plot:
        rows = rows[: plot.get("limit", _LIMIT)]
    return (rows, plot) if rows else None


def _draw_lines(axes: Any, rows: list[Row], plot: Row) -> None:
    """Draws a line for each value of the series."""
    by = plot.get("series", "")
    for number, name in enumerate(dict.fromkeys(row.get(by) for row in rows)):
        for column in plot["y"]:
            points = [(row.get(plot["x"]), row.get(column)) for row in rows if row.get(by) == name]
            points = sorted((x, y) for x, y in points if _is_number(x) and _is_number(y))
            label = ", ".join(filter(None, [text_of(name), column if len(plot["y"]) > 1 else ""]))
            places, heights = [x for x, _ in points], [y for _, y in points]
            axes.plot(places, heights, marker="osD^vP*X"[number % 8], markersize=4, linewidth=1, label=label)
    axes.set_xlabel(plot["x"].replace("_", " "))
    axes.set_ylabel(", ".join(plot["y"]).replace("_", " "))
    if plot.get("log", True):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    axes.legend(fontsize=6)


def _draw_bars(axes: Any, rows: list[Row], plot: Row) -> None:
    """Draws a bar a row, or one a row and column."""
    labels = [", ".join(text_of(row[name]) for name in plot["label"] if row.get(name) is not None) for row in rows]
    height = 0.8 / len(plot["y"])
    for number, column in enumerate(plot["y"]):
        at = [place + (number - (len(plot["y"]) - 1) / 2) * height for place in range(len(rows))]
        values = [row[column] if _is_number(row.get(column)) else 0 for row in rows]
        axes.barh(at, values, height=height, label=column.replace("_", " "))
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(", ".join(plot["y"]).replace("_", " "))
    if plot.get("log", True):
        axes.set_xscale("log")
    if len(plot["y"]) > 1:
        axes.legend(fontsize=6)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def main(arguments: list[str]) -> int:
    """Compares or writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    files = [root / each for each in options.files] or sorted((root / FOLDER).glob("*.json"))
    records = {path: json.loads(path.read_text()) for path in files}
    pages = {path.with_suffix(".md"): page_of(path.stem, record) for path, record in records.items()}
    if not options.files:
        pages[root / FOLDER / "index.md"] = index_of(path.stem for path in records)
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if options.check:
        for path in stale:
            print(f"{path} is out of date; run `{COMMAND}`")
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages[path])
    for path, record in records.items():
        draw(record, path.with_suffix(".svg"))
    print(f"{len(pages)} page(s), {len(stale)} of them changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
