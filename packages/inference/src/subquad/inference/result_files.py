"""Writes results as JSON lines; a file appears under its name when it is complete."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from subquad.inference.errors import InputFileError, InvalidOption


class Results(Protocol):
    """Where results go.

    Attributes:
      kept: Ids of the results that an earlier run left, in order; the caller does not compute them again.
    """

    kept: list[str]

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds one result, which has an ``id``."""
        ...


class _StandardOutput:
    def __init__(self) -> None:
        self.kept: list[str] = []

    def write(self, row: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


class _PartialFile:
    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.kept = _complete_rows(path) if resume and path.exists() else []
        self._file = path.open("a" if self.kept else "w", encoding="ascii")
        self.written = len(self.kept)

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self.written += 1

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


@contextmanager
def opened_results(path: Path | None, *, overwrite: bool = False, resume: bool = False) -> Iterator[Results]:
    """Gives a place for results: standard output for None, else a file that takes its name at the end.

    Until then rows are in ``PATH.partial``, which stays when an error ends the work; with ``resume`` the next run keeps
    its complete rows and goes on. Without any row nothing is left behind.

    Raises:
      InvalidOption: The file exists and may not be replaced, or there is no file to resume.
      InputFileError: The partial file is damaged.
    """
    if path is None:
        if resume:
            raise InvalidOption("--resume", True, "only together with --output")
        yield _StandardOutput()
        return
    if path.exists() and not overwrite:
        raise InvalidOption("--output", str(path), "a file that does not exist yet, or --overwrite")
    if not path.absolute().parent.is_dir():
        raise InvalidOption("--output", str(path), "a file in a folder that exists")
    partial = _PartialFile(path.with_name(path.name + ".partial"), resume=resume)
    try:
        yield partial
    except BaseException:
        partial.close()
        if partial.written:
            print(f"{partial.written} results are kept in {partial.path}; --resume goes on from there", file=sys.stderr)
        else:
            partial.path.unlink()
        raise
    partial.close()
    os.replace(partial.path, path)


def _complete_rows(path: Path) -> list[str]:
    """Reads the ids of complete rows and cuts off a last row without an end."""
    ids, length = [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                ids.append(str(json.loads(line)["id"]))
            except (ValueError, KeyError, TypeError):
                raise InputFileError(str(path), "is no result of this command; remove it", line=number) from None
            length += len(line)
    os.truncate(path, length)
    return ids
