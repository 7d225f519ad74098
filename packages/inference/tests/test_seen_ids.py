"""Tests of the ids that were read."""

import tracemalloc
from collections import deque
from contextlib import closing

import pytest

from subquad.inference.commands.batches import Reading
from subquad.inference.errors import InputFileError
from subquad.inference.seen_ids import SeenIds
from subquad.inference.sequence_files import Record


def test_an_id_is_known_by_the_line_that_it_came_on_first():
    with closing(SeenIds()) as seen:
        assert [seen.add(name, line) for line, name in enumerate(["a", "b", "é", "a", "A", "b"], start=1)] == [
            1,
            2,
            3,
            1,
            5,
            2,
        ]


def test_ids_of_a_stream_take_no_memory_and_the_last_is_still_compared_with_the_first():
    def records(count):
        for number in range(count):
            yield Record(f"a name of some length {number}", "ACGT", number + 1)
        yield Record("a name of some length 0", "ACGT", count + 1)

    reading, consumed = Reading("standard input", "error"), deque(maxlen=1)
    tracemalloc.start()
    with pytest.raises(InputFileError, match=r"line 50001: record 'a name of some length 0' has the id of .* line 1;"):
        consumed.extend(reading.unrepeated(records(50_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert consumed[0].line == 50_000
    assert peak < 500_000, "a dictionary of the ids would take five megabytes"
