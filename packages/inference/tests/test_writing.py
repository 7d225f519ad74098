"""Tests of refusals to write."""

import errno
import os

import pytest

from subquad.inference.errors import OutputError
from subquad.inference.writing import writing


def write_and_raise(error):
    with writing("out.bin"):
        raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EACCES])
def test_a_refusal_names_the_file_and_the_reason(number):
    with pytest.raises(OutputError, match=f"out.bin cannot be written: {os.strerror(number)}"):
        write_and_raise(OSError(number, os.strerror(number)))


def test_what_numpy_says_of_a_write_that_stopped_is_kept():
    with pytest.raises(OutputError, match=r"out\.bin cannot be written: 24 requested and 10 written"):
        write_and_raise(OSError("24 requested and 10 written"))


def test_the_file_that_is_named_first_stays_named():
    with pytest.raises(OSError, match=r"^out\.bin cannot be written: No space left on device$"), writing("folder"):
        write_and_raise(OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "no"), BrokenPipeError(errno.EPIPE, "gone")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)):
        write_and_raise(error)
