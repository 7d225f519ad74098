"""Windows of a reference FASTA, read by position through its index."""

import os
import tempfile
from pathlib import Path
from typing import Any

from subquad.inference.errors import InputFileError
from subquad.inference.sequence_files import read_once_only
from subquad.inference.unfinished import unfinished_folder

_MOST_BLANK = 1 << 16


class ReferenceGenome:
    """A FASTA file that gives any stretch of any contig without reading the rest.

    The index ``PATH.fai`` is used where it is there, as new as the file and describes all of it; else it is made, at
    once or not at all, beside the file or, in a folder that cannot be written, in a temporary one.

    Args:
      path: The file; plain text, not compressed.

    Raises:
      InputFileError: The file is missing, a pipe, compressed, no FASTA, or names a contig twice.
    """

    def __init__(self, path: str | Path) -> None:
        from pyfaidx import Fasta, FastaIndexingError

        self.path = Path(path)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if read_once_only(path):
            raise InputFileError(str(path), "is no file but a pipe, and positions in it cannot be found")
        try:
            with self.path.open("rb") as file:
                start = file.read(2)
        except OSError as error:
            raise InputFileError(str(path), f"cannot be opened: {error.strerror}") from None
        if start == b"\x1f\x8b":
            raise InputFileError(str(path), "is compressed, and positions in it cannot be found; unpack it first")
        if not start:
            raise InputFileError(str(path), "the file is empty; accepted: FASTA, not compressed")
        if start[:1] != b">":
            raise InputFileError(str(path), f"FASTA begins with '>', this file with {start[:1]!r}")
        index = Path(f"{path}.fai")
        try:
            if not _describes(index, self.path):
                index = self._indexed(index)
            self._fasta: Any = Fasta(str(path), as_raw=True, indexname=str(index), read_ahead=1 << 16)
        except RuntimeError:
            problem = "its lines are not of one length; accepted: such lines, with blank ones nowhere"
            raise InputFileError(str(path), f"cannot be indexed: {problem}") from None
        except (FastaIndexingError, ValueError, OSError) as error:
            raise InputFileError(str(path), f"cannot be indexed: {error}") from None

    def _indexed(self, index: Path) -> Path:
        """Makes the index and returns where it is."""
        from pyfaidx import Faidx

        if not os.access(index.absolute().parent, os.W_OK):
            self._temporary = tempfile.TemporaryDirectory(prefix="subquad-")
            return Path(self._temporary.name, index.name)  # pyfaidx makes what is not there
        with unfinished_folder(index) as folder:
            made = folder / index.name
            Faidx(str(self.path), indexname=str(made)).close()
            newest = max(self.path.stat().st_mtime, made.stat().st_mtime)
            os.utime(made, (newest, newest))
            os.replace(made, index)
        return index

    @property
    def contigs(self) -> list[str]:
        """Names of the contigs, in order."""
        return list(self._fasta.keys())

    def length(self, contig: str) -> int | None:
        """Returns the bases of a contig, None where there is no such contig."""
        return len(self._fasta[contig]) if contig in self._fasta else None

    def bases(self, contig: str, start: int, stop: int) -> str:
        """Returns the bases ``start`` to ``stop - 1``, counted from 0; both lie inside the contig."""
        return str(self._fasta[contig][start:stop]) if start < stop else ""

    def close(self) -> None:
        """Closes the file."""
        self._fasta.close()
        if self._temporary is not None:
            self._temporary.cleanup()


def _describes(index: Path, genome: Path) -> bool:
    """Says whether an index is as new as a genome and its last contig ends where the genome does.

    Source of the format (name, bases, first byte, bases and bytes of a line): http://www.htslib.org/doc/faidx.html.
    """
    try:
        if index.stat().st_mtime < genome.stat().st_mtime:
            return False
        end = 0
        for line in index.read_text(encoding="utf-8").splitlines():
            _, bases, start, line_bases, line_bytes = line.split("\t")
            rows, rest = divmod(int(bases), max(1, int(line_bases)))
            end = max(end, int(start) + rows * int(line_bytes) + rest)
        with genome.open("rb") as file:
            file.seek(end)
            return end <= genome.stat().st_size + 2 and not file.read(_MOST_BLANK).strip()
    except (OSError, ValueError):
        return False
