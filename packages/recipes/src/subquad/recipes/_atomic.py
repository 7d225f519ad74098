"""Writes a file completely or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` fill a temporary neighbour of `path`, then puts it in place in one move.

    The neighbour keeps the suffix of `path` and is removed if `write` fails or is interrupted.

    Raises:
      OSError: It cannot be written, for example since the disk is full; what was at `path` is still there.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
