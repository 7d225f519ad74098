"""Cuts documents into windows of token ids: random ones for training, covering ones for evaluation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from subquad.recipes.data.fasta import reverse_complement
from subquad.recipes.errors import SettingError, SplitError

PAD_ID = 1
"""Fills windows that are longer than their document; never a target."""


class EvaluationWindow(NamedTuple):
    """Ids of one window and, for each of its targets `ids[1:]`, whether it is scored here."""

    ids: Int64[Tensor, " length"]
    scored: Bool[Tensor, " target"]


class TrainingWindows(Dataset[Tensor]):
    """Random windows of `window + 1` ids, where window number n depends on `seed` and n alone.

    A run that has consumed n samples goes on exactly where it stopped by asking for sample n next, on any number of
    processes. A document is drawn in proportion to the number of places a window can start in it.
    """

    def __init__(
        self,
        documents: Sequence[np.ndarray],
        *,
        window: int,
        samples: int,
        seed: int = 0,
        both_strands: bool = False,
    ) -> None:
        """Prepares the draw.

        Args:
          documents: uint8 arrays `[length]` of at least 2 bases; one shorter than `window + 1` is padded on the right.
          window: The number of targets of a window, at least 1.
          samples: The number of windows of the whole run.
          seed: Chooses the windows.
          both_strands: Whether every second window, at random, is the reverse complement.

        Raises:
          SettingError: `window` or `samples` is below 1.
          SplitError: There is no document of 2 bases or more.
        """
        if window < 1:
            raise SettingError("window", window, "a whole number of at least 1")
        if samples < 1:
            raise SettingError("samples", samples, "a whole number of at least 1")
        self._documents = [d for d in documents if len(d) > 1]
        if not self._documents:
            raise SplitError("no training sequence has 2 bases or more")
        self._window = window
        self._samples = samples
        self._seed = seed
        self._both_strands = both_strands
        self._ends = np.cumsum([max(len(d) - window, 1) for d in self._documents])

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> Int64[Tensor, " length"]:
        """Returns window number `index`: int64 ids `[window + 1]`."""
        random = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 0, index]))
        place = int(random.integers(0, self._ends[-1]))
        number = int(np.searchsorted(self._ends, place, side="right"))
        start = place - (int(self._ends[number - 1]) if number else 0)
        piece = self._documents[number][start : start + self._window + 1]
        if self._both_strands and random.random() < 0.5:
            piece = reverse_complement(piece)
        return _padded(piece, self._window + 1)


class EvaluationWindows(Dataset[EvaluationWindow]):
    """Windows that score every base but the first of each document exactly once.

    Windows of one document overlap by half: a base is scored with at least `window // 2` bases before it, where the
    document has so many.
    """

    def __init__(self, documents: Sequence[np.ndarray], *, window: int) -> None:
        """Lays the windows.

        Args:
          documents: uint8 arrays `[length]`.
          window: The number of targets of a window, at least 2.

        Raises:
          SettingError: `window` is below 2.
        """
        if window < 2:
            raise SettingError("window", window, "a whole number of at least 2")
        self._window = window
        self._items: list[tuple[np.ndarray, int]] = []
        for document in documents:
            stop = 1
            while stop < len(document):
                start = max(0, stop - 1 - window // 2)
                piece = document[start : start + window + 1]
                self._items.append((piece, stop - start - 1))
                stop = start + len(piece)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> EvaluationWindow:
        piece, first = self._items[index]
        place = torch.arange(self._window)
        return EvaluationWindow(_padded(piece, self._window + 1), (place >= first) & (place < len(piece) - 1))


class ConsumedSampler(Sampler[int]):
    """Sample numbers in order, from `consumed` on, dealt out to `replicas` processes in turn.

    Its length is that of the whole run, which is what a progress bar and a resumed loop count with.
    """

    def __init__(self, samples: int, *, consumed: int = 0, replicas: int = 1, rank: int = 0) -> None:
        """Starts at sample `consumed`; this process takes those whose number modulo `replicas` is `rank`."""
        self._samples, self._consumed, self._replicas, self._rank = samples, consumed, replicas, rank

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._consumed + self._rank, self._samples, self._replicas))

    def __len__(self) -> int:
        return self._samples // self._replicas


def _padded(piece: np.ndarray, length: int) -> Tensor:
    ids = np.full(length, PAD_ID, dtype=np.int64)
    ids[: len(piece)] = piece
    return torch.from_numpy(ids)
