"""Files and folders that have a name of their own until they are complete; those of killed processes are removed."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from subquad.inference.writing import writing

LONGEST_NAME = 255 - len(".") - len(".abcdefgh.partial")  # bytes of a name that leaves room for one of these
_RANDOM = r"[a-z0-9_]{8}"  # what tempfile puts between prefix and suffix


@contextmanager
def unfinished_file(target: Path) -> Iterator[Path]:
    """Gives an empty file ``.NAME.….partial`` beside ``target`` and removes it at the end, if it still has that name.

    It is locked (``flock``) meanwhile, so that another process knows that it is in use; files of the same kind that
    nobody holds are left from processes that were killed, and are removed first.

    Args:
      target: What it will become, or what it is called after.

    Raises:
      OutputError: The folder may not be written, or the disk is full.
    """
    with _unfinished(target, folder=False) as path:
        yield path


@contextmanager
def unfinished_folder(target: Path) -> Iterator[Path]:
    """Gives an empty folder; see `unfinished_file`."""
    with _unfinished(target, folder=True) as path:
        yield path


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """Gives a file beside ``target`` that takes its place when the block ends without an error."""
    with unfinished_file(target) as partial, writing(target):
        yield partial
        sync(partial)
        partial.replace(target)


def remove_left(target: Path, suffix: str) -> None:
    """Removes the files and folders ``.NAME.…SUFFIX`` beside ``target`` that no process holds any more."""
    pattern = re.compile(re.escape(f".{target.name}.") + _RANDOM + re.escape(suffix))
    for path in target.absolute().parent.iterdir():
        if pattern.fullmatch(path.name) and not path.is_symlink():
            with suppress(OSError), held(path):  # in use, not ours, or gone
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Locks a file or folder as long as the block runs.

    Raises:
      OSError: Another process holds it, it cannot be opened, or the file system has no locks.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def names_stream(path: Path) -> bool:
    """Says whether a path is a device or a pipe, or stands for an open file as ``/dev/stdout`` does.

    What is put in such a place would replace its name and not arrive where it leads to.
    """
    place = os.path.realpath(path.absolute().parent)
    return place == "/dev" or place.startswith("/proc/") or (path.exists() and not (path.is_file() or path.is_dir()))


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _unfinished(target: Path, *, folder: bool) -> Iterator[Path]:
    place = target.absolute().parent
    with writing(target):
        place.mkdir(parents=True, exist_ok=True)
        remove_left(target, ".partial")
        handle, fresh = _locked(place, f".{target.name}.", folder=folder)
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True) if folder else fresh.unlink(missing_ok=True)
        os.close(handle)


def _locked(place: Path, prefix: str, *, folder: bool) -> tuple[int, Path]:
    """Makes a file or folder that has its name ``….partial`` only when it is locked."""
    if folder:
        made = tempfile.mkdtemp(prefix=prefix, suffix=".new", dir=place)
        handle = os.open(made, os.O_RDONLY)
    else:
        handle, made = tempfile.mkstemp(prefix=prefix, suffix=".new", dir=place)
    Path(made).chmod((0o777 if folder else 0o666) & ~_umask())
    with suppress(OSError):  # on a file system without locks none can be taken for left over either
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle, Path(made).rename(made.removesuffix(".new") + ".partial")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
