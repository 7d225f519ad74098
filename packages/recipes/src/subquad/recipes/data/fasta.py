"""Reads FASTA, plain or gzip, record by record: titles in UTF-8, bases as uint8 arrays of ASCII codes."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

from subquad.recipes.errors import (
    BadCharacterError,
    EmptyFastaError,
    FastaError,
    MissingFileError,
    NonAsciiError,
    NonUtf8Error,
    NotFastaError,
    TruncatedGzipError,
)

IUPAC_DNA = "ACGTRYSWKMBDHVN"
"""The letters accepted in a sequence line by default, in either case."""

_COMPLEMENT = np.arange(256, dtype=np.uint8)
for _from, _to in zip("ACGTRYKMBDHVacgtrykmbdhv", "TGCAYRMKVHDBtgcayrmkvhdb", strict=True):
    _COMPLEMENT[ord(_from)] = ord(_to)


class Record(NamedTuple):
    """One FASTA record: the first word of its title line, the rest of it, and its bases as uint8 ASCII codes."""

    name: str
    description: str
    sequence: np.ndarray


def read_fasta(path: str | Path, *, accepted: str = IUPAC_DNA, upper: bool = True) -> list[Record]:
    """Reads every record of a FASTA file.

    Args:
      path: A FASTA file; gzip (bgzip too) is recognised by its first two bytes, not by its name.
      accepted: The letters that a sequence line may hold, compared without case.
      upper: Whether the bases are converted to upper case (lower case marks repeats).

    Raises:
      MissingFileError: There is no such file.
      FastaError: Its subclasses say what is wrong and on which line: an empty file or record, no `>` at the
        start, a title that is not UTF-8, a base that is not ASCII, a damaged gzip stream, a character outside
        `accepted`.
    """
    return list(iterate_fasta(path, accepted=accepted, upper=upper))


def iterate_fasta(path: str | Path, *, accepted: str = IUPAC_DNA, upper: bool = True) -> Iterator[Record]:
    """Yields the records of a FASTA file one by one; see `read_fasta`.

    Raises:
      FastaError: The file is missing or no FASTA with accepted letters; the subclass and the text say which.
    """
    path = Path(path)
    allowed = (accepted.upper() + accepted.lower()).encode("ascii")
    title: str | None = None
    pieces: list[bytes] = []
    start = 0
    for number, line in _lines(path):
        if line.startswith(b">"):
            if title is not None:
                yield _record(path, start, title, pieces, upper)
            title, pieces, start = _title(path, number, line), [], number
        elif title is None:
            raise NotFastaError(path, number, f"not FASTA: the first line is {_shown(line)}, accepted is a '>' line")
        else:
            unknown = line.translate(None, allowed)
            if not unknown.isascii():
                byte = next(b for b in unknown if b > 127)
                raise NonAsciiError(path, number, f"byte 0x{byte:02x} is not ASCII; accepted are bases in plain ASCII")
            if unknown:
                letters = "".join(sorted(set(accepted.upper())))
                raise BadCharacterError(path, number, chr(unknown[0]), f"{letters} in either case")
            pieces.append(line)
    if title is None:
        raise EmptyFastaError(path, None, "the file is empty; accepted is FASTA with at least one record")
    yield _record(path, start, title, pieces, upper)


def reverse_complement(sequence: np.ndarray) -> np.ndarray:
    """Returns the other strand, read from its own start: `result[i] = complement(sequence[-1 - i])`.

    Args:
      sequence: uint8 ASCII codes `[length]`; IUPAC letters are complemented in their case, other bytes kept.
    """
    return _COMPLEMENT[sequence[::-1]]


def _record(path: Path, line: int, title: str, pieces: list[bytes], upper: bool) -> Record:
    if not pieces:
        raise EmptyFastaError(path, line, f"record {title!r} has no sequence; accepted is at least one base")
    bases = b"".join(pieces)
    name, _, description = title.partition(" ")
    return Record(name, description.strip(), np.frombuffer(bases.upper() if upper else bases, dtype=np.uint8).copy())


def _title(path: Path, number: int, line: bytes) -> str:
    try:
        return line[1:].decode("utf-8").strip()
    except UnicodeDecodeError as error:
        byte, column = line[1 + error.start], 2 + error.start
        message = f"byte 0x{byte:02x} at column {column} is not UTF-8; accepted is a title in UTF-8"
        raise NonUtf8Error(path, number, message) from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the non-blank lines of a plain or gzip file with their numbers, without a byte order mark before them."""
    number = 0
    try:
        with _open(path) as stream:
            for number, raw in enumerate(stream, start=1):
                line = (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).strip()
                if line:
                    yield number, line
    except FileNotFoundError:
        raise MissingFileError(path, what="FASTA file") from None
    except IsADirectoryError:
        raise NotFastaError(path, None, "is a folder; accepted is a FASTA file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        message = f"the gzip stream is truncated or damaged ({error}); accepted is a complete gzip file"
        raise TruncatedGzipError(path, number + 1, message) from None
    except OSError as error:
        raise FastaError(path, None, f"cannot be read: {error.strerror}") from None


def _open(path: Path) -> BufferedReader | gzip.GzipFile:
    stream = path.open("rb")
    if stream.peek(2)[:2] != b"\x1f\x8b":
        return stream
    stream.close()
    return gzip.GzipFile(path, "rb")


def _shown(line: bytes) -> str:
    text = line[:40].decode("utf-8", errors="replace")
    return repr(text + ("…" if len(line) > 40 else ""))
