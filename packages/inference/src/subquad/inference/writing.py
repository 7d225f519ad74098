"""Refusals of the operating system to write, as errors that name the file."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from subquad.inference.errors import OutputError

_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EIO}
_REFUSALS |= {errno.ENAMETOOLONG, errno.EBADF}


@contextmanager
def writing(where: object) -> Iterator[None]:
    """Names what could not be written.

    Args:
      where: The file or folder.

    Raises:
      OutputError: The disk is full, a limit is reached, or writing is not allowed.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno is not None and error.errno not in _REFUSALS:
            raise
        raise OutputError(str(where), error.strerror or str(error)) from error  # numpy says how much it wrote instead
