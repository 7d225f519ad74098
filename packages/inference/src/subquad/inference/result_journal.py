"""The rows of a job that is not complete yet, in a folder beside the file that they are for."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from subquad.inference.errors import InputFileError, InvalidOption
from subquad.inference.writing import writing

_SETTINGS, _ROWS, _ARRAYS = "settings.json", "rows.jsonl", "arrays.bin"
_ARRAY = "$array"
_OWN = re.compile(r"settings\.json|rows\.jsonl|arrays\.bin|complete|column-\d+")
Row = Mapping[str, Any]


def holds_rows(folder: Path) -> bool:
    """Says whether a folder holds rows of a job that was interrupted."""
    return (folder / _ROWS).is_file() and (folder / _ROWS).stat().st_size > 0


def _is_journal(folder: Path) -> bool:
    """Says whether a path is a folder with nothing in it but what a journal and its completion make."""
    return folder.is_dir() and all(_OWN.fullmatch(path.name) for path in folder.iterdir())


class Journal:
    """Appends rows to a folder, each complete or not there, and reads them back one at a time.

    Numbers, texts and lists of a row are a JSON line; arrays lie one after the other in a second file, and the line
    says where. Memory does not grow with the number of rows.

    Args:
      folder: The folder, made where it is missing.
      settings: What the results depend on; a job that goes on must have the same.
      resume: Keep the rows of an earlier job instead of beginning anew.
      multiple: Keep a multiple of this many rows only, so that a job which computes rows in groups goes on where a
        group begins, and rounds like a job that was never interrupted.

    Raises:
      InvalidOption: The earlier job had other settings; names the first one.
      InputFileError: The folder is damaged, or holds something else, which is then left as it is.
      OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool, multiple: int = 1) -> None:
        self.folder, self.count = folder, 0
        if folder.exists() and not _is_journal(folder):
            problem = "is in the way and holds no results of an interrupted run; move it, or choose another output"
            raise InputFileError(str(folder), problem)
        if resume and (folder / _SETTINGS).exists():
            self._compare(dict(settings))
            self._cut(multiple)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            with writing(folder):
                folder.mkdir()
                (folder / _SETTINGS).write_text(json.dumps(dict(settings)) + "\n", encoding="utf-8")
        self.kept = self.count
        with writing(folder):
            self._rows = (folder / _ROWS).open("a", encoding="ascii")
            self._arrays = (folder / _ARRAYS).open("ab")
        self._place = self._arrays.seek(0, os.SEEK_END)

    def write(self, row: Row) -> None:
        """Adds a row, which has an ``id``; its arrays come first, so that a line never points at nothing."""
        line: dict[str, Any] = {}
        with writing(self.folder):
            for name, value in row.items():
                if isinstance(value, np.ndarray):
                    data = np.ascontiguousarray(value)
                    self._arrays.write(data.tobytes())
                    line[name] = {_ARRAY: [self._place, data.dtype.str, list(data.shape)]}
                    self._place += data.nbytes
                else:
                    line[name] = value
            self._arrays.flush()
            self._rows.write(json.dumps(line) + "\n")
            self._rows.flush()
        self.count += 1

    def kept_ids(self) -> Iterator[str]:
        """Yields the ids of the rows that an earlier job left, in order."""
        with (self.folder / _ROWS).open(encoding="ascii") as file:
            for _, line in zip(range(self.kept), file, strict=False):
                yield str(json.loads(line)["id"])

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
        with writing(self.folder), self._arrays, self._rows:
            for file in (self._arrays, self._rows):
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
        (self.folder / _ARRAYS).touch()
        if (self.folder / _ARRAYS).stat().st_size < arrays[0]:
            raise InputFileError(str(self.folder / _ARRAYS), "is shorter than its rows say; remove the folder")
        os.truncate(self.folder / _ARRAYS, arrays[0])


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
