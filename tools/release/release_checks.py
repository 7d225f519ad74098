"""The tests of what a package says about its release: pytest runs this file once for each package."""

import os
import re
from pathlib import Path

from tools.release import changelog, public_api

PACKAGE = Path(os.environ["RUNFILES_DIR"], os.environ["TEST_WORKSPACE"], os.environ["SUBQUAD_PACKAGE"])


def test_the_version_is_three_numbers_on_one_line() -> None:
    text = (PACKAGE / "VERSION").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?\n", text), f"{text!r}"


def test_the_top_release_of_the_changelog_is_the_version() -> None:
    version = (PACKAGE / "VERSION").read_text().strip()
    assert changelog.problems((PACKAGE / "CHANGELOG.md").read_text(), version) == []


def test_the_listed_api_is_the_one_of_the_sources() -> None:
    changes = public_api.difference(PACKAGE)
    assert not changes, f"run `python3 tools/release/public_api.py --write` and review what it changes:\n{changes}"
