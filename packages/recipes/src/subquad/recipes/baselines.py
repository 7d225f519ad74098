"""Order-k Markov models: what a network must beat to have learned more than base frequencies."""

from collections.abc import Sequence

import numpy as np

from subquad.recipes.data.fasta import reverse_complement
from subquad.recipes.errors import SettingError

MAX_ORDER = 12

_CODE = np.full(256, -1, dtype=np.int64)
for _index, _letter in enumerate("ACGT"):
    _CODE[ord(_letter)] = _CODE[ord(_letter.lower())] = _index


class MarkovModel:
    """A Markov model of DNA whose every order is smoothed towards the next lower one.

    `p_k(b | context) = (count(context, b) + smoothing * p_(k-1)(b | shorter context)) / (count(context) + smoothing)`,
    with `p_(-1) = 1/4`. Contexts that were never seen so fall back to shorter ones.
    """

    def __init__(
        self,
        documents: Sequence[np.ndarray],
        *,
        order: int,
        smoothing: float = 32.0,
        both_strands: bool = False,
    ) -> None:
        """Counts the training documents.

        Args:
          documents: uint8 ASCII codes; letters other than A, C, G, T (either case) break a context and are no target.
          order: The number of bases that the prediction looks back, 0 to 12.
          smoothing: The weight of the shorter context, in observations; above 0.
          both_strands: Whether the reverse complement of every document is counted too.

        Raises:
          SettingError: `order` or `smoothing` is out of range.
        """
        if not 0 <= order <= MAX_ORDER:
            raise SettingError("order", order, f"a whole number from 0 to {MAX_ORDER}")
        if not smoothing > 0:
            raise SettingError("smoothing", smoothing, "a number above 0")
        strands = [s for d in documents for s in ([d, reverse_complement(d)] if both_strands else [d])]
        self.order = order
        self._tables: list[np.ndarray] = []
        lower = np.full((1, 4), 0.25)
        for length in range(order + 1):
            counts = np.zeros(4 ** (length + 1))
            for strand in strands:
                context, base = _contexts(strand, length)
                seen = (context >= 0) & (base >= 0)
                counts += np.bincount(context[seen] * 4 + base[seen], minlength=len(counts))
            counts = counts.reshape(-1, 4)
            # A context is a base-4 number, its oldest base the highest digit: dropping that is a modulus.
            prior = lower[np.arange(len(counts)) % len(lower)]
            lower = (counts + smoothing * prior) / (counts.sum(1, keepdims=True) + smoothing)
            self._tables.append(lower)

    def bits(self, document: np.ndarray) -> np.ndarray:
        """Returns `-log2 p(base | bases before it)` for each base, float64 [length]; NaN where it is not A, C, G, T."""
        result = np.full(len(document), np.nan)
        for length, table in enumerate(self._tables):
            context, base = _contexts(document, length)
            known = (context >= 0) & (base >= 0)
            result[known] = -np.log2(table[context[known], base[known]])
        return result

    def bits_per_base(self, documents: Sequence[np.ndarray]) -> float:
        """Returns the mean of `bits` over all documents, without the first base of each, as a network is scored."""
        return float(np.nanmean(np.concatenate([self.bits(d)[1:] for d in documents])))


def markov_bits_per_base(
    train: Sequence[np.ndarray],
    test: Sequence[np.ndarray],
    order: int,
    *,
    smoothing: float = 32.0,
    both_strands: bool = False,
) -> float:
    """Fits an order-`order` Markov model to `train` and returns its bits per base on `test`; see `MarkovModel`."""
    return MarkovModel(train, order=order, smoothing=smoothing, both_strands=both_strands).bits_per_base(test)


def order0_entropy(documents: Sequence[np.ndarray]) -> float:
    """Returns the entropy of the base frequencies of these documents themselves, in bits per base (at most 2).

    No order-0 model, not even one fitted to the documents, needs fewer bits on them.
    """
    code = np.concatenate([_CODE[d[1:]] for d in documents])
    share = np.bincount(code[code >= 0], minlength=4) / max(1, int((code >= 0).sum()))
    return float(-sum(p * np.log2(p) for p in share if p > 0))


def _contexts(document: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each base the number of the `length` bases before it (-1: none or unknown) and its code."""
    code = _CODE[document]
    context = np.zeros(len(code), dtype=np.int64)
    known = np.ones(len(code), dtype=bool)
    for back in range(length, 0, -1):
        shifted = np.concatenate([np.full(min(back, len(code)), -1), code[:-back]])
        known &= shifted >= 0
        context = context * 4 + np.maximum(shifted, 0)
    return np.where(known, context, -1), code
