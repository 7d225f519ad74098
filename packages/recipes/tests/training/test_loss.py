"""The loss against hand-written windows and sums."""

import math

import pytest
import torch

from subquad.recipes.training import next_token_loss, target_weights
from subquad.recipes.training.loss import LONGEST_TAG, target_nats


def ids(text: str) -> torch.Tensor:
    """Tokens of one window; `.` stands for the end of a document and `~` for padding."""
    return torch.tensor([[{".": 0, "~": 1}.get(letter, ord(letter)) for letter in text]])


def marks(text: str) -> str:
    """One letter per target: `1` full weight, `l` a tenth, `0` none."""
    weights = target_weights(ids(text))[0]
    return "".join({1.0: "1", 0.0: "0", 0.1: "l"}[round(weight, 6)] for weight in weights.tolist())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ACGTACGT", "1111111"),
        ("ACgtNnRX", "1ll0000"),
        ("AC@GT#AC", "1011011"),
        ("AC.GT~~~", "1011000"),
        # A whole tag, one cut on the left, one cut on the right.
        ("AC|d__A;s__C|GT", "10000000000011"),
        ("__A;s__C|GTAC", "000000001111"),
        ("ACGT|d__A;s_", "11100000000"),
        # Without a letter that only tags have, a window begins with sequence.
        ("ACG|TTT|CGA", "1100000111"),
        # The end of a document ends a tag, and what follows is looked at by itself.
        ("AC|d__A.ACGT|s__C", "1000000111100000"),
    ],
)
def test_weights_of_a_hand_written_window(text: str, expected: str):
    assert marks(text) == expected


def test_a_stretch_longer_than_any_tag_is_sequence():
    tag, long = "|d_" + "A" * (LONGEST_TAG - 2) + "|", "|d_" + "A" * (LONGEST_TAG - 1) + "|"
    assert marks("C" + tag).count("1") == 0
    assert marks("C" + long).count("1") == LONGEST_TAG - 1


def test_rows_are_weighted_by_themselves():
    both = torch.cat([ids("ACGT|d__"), ids("ACGTACGT")])
    assert torch.equal(target_weights(both)[1], target_weights(both[1:])[0])


def test_end_of_document_and_padding_count_on_request():
    weights = target_weights(ids("AC.~"), mask_end_of_document=False)
    assert weights.tolist() == [[1.0, 1.0, 1.0]]


def test_the_label_of_a_repeat_is_compared_in_upper_case():
    logits = torch.randn(1, 3, 512)
    assert torch.equal(target_nats(logits, ids("ACGT")), target_nats(logits, ids("Acgt")))


@pytest.mark.parametrize("normalization", ["normalized_weighted", "weighted"])
def test_the_loss_is_the_weighted_sum_over_the_chosen_count(normalization: str):
    window = ids("ACgNT")
    logits = torch.randn(1, 4, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logp = logits.log_softmax(-1)[0]
    expected = -(logp[0, ord("C")] + 0.1 * logp[1, ord("G")] + logp[3, ord("T")])
    expected = expected / (2.1 if normalization == "normalized_weighted" else 3)
    loss = next_token_loss(logits, window, target_weights(window), normalization=normalization)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_window_without_a_target_has_loss_zero_and_finite_gradients():
    window = ids("NNNN")
    logits = torch.randn(1, 3, 512, requires_grad=True)
    loss = next_token_loss(logits, window, target_weights(window))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_an_untrained_network_needs_nine_bits():
    window = ids("ACGTACGT")
    loss = next_token_loss(torch.zeros(1, 7, 512), window, target_weights(window))
    assert loss.item() / math.log(2) == pytest.approx(9.0)
