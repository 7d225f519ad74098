"""Reads a changelog in the form of Keep a Changelog."""

import re

_RELEASE = re.compile(
    r"^## \[?(?P<version>\d+\.\d+\.\d+[\w.+-]*)\]?(?: - (?P<date>\d{4}-\d{2}-\d{2}))?\s*$", re.MULTILINE
)
_SECTION = re.compile(r"^### (?P<name>.+?)\s*$", re.MULTILINE)
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Numerics"}


def releases(text: str) -> list[str]:
    """The versions of a changelog, in the order they stand there; "Unreleased" is none."""
    return [match["version"] for match in _RELEASE.finditer(text)]


def problems(text: str, version: str) -> list[str]:
    """Says what is wrong with a changelog of a package at `version`; an empty list when nothing is."""
    found = releases(text)
    wrong = []
    if not found:
        return ["the changelog names no release (a line such as `## 0.1.0 - 2026-01-31`)"]
    if found[0] != version:
        wrong.append(f"the top release of the changelog is {found[0]}, VERSION holds {version}")
    if len(set(found)) != len(found):
        wrong.append(f"a release stands twice: {', '.join(found)}")
    unknown = [match["name"] for match in _SECTION.finditer(text) if match["name"] not in SECTIONS]
    if unknown:
        wrong.append(f"unknown sections {', '.join(unknown)}; accepted: {', '.join(sorted(SECTIONS))}")
    return wrong
