"""What pages say of code and of measurements is true of them."""

import json
import re
from pathlib import Path

import pytest

from subquad.ops import convention_names, vendor_names
from tools.docs import render_benchmarks

DOCS = Path(__file__).parents[1]
BENCHMARKS = sorted((DOCS / "benchmarks").glob("*.json"))


def test_the_page_of_names_lists_every_alias_and_no_other() -> None:
    page = (DOCS / "reference" / "names.md").read_text()
    listed = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert listed
    assert listed[1].split() == list(convention_names.CONVENTION_NAMES)
    defined = [
        name for name, value in vars(vendor_names).items() if getattr(value, "__module__", "") == vendor_names.__name__
    ]
    assert re.findall(r"^\| `(\w+)\([^|]*\| `(?:\w+)\(", page, re.MULTILINE) == defined


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_file_of_measurements_says_where_and_how_and_has_its_page(path: Path) -> None:
    record = json.loads(path.read_text())
    assert {"date", "command", "device"} <= set(record)
    page = path.with_suffix(".md")
    assert page.is_file(), f"run `{render_benchmarks.COMMAND}`"
    assert page.read_text() == render_benchmarks.page_of(path.stem, record), f"run `{render_benchmarks.COMMAND}`"
    assert path.with_suffix(".svg").is_file() == (".svg" in page.read_text())


def test_the_page_of_benchmarks_lists_all() -> None:
    names = [path.stem for path in BENCHMARKS]
    assert (DOCS / "benchmarks" / "index.md").read_text() == render_benchmarks.index_of(names)


@pytest.mark.parametrize("folder", ["ops", "tutorials"])
def test_examples_of_pages_to_follow_are_run(folder: str) -> None:
    build = (DOCS / "BUILD").read_text()
    pages = [page for page in (DOCS / folder).glob("*.md") if "```python" in page.read_text()]
    assert pages
    for page in pages:
        assert f'readme = "{folder}/{page.name}"' in build, f"add a readme_test of {page.name} to docs/BUILD"
