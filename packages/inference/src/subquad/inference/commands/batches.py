"""Records in groups, after the policy on their characters and without those that an earlier run has done."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from subquad.inference.errors import InputFileError, RequestTooLarge
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
    """

    where: str
    policy: NonDNA
    uppercase: bool = False
    tags: bool = False
    prefix: str = ""

    def chosen(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yields the records that the policy lets through, as they will be read.

        Raises:
          InputFileError: A character is refused.
        """
        for record in records:
            kept = dna_only(record, self.policy, self.where, allow_tags=self.tags)
            if kept is not None:
                text = kept.sequence.upper() if self.uppercase else kept.sequence
                yield dataclasses.replace(kept, sequence=self.prefix + text)


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


def survey(records: Iterable[Record], reading: Reading, *, limit: int, room: int = 0) -> Survey:
    """Reads a whole input once, so that everything wrong with it shows before any work starts.

    Args:
      records: The records.
      reading: How they are read.
      limit: Tokens that the network takes.
      room: Tokens that come on top of each record.

    Raises:
      InputFileError: The file is damaged, or a character is refused.
      RequestTooLarge: A record is too long; names both numbers.
    """
    count, tokens, longest, name = 0, 0, 0, reading.where
    for record in reading.chosen(records):
        size = len(record.sequence)
        if size + room > limit:
            raise RequestTooLarge(f"{reading.where}: record {record.id!r}", size, limit - room, "tokens")
        count, tokens = count + 1, tokens + size
        if size > longest:
            longest, name = size, f"{reading.where}: record {record.id!r}"
    return Survey(count, tokens, longest, name)


def remaining(
    records: Iterable[Record], kept: Iterable[str], where: str, skipped: Callable[[Record], None]
) -> Iterator[Record]:
    """Yields the records that an earlier run did not do.

    Args:
      records: What the input holds now.
      kept: Ids of the results of the earlier run, which are the first ones.
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
        elif earlier == record.id:
            skipped(record)
        else:
            problem = f"record {record.id!r} comes where the results to resume have {earlier!r}; the input has changed"
            raise InputFileError(where, problem, line=record.line)
    if (left := next(done, None)) is not None:
        raise InputFileError(where, f"ends before record {left!r} of the results to resume; the input has changed")


def groups(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """Yields lists of up to ``size`` records."""
    group: list[Record] = []
    for record in records:
        group.append(record)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
