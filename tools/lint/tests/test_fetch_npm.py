"""Unpacking an npm package: its files and their executable bits, and nothing outside the folder."""

import io
import pathlib
import tarfile

import pytest

from tools.lint import fetch_npm


def _pack(path: pathlib.Path, files: dict[str, int]) -> str:
    """Writes an archive whose files hold their own names and have the given modes."""
    with tarfile.open(path, "w:gz") as archive:
        for name, mode in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(name), mode
            archive.addfile(member, io.BytesIO(name.encode()))
    return str(path)


def test_files_of_the_package_land_in_the_folder_with_their_executable_bit(tmp_path: pathlib.Path) -> None:
    archive = _pack(tmp_path / "a.tgz", {"package/tool": 0o755, "package/deep/note.txt": 0o600, "stray": 0o644})
    fetch_npm.unpack(archive, str(tmp_path / "out"))
    files = {str(p.relative_to(tmp_path / "out")): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {name: path.read_text() for name, path in files.items()} == {
        "tool": "package/tool",
        "deep/note.txt": "package/deep/note.txt",
    }
    assert files["tool"].stat().st_mode & 0o777 == 0o755
    assert files["deep/note.txt"].stat().st_mode & 0o777 == 0o644


def test_a_file_outside_the_package_is_refused(tmp_path: pathlib.Path) -> None:
    archive = _pack(tmp_path / "a.tgz", {"package/../../outside": 0o644})
    with pytest.raises(SystemExit, match=r"holds package/\.\./\.\./outside, which lies outside the package"):
        fetch_npm.unpack(archive, str(tmp_path / "out"))
    assert not (tmp_path.parent / "outside").exists()


def test_the_hash_is_the_one_that_npm_writes(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    expected = "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
    assert fetch_npm.integrity(str(tmp_path / "empty")) == f"sha512-{expected}"
