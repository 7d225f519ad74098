"""Reading changelogs."""

from tools.release.changelog import problems, releases

TEXT = """# Changelog

## Unreleased
### Added
- (area) Not released yet.

## 0.2.0 - 2026-03-01
### Numerics
- (area) Sums are float32.

## [0.1.0] - 2026-01-31
### Fixed
- (area) A thing.
"""


def test_releases_are_listed_from_the_top_without_the_unreleased() -> None:
    assert releases(TEXT) == ["0.2.0", "0.1.0"]


def test_a_changelog_whose_top_release_is_the_version_is_right() -> None:
    assert problems(TEXT, "0.2.0") == []


def test_another_version_at_the_top_is_named() -> None:
    assert problems(TEXT, "0.3.0") == ["the top release of the changelog is 0.2.0, VERSION holds 0.3.0"]


def test_a_changelog_without_a_release_is_refused() -> None:
    (problem,) = problems("# Changelog\n\n## Unreleased\n", "0.1.0")
    assert "names no release" in problem


def test_a_release_that_stands_twice_is_named() -> None:
    assert problems(TEXT.replace("0.2.0", "0.1.0"), "0.1.0") == ["a release stands twice: 0.1.0, 0.1.0"]


def test_an_unknown_section_is_named() -> None:
    (problem,) = problems(TEXT.replace("### Fixed", "### Misc"), "0.2.0")
    assert problem.startswith("unknown sections Misc; accepted: Added, ")
