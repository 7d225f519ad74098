"""Windows of a reference FASTA, read by position through its index."""

import os
import tempfile
from pathlib import Path
from typing import Any

from subquad.inference.errors import InputFileError
from subquad.inference.sequence_files import read_once_only


class ReferenceGenome:
    """A FASTA file that gives any stretch of any contig without reading the rest.

    The index ``PATH.fai`` is used where it is there and as new as the file; else it is made, beside the file or, in a
    folder that cannot be written, in a temporary one.

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
        if not (index.exists() or os.access(index.parent, os.W_OK)):
            self._temporary = tempfile.TemporaryDirectory(prefix="subquad-")
            index = Path(self._temporary.name, index.name)
        try:
            self._fasta: Any = Fasta(str(path), as_raw=True, indexname=str(index), read_ahead=1 << 16)
        except (FastaIndexingError, ValueError, OSError) as error:
            raise InputFileError(str(path), f"cannot be indexed: {error}") from None

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
