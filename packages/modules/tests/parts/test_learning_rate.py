"""Schedules as functions of the step: their corners, their formulas, and a run that goes on as if never stopped."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR

from subquad.modules import ConfigurationError, warmup_constant, warmup_cosine, warmup_stable_decay


def test_the_warm_up_is_linear_and_reaches_the_peak() -> None:
    assert [warmup_constant(step, warmup_steps=4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup_constant(0, warmup_steps=0) == 1


def test_the_cosine_falls_from_the_peak_to_its_end() -> None:
    factors = [warmup_cosine(step, total_steps=10, warmup_steps=2, final=0.1) for step in range(14)]
    assert factors[:3] == [0.5, 1, 1]
    assert math.isclose(factors[6], 0.55)
    assert factors[10:] == pytest.approx([0.1] * 4)
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors[1:]))


@pytest.mark.parametrize(("decay", "middle"), [("linear", 0.6), ("cosine", 0.6), ("root", 0.2 + 0.8 * (1 - 0.5**0.5))])
def test_wsd_stays_at_the_peak_and_falls_at_the_end(decay: str, middle: float) -> None:
    options = {"total_steps": 20, "warmup_steps": 5, "decay_steps": 8, "final": 0.2, "decay": decay}
    factors = [warmup_stable_decay(step, **options) for step in range(24)]
    assert factors[4:13] == [1] * 9
    assert math.isclose(factors[16], middle)
    assert factors[20:] == pytest.approx([0.2] * 4)


@settings(deadline=None)
@given(total=st.integers(1, 50), share=st.floats(0, 1), final=st.floats(0, 1))
def test_factors_stay_between_nothing_and_the_peak(total: int, share: float, final: float) -> None:
    warmup = int(total * share)
    for step in range(total + 3):
        for factor in (
            warmup_cosine(step, total_steps=total, warmup_steps=warmup, final=final),
            warmup_stable_decay(
                step, total_steps=total, warmup_steps=warmup, decay_steps=total - warmup, final=final, decay="root"
            ),
        ):
            assert 0 <= factor <= 1
            assert step < warmup or factor >= final - 1e-12


def test_a_run_taken_up_again_has_the_rates_of_one_that_never_stopped() -> None:
    def run(start: int, stop: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        optimizer.param_groups[0]["initial_lr"] = 0.5
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, total_steps=9, warmup_steps=3), start - 1)
        rates = []
        for _ in range(start, stop):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return rates

    assert run(0, 4) + run(4, 9) == run(0, 9)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="warmup_steps is -1"):
        warmup_constant(0, warmup_steps=-1)
    with pytest.raises(ConfigurationError, match="total_steps is 5, warmup_steps 6"):
        warmup_cosine(0, total_steps=5, warmup_steps=6)
    with pytest.raises(ConfigurationError, match="total_steps is 5, warmup_steps 3, decay_steps 3"):
        warmup_stable_decay(0, total_steps=5, warmup_steps=3, decay_steps=3)
    with pytest.raises(ConfigurationError, match="final is 2"):
        warmup_cosine(0, total_steps=5, final=2.0)
