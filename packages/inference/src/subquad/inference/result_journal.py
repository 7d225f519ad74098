"""The rows of a job that is not complete yet, in a folder beside the file that they are for."""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from subquad.inference.errors import InputFileError, InvalidOption
from subquad.inference.writing import writing

_SETTINGS, _ROWS, _ARRAYS, _DIGESTS = "settings.json", "rows.jsonl", "arrays.bin", "digests.bin"
_ARRAY = "$array"
_OWN = re.compile(r"settings\.json|rows\.jsonl|arrays\.bin|digests\.bin|complete|column-\d+")
_DIGEST_BYTES = 16
Row = Mapping[str, Any]


def holds_rows(folder: Path) -> bool:
    """Says whether a folder holds rows of a job that was interrupted."""
    return (folder / _ROWS).is_file() and (folder / _ROWS).stat().st_size > 0


def _is_journal(folder: Path) -> bool:
    """Says whether a path is a folder with nothing in it but what a journal and its completion make."""
    return folder.is_dir() and all(_OWN.fullmatch(path.name) for path in folder.iterdir())


def digest_of(text: str) -> bytes:
    """Returns what a journal keeps of the text that a row is the result of."""
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


@contextmanager
def held_folder(folder: Path, flag: str) -> Iterator[None]:
    """Makes a folder where it is missing and locks it as long as the block runs, so that one job at a time has it.

    Args:
      folder: The folder of a journal.
      flag: What errors call the output.

    Raises:
      InputFileError: There is something else in its place, which is then left as it is.
      InvalidOption: Another process holds it.
      OutputError: It cannot be made.
    """
    if (folder.exists() or folder.is_symlink()) and not _is_journal(folder):
        problem = "is in the way and holds no results of an interrupted run; move it, or choose another output"
        raise InputFileError(str(folder), problem)
    with writing(folder):
        handle = _locked(folder)
    if handle is None:
        accepted = f"another file, as long as the run that writes to {folder} goes on"
        raise InvalidOption(flag, str(folder).removesuffix(".partial"), accepted)
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()  # where nothing came to be in it
        os.close(handle)


def _locked(folder: Path) -> int | None:
    """Returns a handle that locks a folder; None where another process does."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another process has completed its job
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:  # a file system without locks
            return handle
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        os.close(handle)


class Journal:
    """Appends rows to a folder, each complete or not there, and reads them back one at a time.

    Numbers, texts and lists of a row are a JSON line; arrays lie one after the other in a second file, and the line
    says where. Memory does not grow with the number of rows.

    Args:
      folder: The folder, which is there and which no other process has; see `held_folder`.
      settings: What the results depend on; a job that goes on must have the same.
      resume: Keep the rows of an earlier job instead of beginning anew.
      multiple: Keep a multiple of this many rows only, so that a job which computes rows in groups goes on where a
        group begins, and rounds like a job that was never interrupted.

    Raises:
      InvalidOption: The earlier job had other settings; names the first one.
      InputFileError: The folder is damaged.
      OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool, multiple: int = 1) -> None:
        self.folder, self.count = folder, 0
        if resume and holds_rows(folder):
            self._compare(dict(settings))
            self._cut(multiple)
        else:
            with writing(folder):
                for path in folder.iterdir():
                    path.unlink()
                (folder / _SETTINGS).write_text(json.dumps(dict(settings)) + "\n", encoding="utf-8")
        self.kept = self.count
        with writing(folder):
            self._rows = (folder / _ROWS).open("a", encoding="ascii")
            self._arrays = (folder / _ARRAYS).open("ab")
            self._digests = (folder / _DIGESTS).open("ab")
        self._place = self._arrays.seek(0, os.SEEK_END)

    def write(self, row: Row, *, read: str = "") -> None:
        """Adds a row, which has an ``id``; its arrays come first, so that a line never points at nothing.

        Args:
          row: The row.
          read: The text that it is the result of; a digest of it is kept.
        """
        line: dict[str, Any] = {}
        with writing(self.folder):
            for name, value in row.items():
                if isinstance(value, np.ndarray):
                    data = np.ascontiguousarray(value)
                    self._arrays.write(data.data)
                    line[name] = {_ARRAY: [self._place, data.dtype.str, list(data.shape)]}
                    self._place += data.nbytes
                else:
                    line[name] = value
            self._arrays.flush()
            self._digests.write(digest_of(read))
            self._digests.flush()
            self._rows.write(json.dumps(line) + "\n")
            self._rows.flush()
        self.count += 1

    def kept_rows(self) -> Iterator[tuple[str, bytes]]:
        """Yields the ids of the rows that an earlier job left, in order, with the digests of what they came of."""
        with (self.folder / _ROWS).open(encoding="ascii") as file, (self.folder / _DIGESTS).open("rb") as digests:
            for _, line in zip(range(self.kept), file, strict=False):
                yield str(json.loads(line)["id"]), digests.read(_DIGEST_BYTES)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields every row again, with its arrays."""
        with (self.folder / _ROWS).open(encoding="ascii") as lines, (self.folder / _ARRAYS).open("rb") as arrays:
            for line in lines:
                yield {name: _restored(value, arrays) for name, value in json.loads(line).items()}

    @property
    def plain_file(self) -> Path | None:
        """The rows as a file of JSON lines, where no row has an array."""
        return self.folder / _ROWS if self._place == 0 else None

    def close(self) -> None:
        """Writes everything out."""
        if self._rows.closed:
            return
        with writing(self.folder), self._arrays, self._digests, self._rows:
            for file in (self._arrays, self._digests, self._rows):
                file.flush()
                os.fsync(file.fileno())

    def remove(self) -> None:
        """Deletes the folder."""
        self.close()
        shutil.rmtree(self.folder)

    def _compare(self, settings: dict[str, Any]) -> None:
        try:
            earlier = json.loads((self.folder / _SETTINGS).read_text(encoding="utf-8"))
            names = {*earlier, *settings}
        except (ValueError, TypeError):
            raise InputFileError(str(self.folder / _SETTINGS), "is damaged; remove the folder") from None
        now = json.loads(json.dumps(settings))
        for name in sorted(names):
            if earlier.get(name) != now.get(name):
                raise InvalidOption(
                    name, now.get(name), f"{earlier.get(name)!r}, as in the job to resume, or no --resume"
                )

    def _cut(self, multiple: int) -> None:
        """Keeps the complete rows, down to a multiple, and cuts off what follows them."""
        path, ends, arrays = self.folder / _ROWS, [0], [0]
        rows, place, end = 0, 0, 0
        path.touch()
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                place = max(place, _array_end(line, path, number))
                rows += 1
                if rows % multiple == 0:
                    self.count, ends[0], arrays[0] = rows, end, place
        os.truncate(path, ends[0])
        for name, size in ((_ARRAYS, arrays[0]), (_DIGESTS, _DIGEST_BYTES * self.count)):
            (self.folder / name).touch()
            if (self.folder / name).stat().st_size < size:
                raise InputFileError(str(self.folder / name), "is shorter than its rows say; remove the folder")
            os.truncate(self.folder / name, size)


def _restored(value: Any, arrays: Any) -> Any:
    if not isinstance(value, dict):
        return value
    place, kind, shape = value[_ARRAY]
    arrays.seek(place)
    return np.frombuffer(arrays.read(_nbytes(kind, shape)), dtype=kind).reshape(shape)


def _nbytes(kind: str, shape: list[int]) -> int:
    return int(np.dtype(kind).itemsize * np.prod(shape, dtype=np.int64))


def _array_end(line: bytes, path: Path, number: int) -> int:
    """Returns where the arrays of a row end, 0 where it has none."""
    try:
        row = json.loads(line)
        str(row["id"])
        places = [value[_ARRAY] for value in row.values() if isinstance(value, dict)]
        return max((start + _nbytes(kind, shape) for start, kind, shape in places), default=0)
    except (ValueError, KeyError, TypeError):
        raise InputFileError(str(path), "is no result of this command; remove the folder", line=number) from None
