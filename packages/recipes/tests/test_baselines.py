"""Markov models against counts by hand, and against what is known of real DNA."""

import math
from itertools import product

import numpy as np
import pytest

from subquad.recipes.baselines import MarkovModel, markov_bits_per_base, order0_entropy
from subquad.recipes.data import read_fasta, reverse_complement, split_documents
from subquad.recipes.data.genomes import lambda_phage
from subquad.recipes.errors import SettingError


def dna(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def probability(train: str, context: str, base: str, smoothing: float) -> float:
    """The formula of the class, by string search."""
    order = len(context)
    seen = [train[i : i + order + 1] for i in range(len(train) - order)]
    lower = 0.25 if order == 0 else probability(train, context[1:], base, smoothing)
    total = sum(piece[:order] == context for piece in seen)
    return (seen.count(context + base) + smoothing * lower) / (total + smoothing)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_probabilities_are_those_of_the_formula(order: int):
    train = "ACGTTGCAACGGTTACGATTTACGGGACCAT"
    model = MarkovModel([dna(train)], order=order, smoothing=2.0)
    for letters in product("ACGT", repeat=order + 1):
        piece = "".join(letters)
        expected = -math.log2(probability(train, piece[:-1], piece[-1], 2.0))
        assert model.bits(dna(piece))[-1] == pytest.approx(expected, rel=1e-12)


def test_probabilities_of_the_four_bases_sum_to_one():
    model = MarkovModel([dna("ACGTTGCAACGGTTACG")], order=4)
    for context in ("ACGT", "GGGG", "TTTT"):
        total = sum(2 ** -model.bits(dna(context + base))[-1] for base in "ACGT")
        assert total == pytest.approx(1.0, abs=1e-12)


def test_the_first_bases_fall_back_to_shorter_contexts():
    train, test = [dna("ACGTACGGTACC")], dna("CAG")
    second = MarkovModel(train, order=2, smoothing=1.0).bits(test)
    assert second[0] == MarkovModel(train, order=0, smoothing=1.0).bits(test)[0]
    assert second[1] == MarkovModel(train, order=1, smoothing=1.0).bits(test)[1]


def test_other_letters_are_no_target_and_break_contexts():
    model = MarkovModel([dna("ACGTACGT")], order=1, smoothing=1.0)
    bits = model.bits(dna("ANG"))
    assert np.isnan(bits[1])
    assert bits[2] == MarkovModel([dna("ACGTACGT")], order=0, smoothing=1.0).bits(dna("G"))[0]
    assert np.array_equal(model.bits(dna("acgt")), model.bits(dna("ACGT")))


def test_both_strands_are_counted_as_two_documents():
    document = dna("AACCGTTGACCA")
    both = MarkovModel([document], order=2, both_strands=True).bits(dna("ACGTTG"))
    two = MarkovModel([document, reverse_complement(document)], order=2).bits(dna("ACGTTG"))
    assert np.array_equal(both, two)


def test_a_repeat_is_learned():
    repeat = dna("ACGGT" * 400)
    assert markov_bits_per_base([repeat], [repeat], 3, smoothing=1.0) < 0.05
    assert markov_bits_per_base([repeat], [repeat], 0) > 1.8


def test_phage_lambda_is_told_apart_from_noise():
    split = split_documents([read_fasta(lambda_phage())[0].sequence])
    bits = [markov_bits_per_base(*split[:2], order, both_strands=True) for order in range(5)]
    assert order0_entropy(split.held_out) <= bits[0] < 2.01
    assert 1.95 < bits[4] < bits[3] < bits[2] < bits[1] < bits[0]


def test_entropy_of_equal_shares_is_two_bits():
    assert order0_entropy([dna("NACGT"), dna("nTGCA")]) == pytest.approx(2.0)
    assert order0_entropy([dna("AAAA")]) == 0.0


@pytest.mark.parametrize(
    ("order", "smoothing", "field"), [(-1, 1.0, "order"), (13, 1.0, "order"), (1, 0.0, "smoothing")]
)
def test_settings_out_of_range_are_refused(order: int, smoothing: float, field: str):
    with pytest.raises(SettingError, match=field):
        MarkovModel([dna("ACGT")], order=order, smoothing=smoothing)
