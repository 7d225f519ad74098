"""Builds one wheel with the package's own build backend, from declared files only, byte for byte the same every time.

usage: build_wheel.py OUT_FOLDER [--native FILE=PATH]... FILE=PATH...

Each FILE is staged at PATH of an empty project folder; what is not named is not in the wheel. The backend is the one
that the project's pyproject.toml names; it runs here, without isolation, without a network. With ``--native`` (a
compiled library as package data) the wheel is tagged for this platform instead of for any.
"""

import argparse
import base64
import csv
import hashlib
import importlib
import io
import os
import shutil
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from pathlib import Path

ZIP_EPOCH = 315532800  # 1980-01-01 00:00 UTC, the earliest time that a zip file can hold


def stage(project: Path, files: list[tuple[str, str]]) -> None:
    """Copies files into a project folder, with the same permissions whatever they were before."""
    for source, target in files:
        path = project / target
        if path.exists() or ".." in Path(target).parts or os.path.isabs(target):
            raise ValueError(f"cannot stage {source} at {target}: the place is taken or outside the project")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        path.chmod(0o644)


def run_backend(project: Path, out: Path) -> Path:
    """Calls the PEP 517 hook ``build_wheel`` of the backend that pyproject.toml names."""
    settings = tomllib.loads((project / "pyproject.toml").read_text())["build-system"]
    module, _, attribute = settings["build-backend"].partition(":")
    backend = importlib.import_module(module)
    if attribute:
        backend = getattr(backend, attribute)
    before = Path.cwd()
    os.chdir(project)
    try:
        return out / backend.build_wheel(str(out))
    finally:
        os.chdir(before)


def platform_tag() -> str:
    """The wheel tag of a C library for this platform that needs no particular Python."""
    return "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def retag(wheel: Path, tag: str) -> Path:
    """Rewrites a pure wheel's tag: in its file name, in WHEEL, and in RECORD. Returns the new file."""
    name, version = wheel.name.split("-")[:2]
    target = wheel.with_name(f"{name}-{version}-{tag}.whl")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        record = next(entry.filename for entry in old.infolist() if entry.filename.endswith(".dist-info/RECORD"))
        facts = record.removesuffix("RECORD") + "WHEEL"
        text = old.read(facts).decode()
        text = text.replace("Root-Is-Purelib: true", "Root-Is-Purelib: false").replace(
            "Tag: py3-none-any", f"Tag: {tag}"
        )
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows = [row for row in csv.reader(io.StringIO(old.read(record).decode())) if row]
        rows = [[facts, f"sha256={digest}", str(len(text.encode()))] if row[0] == facts else row for row in rows]
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(rows)
        replaced = {facts: text.encode(), record: lines.getvalue().encode()}
        for entry in old.infolist():
            new.writestr(entry, replaced.get(entry.filename, old.read(entry)), zipfile.ZIP_DEFLATED)
    wheel.unlink()
    return target


def build(out: Path, files: list[tuple[str, str]], native: list[tuple[str, str]]) -> Path:
    """Stages the files, builds the wheel into `out`, and returns its path."""
    os.environ["SOURCE_DATE_EPOCH"] = str(ZIP_EPOCH)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        stage(Path(scratch), files + native)
        wheel = run_backend(Path(scratch), out)
    return retag(wheel, platform_tag()) if native else wheel


def _pair(text: str) -> tuple[str, str]:
    source, _, target = text.partition("=")
    return source, target


def main() -> None:
    """Reads the command line; prints the name of the wheel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("files", nargs="+", type=_pair, metavar="FILE=PATH")
    parser.add_argument("--native", action="append", type=_pair, default=[], metavar="FILE=PATH")
    options = parser.parse_args()
    try:
        print(build(options.out, options.files, options.native).name)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
