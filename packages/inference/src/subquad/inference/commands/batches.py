"""Records in groups, after the policy on their characters and without those that an earlier run has done."""

import dataclasses
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from subquad.inference.errors import InputFileError, RequestTooLarge
from subquad.inference.lineage_tags import upper_bases
from subquad.inference.result_journal import digest_of
from subquad.inference.seen_ids import SeenIds
from subquad.inference.sequence_files import NonDNA, Record, dna_only


@dataclass(frozen=True)
class Reading:
    """How the records of one input are read.

    Attributes:
      where: Name of the input, for errors.
      policy: See `dna_only`.
      uppercase: Change letters to upper case.
      tags: Whether phylogenetic tags are allowed.
      prefix: A text in front of every sequence.
      repeats: Whether several records may have one id.
    """

    where: str
    policy: NonDNA
    uppercase: bool = False
    tags: bool = False
    prefix: str = ""
    repeats: bool = False

    def chosen(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yields the records that the policy lets through, as they will be read.

        Raises:
          InputFileError: A character is refused.
        """
        for record in records:
            kept = dna_only(record, self.policy, self.where, allow_tags=self.tags)
            if kept is not None:
                text = upper_bases(kept.sequence) if self.uppercase else kept.sequence
                yield dataclasses.replace(kept, sequence=self.prefix + text)

    def unrepeated(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yields records until one has the id of an earlier one, which is an error unless ids may repeat.

        The ids are on disk, see `SeenIds`, so memory does not grow with them.

        Raises:
          InputFileError: An id comes twice, since nothing else tells whose a result is; names both lines.
          OutputError: There is no room on disk for the ids.
        """
        if self.repeats:
            yield from records
            return
        with closing(SeenIds()) as seen:
            for record in records:
                if (first := seen.add(record.id, record.line)) != record.line:
                    problem = f"record {record.id!r} has the id of the one on line {first}; give each its own"
                    raise InputFileError(self.where, problem, line=record.line)
                yield record


@dataclass(frozen=True)
class Survey:
    """What a first pass over an input found.

    Attributes:
      records: How many records will be read.
      tokens: How many tokens they have.
      longest: Tokens of the longest one.
      name: What an error calls the longest one.
    """

    records: int
    tokens: int
    longest: int
    name: str


def survey(
    open_records: Callable[[], Iterable[Record]],
    reading: Reading,
    *,
    limit: int,
    room: int = 0,
    check: Callable[[Record], None] | None = None,
) -> Survey:
    """Reads a whole input once, so that everything wrong with it shows before any work starts.

    Takes eight bytes a record: digests of the ids. Where two are equal the input is read once more to compare the ids.

    Args:
      open_records: Gives the records, from the first one on each time.
      reading: How they are read.
      limit: Tokens that the network takes.
      room: Tokens that come on top of each record.
      check: Refuses a record by an error of its own.

    Raises:
      InputFileError: The file is damaged, a character is refused, or two records have one id.
      RequestTooLarge: A record is too long; names both numbers.
    """
    tokens, longest, name, digests = 0, 0, reading.where, array("q")
    for record in reading.chosen(open_records()):
        size = len(record.sequence)
        if size + room > limit:
            raise RequestTooLarge(f"{reading.where}: record {record.id!r}", size, limit - room, "tokens")
        if check is not None:
            check(record)
        digests.append(hash(record.id))
        tokens += size
        if size > longest:
            longest, name = size, f"{reading.where}: record {record.id!r}"
    if not reading.repeats and len(np.unique(np.frombuffer(digests, dtype=np.int64))) < len(digests):
        for _ in reading.unrepeated(reading.chosen(open_records())):
            pass
    return Survey(len(digests), tokens, longest, name)


def remaining(
    records: Iterable[Record], kept: Iterable[tuple[str, bytes]], where: str, skipped: Callable[[Record], None]
) -> Iterator[Record]:
    """Yields the records that an earlier run did not do.

    Args:
      records: What the input holds now.
      kept: Ids of the results of the earlier run, which are the first ones, and digests of the sequences.
      where: Name of the input, for errors.
      skipped: Told each record that is done.

    Raises:
      InputFileError: The earlier run had another input.
    """
    done = iter(kept)
    for record in records:
        earlier = next(done, None)
        if earlier is None:
            yield record
        elif earlier == (record.id, digest_of(record.sequence)):
            skipped(record)
        elif earlier[0] == record.id:
            problem = f"record {record.id!r} has another sequence than in the job to resume; the input has changed"
            raise InputFileError(where, problem, line=record.line)
        else:
            found = f"record {record.id!r} comes where the results to resume have {earlier[0]!r}"
            raise InputFileError(where, f"{found}; the input has changed", line=record.line)
    if (left := next(done, None)) is not None:
        raise InputFileError(where, f"ends before record {left[0]!r} of the results to resume; the input has changed")


def groups(records: Iterable[Record], size: int, tokens: int | None = None) -> Iterator[list[Record]]:
    """Yields lists of up to ``size`` records, shorter ones where they hold so many tokens.

    Where the input fails, the records before come first, so that their results are kept.
    """
    group: list[Record] = []
    held = 0
    try:
        for record in records:
            group.append(record)
            held += len(record.sequence)
            if len(group) == size or (tokens is not None and held >= tokens):
                yield group
                group, held = [], 0
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group
