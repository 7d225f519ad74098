"""Tests of drawing tokens."""

import math

import pytest
import torch

from subquad.inference.sampling import (
    filtered_probabilities,
    greedy,
    philox,
    sample,
    seed_words,
    token_logprobs,
    uniforms,
)

DRAWS = 100_000


def rows(value, count=1, dtype=torch.float64):
    return torch.full((count,), value, dtype=dtype)


def law_by_hand(logits, temperature, top_k, top_p):
    """The law of the specification, one token at a time in plain Python."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept = order[:top_k] if top_k else order
    weights = {i: math.exp((logits[i] - logits[order[0]]) / temperature) for i in kept}
    total = sum(weights.values())
    law = {i: weight / total for i, weight in weights.items()}
    if top_p < 1:
        ascending, below = sorted(kept, key=lambda i: (law[i], -order.index(i))), 0.0
        for i in ascending[:-1]:
            below += law[i]
            if below <= 1 - top_p:
                law[i] = 0.0
    total = sum(law.values())
    return [law.get(i, 0.0) / total for i in range(len(logits))]


def chi_square_survival(statistic, freedom):
    """P(X > statistic) for the χ² law."""
    return float(
        1 - torch.special.gammainc(torch.tensor(freedom / 2.0).double(), torch.tensor(statistic / 2.0).double())
    )


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_known_answers(key, counter, expected):
    assert tuple(philox(torch.tensor([key]), torch.tensor([counter]))[0].tolist()) == expected


def test_a_draw_depends_on_seed_sample_and_position_only():
    seeds = torch.tensor([seed_words(s) for s in (5, 5, 5, 6, 2**63 + 5)])
    samples, positions = torch.tensor([0, 1, 0, 0, 0]), torch.tensor([9, 9, 10, 9, 9])
    together = uniforms(seeds, samples, positions)
    alone = torch.cat([uniforms(seeds[i : i + 1], samples[i : i + 1], positions[i : i + 1]) for i in range(5)])
    assert torch.equal(together, alone)
    assert len(set(together.tolist())) == 5


def test_uniforms_lie_in_the_unit_interval_and_have_its_moments():
    count = 100_000
    u = uniforms(
        torch.tensor([seed_words(3)]).expand(count, 2), torch.zeros(count, dtype=torch.int64), torch.arange(count)
    )
    assert u.dtype == torch.float64
    assert 0 <= u.min() < 1e-3
    assert 1 - 1e-3 < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(u.var() - 1 / 12) < 0.002


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.0, 4, 1.0), (1.3, 0, 0.8), (0.9, 6, 0.6), (1.0, 0, 0.05)],
)
def test_sampling_follows_the_exact_law(temperature, top_k, top_p):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(1)) * 1.5
    logits[3] = logits[7]  # equal logits rank by id
    law = torch.tensor(law_by_hand(logits.double().tolist(), temperature, top_k, top_p))
    got_law = filtered_probabilities(logits[None], rows(temperature), rows(top_k, dtype=torch.int64), rows(top_p))[0]
    assert torch.allclose(got_law, law.double(), atol=1e-12)
    positions = torch.arange(DRAWS)
    uniform = uniforms(torch.tensor([seed_words(11)]).expand(DRAWS, 2), torch.zeros_like(positions), positions)
    many = logits[None].expand(DRAWS, -1)
    drawn = sample(many, rows(temperature, DRAWS), rows(top_k, DRAWS, torch.int64), rows(top_p, DRAWS), uniform)
    counts = torch.bincount(drawn, minlength=12).double()
    assert (counts[law == 0] == 0).all()
    alive = law > 0
    if alive.sum() > 1:
        statistic = float(((counts[alive] - DRAWS * law[alive]) ** 2 / (DRAWS * law[alive])).sum())
        assert chi_square_survival(statistic, int(alive.sum()) - 1) > 0.001


def test_temperature_zero_and_top_k_one_are_greedy_with_the_lowest_id_among_equals():
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    for temperature, top_k in ((0.0, 0), (2.0, 1)):
        assert sample(logits, rows(temperature), rows(top_k, dtype=torch.int64), rows(1.0), rows(0.999)).item() == 1
    assert greedy(logits).item() == 1


def test_rows_with_different_settings_do_not_meet():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    settings = (torch.tensor([0.0, 1.0, 0.5]).double(), torch.tensor([0, 5, 0]), torch.tensor([1.0, 1.0, 0.9]).double())
    uniform = torch.tensor([0.3, 0.6, 0.9]).double()
    together = sample(logits, *settings, uniform)
    for i in range(3):
        alone = sample(logits[i : i + 1], *(s[i : i + 1] for s in settings), uniform[i : i + 1])
        assert alone.item() == together[i].item()


def test_the_ends_of_the_unit_interval_hit_tokens_that_can_occur():
    logits = torch.tensor([[-50.0, 0.0, 1.0, -50.0]])
    for u in (0.0, 1 - 2.0**-53):
        drawn = sample(logits, rows(1.0), rows(2, dtype=torch.int64), rows(1.0), rows(u)).item()
        assert drawn in (1, 2)


def test_log_probabilities_are_those_of_the_plain_model():
    logits = torch.randn(2, 9)
    expected = torch.log_softmax(logits.double(), -1)
    assert torch.allclose(token_logprobs(logits, torch.tensor([4, 0])), torch.stack((expected[0, 4], expected[1, 0])))
