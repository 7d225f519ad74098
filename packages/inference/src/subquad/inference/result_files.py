"""Where the results of a job go: a file that takes its name when it is complete, or the standard output."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from subquad.inference.errors import InvalidOption, OutputError
from subquad.inference.result_formats import Columns, ResultFormat, format_of, json_pieces, write_results
from subquad.inference.result_journal import Journal, held_folder, holds_rows
from subquad.inference.unfinished import LONGEST_NAME, names_stream
from subquad.inference.writing import writing


class Results(Protocol):
    """Where results go."""

    @property
    def kept(self) -> int:
        """Number of results that an earlier run left; the caller does not compute them again."""
        ...

    def kept_rows(self) -> Iterator[tuple[str, bytes]]:
        """Yields their ids, in order, with the digests of what they came of; see `digest_of`."""
        ...

    def write(self, row: Mapping[str, Any], *, read: str = "") -> None:
        """Adds one result, which has an ``id``; ``read`` is the text that it is the result of."""
        ...


class _StandardOutput:
    kept = 0

    def kept_rows(self) -> Iterator[tuple[str, bytes]]:
        return iter(())

    def write(self, row: Mapping[str, Any], *, read: str = "") -> None:
        with writing("the standard output"):
            sys.stdout.writelines(json_pieces(row))
            sys.stdout.flush()


@contextmanager
def opened_results(
    path: Path | None,
    *,
    columns: Columns,
    settings: Mapping[str, Any] | None = None,
    file_format: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
    multiple: int = 1,
    inputs: Sequence[Path] = (),
    flag: str = "--output",
    way_on: str = "--resume goes on from there",
) -> Iterator[Results]:
    """Gives a place for results: standard output for None, else a file that takes its name at the end.

    Until then rows are in the folder ``PATH.partial``, which stays when an error ends the work; with ``resume`` the
    next run keeps its complete rows and goes on. Without any row nothing is left behind.

    Args:
      path: The file, or None.
      columns: Kind of each field of a row.
      settings: What the results depend on; a run that resumes must have the same.
      file_format: ``"jsonl"``, ``"parquet"``, ``"safetensors"``, or ``"auto"`` to go by the name.
      overwrite: Replace an existing file, and drop the rows of an interrupted run.
      resume: Go on from an interrupted run.
      multiple: See `Journal`.
      inputs: Files that the work reads, and which the output therefore must not be.
      flag: What errors call the path.
      way_on: What a user is told to do with the results of a run that failed.

    Raises:
      InvalidOption: The file exists and may not be replaced, or the format, the folder or the settings do not fit.
      InputFileError: The partial folder is damaged, or is no folder of results.
      OutputError: Writing is not allowed, or the disk is full.
    """
    if path is None:
        if resume:
            raise InvalidOption("--resume", True, "only together with --output")
        if overwrite:
            raise InvalidOption("--overwrite", True, "only together with --output")
        if file_format not in ("auto", "jsonl"):
            raise InvalidOption("--output-format", file_format, "jsonl without --output")
        yield _StandardOutput()
        return
    chosen = format_of(path, file_format)
    check_output(path, overwrite=overwrite, inputs=inputs, flag=flag)
    folder = path.with_name(path.name + ".partial")
    with held_folder(folder, flag):
        if not (resume or overwrite) and holds_rows(folder):
            accepted = f"--resume to go on from the results of an earlier run in {folder}, or --overwrite to drop them"
            raise InvalidOption(flag, str(path), accepted)
        with _journal(folder, settings or {}, resume=resume, multiple=multiple, way_on=way_on) as journal:
            yield journal
            journal.close()
            _complete(journal, path, columns, chosen)


@contextmanager
def _journal(
    folder: Path, settings: Mapping[str, Any], *, resume: bool, multiple: int, way_on: str
) -> Iterator[Journal]:
    """Gives a journal, which stays when an error ends the work and there are results in it."""
    journal = Journal(folder, settings, resume=resume, multiple=multiple)
    try:
        yield journal
    except BaseException:
        with suppress(OutputError):  # of which the error on its way tells already
            journal.close()
        if journal.count:
            print(f"{journal.count} results are kept in {folder}; {way_on}", file=sys.stderr)
        else:
            journal.remove()
        raise


def check_output(path: Path, *, overwrite: bool, inputs: Sequence[Path] = (), flag: str = "--output") -> None:
    """Checks that a file may be written, before anything is computed for it.

    Raises:
      InvalidOption: It exists and may not be replaced, is no file or an input, or its folder is missing or cannot be
        written.
    """
    if str(path) == "-":
        raise InvalidOption(flag, "-", "the name of a file, or no such flag for the standard output")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise InvalidOption(flag, str(path), f"a name of at most {LONGEST_NAME} bytes")
    if path.is_dir():
        raise InvalidOption(flag, str(path), "a file; this is a folder")
    if names_stream(path):
        raise InvalidOption(flag, str(path), "a file; this is a device or a pipe, which would be replaced")
    if any(_same(path, other) for other in inputs):
        raise InvalidOption(flag, str(path), "another file than the input")
    if path.exists() and not overwrite:
        raise InvalidOption(flag, str(path), "a file that does not exist yet, or --overwrite")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InvalidOption(flag, str(path), "a file in a folder that exists")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidOption(flag, str(path), "a file in a folder that may be written")


def _same(path: Path, other: Path) -> bool:
    """Says whether two paths name one file, which need not be there yet."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return os.path.realpath(path) == os.path.realpath(other)


def _complete(journal: Journal, path: Path, columns: Columns, chosen: ResultFormat) -> None:
    whole = journal.folder / "complete"
    with writing(path):
        write_results(journal, whole, columns, chosen)
        os.replace(whole, path)
    journal.remove()
