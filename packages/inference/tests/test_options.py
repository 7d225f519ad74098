"""Tests of the generation options."""

import math

import pytest

from subquad.inference.errors import InvalidOption
from subquad.inference.options import GenerationOptions

pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", "ACG"),
    ],
)
def test_a_value_outside_its_range_is_named_with_the_range(field, value):
    with pytest.raises(InvalidOption, match=f"{field} is .*; accepted: ") as caught:
        GenerationOptions(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("stop", [("",), ("A", "é"), (3,)])
def test_a_stop_text_must_be_ascii_and_not_empty(stop):
    with pytest.raises(InvalidOption, match=r"stop\["):
        GenerationOptions(stop=stop)


def test_a_list_of_stops_becomes_a_tuple():
    assert GenerationOptions(stop=["A", "CC"]).stop == ("A", "CC")  # type: ignore[arg-type]


def test_a_given_seed_is_kept_and_a_missing_one_is_drawn():
    assert GenerationOptions(seed=7).with_seed() == 7
    assert GenerationOptions().with_seed() == 0  # nothing is drawn
    drawn = {GenerationOptions(temperature=1.0).with_seed() for _ in range(8)}
    assert len(drawn) == 8
    assert all(0 <= seed < 2**64 for seed in drawn)
