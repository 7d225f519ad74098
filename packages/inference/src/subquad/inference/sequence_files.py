"""Reads prompts and sequences from FASTA, JSON lines or plain text, gzip or not, one record at a time."""

import codecs
import dataclasses
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from subquad.inference.errors import InputFileError, InvalidOption
from subquad.inference.lineage_tags import without_tags

FileFormat = Literal["auto", "fasta", "jsonl", "plain"]
NonDNA = Literal["error", "mask", "skip", "keep"]
_OTHER_THAN_DNA = re.compile(r"[^ACGTNacgtn]")
_ACCEPTED = {
    "auto": "FASTA, which begins with '>'; JSON lines, which begin with '{'; "
    "or one sequence a line in a file named .txt or .txt.gz or with --format plain",
    "fasta": "FASTA, which begins with '>'",
    "jsonl": "JSON lines, which begin with '{'",
    "plain": "one sequence a line",
}


@dataclass(frozen=True)
class Record:
    """One sequence or prompt of a file.

    Attributes:
      id: The first word of a FASTA header, the ``id`` of a JSON line, else the number of the record from 0.
      sequence: Its text.
      line: The line of the file that it begins on, from 1.
    """

    id: str
    sequence: str
    line: int


def input_name(path: str | Path) -> str:
    """Returns what errors call an input: its path, or ``standard input`` for ``-``."""
    return "standard input" if str(path) == "-" else str(path)


def read_once_only(path: str | Path) -> bool:
    """Says whether an input can be read only once: the standard input, or a pipe."""
    return str(path) == "-" or (Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir())


def read_records(path: str | Path, *, file_format: FileFormat = "auto") -> Iterator[Record]:
    """Yields the records of a file; ``-`` is the standard input. Compression and format show in the first bytes.

    Args:
      path: The file.
      file_format: ``"fasta"``; ``"jsonl"``, objects with ``sequence`` or ``prompt`` and an optional ``id``;
        ``"plain"``, one sequence a line; or ``"auto"``, which takes a file for plain only by the name ``.txt`` or
        ``.txt.gz``, since any text would pass for it.

    Raises:
      InputFileError: The file is missing, empty, truncated, not UTF-8, of none of these formats or not of its own;
        names the line.
    """
    name = input_name(path)
    if file_format not in _ACCEPTED:
        raise InvalidOption("file_format", file_format, "'auto', 'fasta', 'jsonl' or 'plain'")
    lines = ((number, line.strip()) for number, line in read_lines(path))
    number, first = next(lines, (0, ""))
    if not number:
        raise InputFileError(name, f"the file is empty; accepted: {_ACCEPTED[file_format]}")
    chosen = _format_of(first, number, name) if file_format == "auto" else file_format
    reader = {"fasta": _fasta, "jsonl": _jsonl, "plain": _plain}[chosen]
    yield from reader(_chained(number, first, lines), name)


def _format_of(first: str, number: int, name: str) -> FileFormat:
    """Tells the format of a file by its first line and its name."""
    if first[0] in ">;":
        return "fasta"
    if first[0] == "{":
        return "jsonl"
    if name.lower().removesuffix(".gz").endswith(".txt"):
        return "plain"
    found = first[:20] + ("…" if len(first) > 20 else "")
    raise InputFileError(name, f"begins with {found!r}; accepted: {_ACCEPTED['auto']}", line=number)


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yields number, from 1, and text of the lines of a file that are not blank; ``-`` is the standard input.

    What ends a line is no part of it; other space is.

    Raises:
      InputFileError: The file is missing, truncated or not UTF-8.
    """
    name = input_name(path)
    with _opened(path, name) as stream:
        yield from _lines(stream, name)


def dna_only(record: Record, policy: NonDNA, where: str, *, allow_tags: bool = False) -> Record | None:
    """Applies a policy on characters other than ``ACGTN`` (either case): refuse, replace by ``N``, drop or keep.

    Args:
      record: The record.
      policy: The policy.
      where: Name of the input, for errors.
      allow_tags: Leave phylogenetic tags ``|…|`` alone.

    Returns:
      The record, changed or not; None where it is to be skipped.

    Raises:
      InputFileError: The policy is ``"error"`` and there is such a character, or one stays, kept or in a tag, that is
        no byte of ASCII, so that there is no token for it.
    """
    checked = without_tags(record.sequence) if allow_tags else record.sequence
    found = [] if policy == "keep" else [match.start() for match in _OTHER_THAN_DNA.finditer(checked)]
    if found and policy == "skip":
        return None
    if found and policy == "error":
        raise _character_error(record, found[0], where, "A C G T N of either case, or --non-dna mask, skip or keep")
    if found:
        masked = list(record.sequence)
        for position in found:
            masked[position] = "N"
        record = dataclasses.replace(record, sequence="".join(masked))
    if not record.sequence.isascii():  # of a tag, or kept
        position = next(i for i, character in enumerate(record.sequence) if not character.isascii())
        raise _character_error(record, position, where, "ASCII, one byte a token")
    return record


def _character_error(record: Record, position: int, where: str, accepted: str) -> InputFileError:
    found = f"record {record.id!r} has the character {record.sequence[position]!r} at position {position}"
    return InputFileError(where, f"{found}; accepted: {accepted}", line=record.line)


@contextmanager
def _opened(path: str | Path, name: str) -> Iterator[io.BufferedIOBase]:
    if str(path) == "-":
        yield _decompressed(cast(io.BufferedIOBase, sys.stdin.buffer), name)
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputFileError(name, f"cannot be opened: {error.strerror}") from None
    with file:
        yield _decompressed(file, name)


def _decompressed(file: io.BufferedIOBase, name: str) -> io.BufferedIOBase:
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file))
    try:
        start = buffered.peek(2)[:2]
    except OSError as error:
        raise InputFileError(name, f"cannot be read: {error.strerror or error}") from None
    return gzip.GzipFile(fileobj=buffered) if start == b"\x1f\x8b" else buffered


def _lines(stream: io.BufferedIOBase, name: str) -> Iterator[tuple[int, str]]:
    """Yields number and text of the lines that are not blank."""
    number = 0
    try:
        for number, raw in enumerate(stream, start=1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputFileError(
                    name,
                    f"the byte 0x{raw[error.start]:02x} at column {error.start} is no UTF-8 text, gzip or not",
                    line=number,
                ) from None
            if line.strip():
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputFileError(name, f"the gzip data is truncated or damaged ({error})", line=number + 1) from None
    except OSError as error:
        raise InputFileError(name, f"cannot be read: {error.strerror or error}", line=number + 1) from None


def _chained(number: int, first: str, rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield number, first
    yield from rest


def _fasta(lines: Iterator[tuple[int, str]], name: str) -> Iterator[Record]:
    record_id, start, parts = None, 0, []
    for number, line in lines:
        if line[0] == ";":
            continue
        if line[0] != ">":
            if record_id is None:
                raise InputFileError(name, f"FASTA begins with '>', this line with {line[:20]!r}", line=number)
            parts.append(line)
            continue
        if record_id is not None:
            yield _fasta_record(record_id, parts, start, name)
        words = line[1:].split()
        if not words:
            raise InputFileError(name, "the header has no name after '>'", line=number)
        record_id, start, parts = words[0], number, []
    if record_id is None:
        raise InputFileError(name, "the file holds no FASTA record")
    yield _fasta_record(record_id, parts, start, name)


def _fasta_record(record_id: str, parts: list[str], line: int, name: str) -> Record:
    if not parts:
        raise InputFileError(name, f"record {record_id!r} has no sequence", line=line)
    return Record(record_id, "".join(parts), line)


def _jsonl(lines: Iterator[tuple[int, str]], name: str) -> Iterator[Record]:
    for index, (number, line) in enumerate(lines):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputFileError(name, f"not JSON: {error.msg} at column {error.colno}", line=number) from None
        except (RecursionError, ValueError) as error:  # brackets without end, numbers of thousands of digits
            raise InputFileError(name, f"not JSON of a sequence: {str(error)[:60]}", line=number) from None
        sequence = value.get("sequence", value.get("prompt")) if isinstance(value, dict) else None
        if not isinstance(sequence, str) or not sequence:
            raise InputFileError(name, "needs an object with a text, not empty, named sequence or prompt", line=number)
        record_id = value.get("id", index)
        if not isinstance(record_id, str | int) or isinstance(record_id, bool):
            raise InputFileError(name, f"id is {record_id!r}; accepted: a text or an integer", line=number)
        if any("\ud800" <= character <= "\udfff" for character in str(record_id)):
            raise InputFileError(name, f"id is {record_id!r}, which is no Unicode text", line=number)
        yield Record(str(record_id), sequence, number)


def _plain(lines: Iterator[tuple[int, str]], name: str) -> Iterator[Record]:
    for index, (number, line) in enumerate(lines):
        yield Record(str(index), line, number)
