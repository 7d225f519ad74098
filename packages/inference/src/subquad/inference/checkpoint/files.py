"""Directories that appear at once or not at all, and digests of files."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from subquad.inference.errors import CheckpointExists, OutputError
from subquad.inference.unfinished import held, names_stream, remove_left, sync, unfinished_folder
from subquad.inference.writing import writing

_BLOCK = 1 << 22


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_directory(target: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """Gives an empty directory beside ``target`` that takes its place when the block ends without an error.

    An existing ``target`` is replaced only with ``overwrite`` and only if it holds ``marker``; the old one stays
    complete until the new one is, and comes back if the exchange fails.

    Raises:
      CheckpointExists: ``target`` exists and may not be replaced.
    """
    check_new_directory(target, overwrite=overwrite, marker=marker)
    with unfinished_folder(target) as fresh:
        with writing(target):
            yield fresh
            for path in (*fresh.iterdir(), fresh):
                sync(path)
        check_new_directory(target, overwrite=overwrite, marker=marker)
        _exchange(fresh, target)
        sync(target.parent)
        remove_left(target, ".old")


def check_new_file(target: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Checks that a file may be written.

    Raises:
      CheckpointExists: It exists and may not be replaced, is no file, or is the ``source`` that it would be made of.
      OutputError: It would lie in a file, or in a folder that may not be written.
    """
    if target.is_dir():
        raise CheckpointExists(f"{target} is a folder; choose a file")
    if names_stream(target):
        raise CheckpointExists(f"{target} is a device or a pipe, which would be replaced; choose a file")
    if source is not None and target.exists() and source.exists() and target.samefile(source):
        raise CheckpointExists(f"{target} is the source; choose another path")
    _check_place(target)
    if target.exists() and not overwrite:
        raise CheckpointExists(f"{target} exists already; choose another path or allow overwriting (--overwrite)")


def check_new_directory(target: Path, *, overwrite: bool, marker: str) -> None:
    """Checks that a directory may be written.

    Raises:
      CheckpointExists: It exists and may not be replaced, or does not hold ``marker``.
      OutputError: It would lie in a file, or in a folder that may not be written.
    """
    _check_place(target)
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise CheckpointExists(f"{target} exists already; choose another path or allow overwriting (--overwrite)")
    if not (target / marker).is_file():
        raise CheckpointExists(f"{target} exists and is no checkpoint (it has no {marker}); it is not overwritten")


def _check_place(target: Path) -> None:
    """Checks the folder that a target will be in, or the nearest one that is there."""
    place = target.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise OutputError(str(target), f"{place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(str(target), f"{place} may not be written")


def _exchange(fresh: Path, target: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    with ExitStack() as stack:
        with suppress(OSError):  # a file system without locks
            stack.enter_context(held(old))
        kept = old / target.name
        target.rename(kept)
        try:
            fresh.rename(target)
        except BaseException:
            kept.rename(target)
            old.rmdir()
            raise
        shutil.rmtree(old, ignore_errors=True)
