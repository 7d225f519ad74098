"""Turns the rows of a journal into a file, one row or one column at a time."""

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from subquad.inference.errors import InvalidOption, MissingPackage
from subquad.inference.result_journal import Journal

ColumnKind = Literal["text", "integer", "number", "integers", "numbers", "vector", "matrix"]
Columns = Mapping[str, ColumnKind]
ResultFormat = Literal["jsonl", "parquet", "safetensors"]
_SUFFIXES: dict[str, ResultFormat] = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
_SUFFIXES |= {".safetensors": "safetensors"}
_OTHER_FORMATS = (".gz", ".csv", ".tsv")
_GROUP_ROWS = 1024
_GROUP_VALUES = 1 << 21


def format_of(path: Path, chosen: str) -> ResultFormat:
    """Returns the format that is chosen, or for ``"auto"`` the one of the name's suffix, JSON lines for any other.

    Raises:
      InvalidOption: No such format, or for ``"auto"`` the suffix of one that is not written.
      MissingPackage: Parquet is meant and pyarrow is not there.
    """
    if chosen not in ("auto", "jsonl", "parquet", "safetensors"):
        raise InvalidOption("--output-format", chosen, "auto, jsonl, parquet or safetensors")
    if chosen == "auto" and path.suffix in _OTHER_FORMATS:
        accepted = ".jsonl, .parquet or .safetensors at its end, or --output-format, since no {} is written"
        raise InvalidOption("--output", str(path), accepted.format(path.suffix))
    found: ResultFormat = _SUFFIXES.get(path.suffix, "jsonl") if chosen == "auto" else chosen  # type: ignore[assignment]
    if found == "parquet":
        _pyarrow()
    return found


def write_results(journal: Journal, path: Path, columns: Columns, file_format: ResultFormat) -> None:
    """Writes all rows of a journal to ``path``, which is no complete file until this returns.

    Args:
      journal: The rows.
      path: The file to write.
      columns: Kind of each field, in order.
      file_format: ``"jsonl"``: one object a row, arrays as lists. ``"parquet"``: one column a field. ``"safetensors"``:
        one tensor a field, ``[rows, …]``; texts (UTF-8), lists and matrices lie one after the other along the first
        axis, and ``NAME.offsets`` ``[rows + 1]`` says where each row begins.
    """
    {"jsonl": _write_jsonl, "parquet": _write_parquet, "safetensors": _write_safetensors}[file_format](
        journal, path, columns
    )


def json_pieces(row: Mapping[str, Any]) -> Iterator[str]:
    """Yields a row as a JSON line, arrays as lists: a matrix line by line, for as text it takes many times its size."""
    before = "{"
    for name, value in row.items():
        yield f"{before}{json.dumps(name)}: "
        if isinstance(value, np.ndarray) and value.ndim == 2 and len(value):
            for number, line in enumerate(value):
                yield ("[" if number == 0 else ", ") + json.dumps(line.tolist())
            yield "]"
        else:
            yield json.dumps(value.tolist() if isinstance(value, np.ndarray) else value)
        before = ", "
    yield "}\n"


def _write_jsonl(journal: Journal, path: Path, columns: Columns) -> None:
    if journal.plain_file is not None:
        shutil.copyfile(journal.plain_file, path)
        return
    with path.open("w", encoding="ascii") as file:
        for row in journal.rows():
            file.writelines(json_pieces(row))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingPackage("Parquet", "pyarrow", "parquet") from None
    return pyarrow, pyarrow.parquet


def _write_parquet(journal: Journal, path: Path, columns: Columns) -> None:
    pa, parquet = _pyarrow()
    number = pa.float32()
    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "integers": pa.list_(pa.int64()),
        "numbers": pa.list_(pa.float64()),
        "vector": pa.list_(number),
        "matrix": pa.list_(pa.large_list(number)),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])

    def column(name: str, rows: list[dict[str, Any]]) -> Any:
        values = [row[name] for row in rows]
        return matrices(values) if columns[name] == "matrix" else pa.array(values, types[columns[name]])

    with parquet.ParquetWriter(path, schema) as writer:
        for rows in _row_groups(journal.rows()):
            writer.write_table(pa.Table.from_arrays([column(name, rows) for name in columns], schema=schema))


def matrices(values: list[np.ndarray]) -> Any:
    """Returns float32 matrices ``[length, channel]`` of one width as an Arrow array of lists of lists.

    The numbers are counted by 64 bits, since one long sequence can have more than 32 bits count.
    """
    pa, _ = _pyarrow()
    whole = values[0] if len(values) == 1 else np.concatenate(values)
    inner = np.arange(whole.shape[0] + 1, dtype=np.int64) * whole.shape[1]
    lines = pa.LargeListArray.from_arrays(inner, pa.array(whole.reshape(-1), pa.float32()))
    return pa.ListArray.from_arrays(np.cumsum([0, *map(len, values)], dtype=np.int32), lines)


def _row_groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yields lists of rows that are bounded in number and in size."""
    group: list[dict[str, Any]] = []
    values = 0
    for row in rows:
        group.append(row)
        values += sum(_size(value) for value in row.values())
        if len(group) == _GROUP_ROWS or values >= _GROUP_VALUES:
            yield group
            group, values = [], 0
    if group:
        yield group


def _size(value: Any) -> int:
    return value.size if isinstance(value, np.ndarray) else len(value) if isinstance(value, str | list) else 1


_DTYPES = {"text": "u1", "integer": "<i8", "number": "<f8", "integers": "<i8", "numbers": "<f8"}
_DTYPES |= {"vector": "<f4", "matrix": "<f4"}
_CODES = {"u1": "U8", "<i8": "I64", "<f8": "F64", "<f4": "F32"}
_RAGGED = ("text", "integers", "numbers", "matrix")


class _Column:
    """One tensor on its way into a file: what its rows hold, one after the other in a file of its own."""

    def __init__(self, name: str, path: Path, dtype: str, *, ragged: bool) -> None:
        self.name, self.path, self.dtype, self._ragged = name, path, dtype, ragged
        self._file = path.open("wb")
        self._rows, self._length, self._width = 0, 0, list[int]()

    def add(self, value: Any) -> int:
        """Adds a row and returns its length along the first axis."""
        data = np.asarray(value, dtype=self.dtype)
        self._file.write(np.ascontiguousarray(data).data)
        self._rows += 1
        self._width = list(data.shape[1:] if self._ragged else data.shape)
        size = data.shape[0] if self._ragged else 1
        self._length += size
        return size

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    @property
    def shape(self) -> list[int]:
        """Shape of the tensor."""
        return [self._length, *self._width]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def _write_safetensors(journal: Journal, path: Path, columns: Columns) -> None:
    def column(name: str, dtype: str, *, ragged: bool = False) -> _Column:
        return _Column(name, journal.folder / f"column-{len(parts)}", dtype, ragged=ragged)

    parts: list[_Column] = []
    offsets: dict[str, _Column] = {}
    for name, kind in columns.items():
        parts.append(column(name, _DTYPES[kind], ragged=kind in _RAGGED))
        if kind in _RAGGED:
            offsets[name] = column(f"{name}.offsets", "<i8")
            offsets[name].add(0)
            parts.append(offsets[name])
    totals = dict.fromkeys(offsets, 0)
    values = [part for part in parts if part.name in columns]
    for row in journal.rows():
        for part in values:
            size = part.add(_flat(row[part.name], columns[part.name]))
            if part.name in offsets:
                totals[part.name] += size
                offsets[part.name].add(totals[part.name])
    parts.sort(key=lambda part: -np.dtype(part.dtype).itemsize)  # wide types first keep all of them aligned
    header: dict[str, Any] = {"__metadata__": {"format": "subquad-results"}}
    place = 0
    for part in parts:
        part.close()
        ends = [place, place + part.nbytes]
        header[part.name] = {"dtype": _CODES[part.dtype], "shape": part.shape, "data_offsets": ends}
        place = ends[1]
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            with part.path.open("rb") as data:
                shutil.copyfileobj(data, file)


def _flat(value: Any, kind: ColumnKind) -> Any:
    return np.frombuffer((value or "").encode(), dtype="u1") if kind == "text" else value
