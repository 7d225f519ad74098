"""Splits sequences into a training and a held-out part that share no base."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from subquad.recipes.errors import SettingError, SplitError


class Span(NamedTuple):
    """A held-out stretch: bases `start` to `stop` (exclusive) of document number `document`."""

    document: int
    start: int
    stop: int


class Split(NamedTuple):
    """Training documents, held-out documents, and where the held-out ones were cut from."""

    training: list[np.ndarray]
    held_out: list[np.ndarray]
    spans: list[Span]


def split_documents(
    documents: Sequence[np.ndarray],
    *,
    fraction: float = 0.1,
    by: str = "block",
    block_length: int = 1024,
    seed: int = 0,
) -> Split:
    """Holds out a part of the bases, the same for the same arguments.

    With `by="block"` each document gives `round(length * fraction / block_length)` contiguous blocks (at least one
    over all documents), spread evenly along it; what stands between them are separate training documents, so that no
    training window reaches into a held-out block. With `by="record"` whole documents are held out.

    Args:
      documents: uint8 arrays `[length]`, one per record.
      fraction: The share of the bases to hold out, above 0 and at most 0.5.
      by: What is held out: blocks of every document (`"block"`), or whole documents (`"record"`).
      block_length: The length of a held-out block, in bases; at least 16.
      seed: Chooses the places, or the documents.

    Raises:
      SettingError: An argument is out of range.
      SplitError: The documents are too short or too few for a held-out part.
    """
    if not 0 < fraction <= 0.5:
        raise SettingError("fraction", fraction, "a number above 0 and at most 0.5")
    if block_length < 16:
        raise SettingError("block_length", block_length, "a whole number of at least 16")
    random = np.random.default_rng(seed)
    if by == "record":
        return _by_record(documents, fraction, random)
    if by == "block":
        return _by_block(documents, fraction, block_length, random)
    raise SettingError("by", by, "'block' or 'record'")


def _by_record(documents: Sequence[np.ndarray], fraction: float, random: np.random.Generator) -> Split:
    if len(documents) < 2:
        raise SplitError(f"cannot hold out whole records: got {len(documents)} record, accepted are 2 or more")
    wanted = fraction * sum(len(d) for d in documents)
    chosen: set[int] = set()
    bases = 0
    for index in random.permutation(len(documents))[:-1].tolist():
        if bases >= wanted:
            break
        chosen.add(index)
        bases += len(documents[index])
    return Split(
        [d for i, d in enumerate(documents) if i not in chosen],
        [documents[i] for i in sorted(chosen)],
        [Span(i, 0, len(documents[i])) for i in sorted(chosen)],
    )


def _by_block(documents: Sequence[np.ndarray], fraction: float, block: int, random: np.random.Generator) -> Split:
    counts = [round(len(d) * fraction / block) for d in documents]
    if not any(counts):
        longest = int(np.argmax([len(d) for d in documents]))
        counts[longest] = 1
        block = int(len(documents[longest]) * fraction)
        if block < 16:
            raise SplitError(
                f"too short to hold out {fraction:.0%}: the longest sequence has {len(documents[longest])} bases, "
                f"accepted are {int(np.ceil(16 / fraction))} or more"
            )
    split = Split([], [], [])
    for index, (document, count) in enumerate(zip(documents, counts, strict=True)):
        position = 0
        edges = np.linspace(0, len(document), count + 1).astype(int)
        for left, right in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            start = left + int(random.integers(0, right - left - block + 1))
            split.spans.append(Span(index, start, start + block))
            split.held_out.append(document[start : start + block])
            split.training.append(document[position:start])
            position = start + block
        split.training.append(document[position:])
    return Split([d for d in split.training if len(d) > 1], split.held_out, split.spans)
