"""Records in groups, after the policy on their characters and without those that an earlier run has done."""

from collections.abc import Iterable, Iterator

from subquad.inference.errors import InputFileError
from subquad.inference.sequence_files import NonDNA, Record, dna_only


def wanted_records(
    records: Iterable[Record], *, policy: NonDNA, uppercase: bool, kept: list[str], where: str
) -> Iterator[Record]:
    """Yields the records that remain to be done.

    Args:
      records: What was read.
      policy: See `dna_only`.
      uppercase: Change letters to upper case.
      kept: Ids of the results of an earlier run, which are the first ones.
      where: Name of the input, for errors.

    Raises:
      InputFileError: A character is refused, or the earlier run had another input.
    """
    done = iter(kept)
    for record in records:
        chosen = dna_only(record, policy, where)
        if chosen is None:
            continue
        earlier = next(done, None)
        if earlier is None:
            yield Record(chosen.id, chosen.sequence.upper() if uppercase else chosen.sequence, chosen.line)
        elif earlier != chosen.id:
            problem = f"record {chosen.id!r} comes where the results to resume have {earlier!r}; the input has changed"
            raise InputFileError(where, problem, line=chosen.line)


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
