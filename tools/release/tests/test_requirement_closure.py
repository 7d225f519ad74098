"""Closures over distributions that are written here as metadata."""

from pathlib import Path

import pytest

from tools.release.requirement_closure import UnmetRequirement, find_distributions, requirement_closure


def write(folder: Path, name: str, *requires: str, version: str = "1.0", extras: tuple[str, ...] = ()) -> Path:
    info = folder / name / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {each}" for each in extras] + [f"Requires-Dist: {each}" for each in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    return folder / name


def test_the_closure_follows_requirements_and_nothing_else(tmp_path: Path) -> None:
    places = [
        write(tmp_path, "Root", "middle_part>=1"),
        write(tmp_path, "middle-part", "leaf"),
        write(tmp_path, "leaf", "root"),
        write(tmp_path, "bystander"),
    ]
    assert set(requirement_closure("Root", [], find_distributions(places))) == {"root", "middle-part", "leaf"}


def test_extras_count_only_where_they_are_asked_for(tmp_path: Path) -> None:
    places = [
        write(tmp_path, "root", "plain", "heavy[fast]; extra == 'serve'", extras=("serve",)),
        write(tmp_path, "plain"),
        write(tmp_path, "heavy", "accelerator; extra == 'fast'", extras=("fast",)),
        write(tmp_path, "accelerator"),
    ]
    candidates = find_distributions(places)
    assert set(requirement_closure("root", [], candidates)) == {"root", "plain"}
    assert set(requirement_closure("root", ["serve"], candidates)) == {"root", "plain", "heavy", "accelerator"}


def test_an_extra_that_turns_up_late_is_followed(tmp_path: Path) -> None:
    places = [
        write(tmp_path, "root", "tool", "late"),
        write(tmp_path, "late", "tool[more]"),
        write(tmp_path, "tool", "addition; extra == 'more'", extras=("more",)),
        write(tmp_path, "addition"),
    ]
    assert "addition" in requirement_closure("root", [], find_distributions(places))


def test_a_requirement_for_another_platform_is_left_out(tmp_path: Path) -> None:
    places = [write(tmp_path, "root", "windows-only; sys_platform == 'win32'")]
    assert set(requirement_closure("root", [], find_distributions(places))) == {"root"}


def test_a_requirement_that_is_nowhere_names_who_declares_it(tmp_path: Path) -> None:
    candidates = find_distributions([write(tmp_path, "root", "nowhere>=2")])
    with pytest.raises(UnmetRequirement, match="root declares nowhere>=2, which is not among the dependencies"):
        requirement_closure("root", [], candidates)


def test_a_candidate_of_another_version_is_refused(tmp_path: Path) -> None:
    candidates = find_distributions([write(tmp_path, "root", "leaf<1"), write(tmp_path, "leaf")])
    with pytest.raises(UnmetRequirement, match=r"root declares leaf<1; this tree has leaf 1\.0"):
        requirement_closure("root", [], candidates)
