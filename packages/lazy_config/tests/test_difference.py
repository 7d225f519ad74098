"""Differences between trees."""

import copy
from dataclasses import dataclass
from typing import Any

from subquad.lazy_config import LazyConfig, diff


@dataclass
class Hyena:
    dim: int = 1
    order: int = 2


@dataclass
class Attention:
    dim: int = 1
    heads: int = 4


@dataclass
class Network:
    depth: int = 1
    mixer_cfg: Any = None
    parts: Any = None


def network(**fields: Any) -> Any:
    return LazyConfig(Network)(depth=2, mixer_cfg=LazyConfig(Hyena)(dim=8, order=3), parts=[1, (2, {"a": 3})], **fields)


def test_equal_trees_have_no_difference() -> None:
    found = diff(network(), copy.deepcopy(network()))
    assert not found
    assert len(found) == 0
    assert str(found) == ""


def test_each_kind_of_difference_is_one_readable_line() -> None:
    after = network()
    after.depth = 4
    after.mixer_cfg = LazyConfig(Attention)(dim=8, heads=2)
    after.parts = [1, (5, {"b": 3}), LazyConfig(Hyena)()]
    assert str(diff(network(), after)).splitlines() == [
        "~ depth: 2 -> 4",
        "@ mixer_cfg: Hyena -> Attention",
        "- mixer_cfg.order: 3",
        "+ mixer_cfg.heads: 2",
        "~ parts[1][0]: 2 -> 5",
        "- parts[1][1].a: 3",
        "+ parts[1][1].b: 3",
        "+ parts[2]: LazyConfig(Hyena)()",
    ]


def test_a_swapped_mixer_is_a_one_line_difference() -> None:
    after = network()
    before = network()
    before.mixer_cfg, after.mixer_cfg = LazyConfig(Hyena)(dim=8), LazyConfig(Attention)(dim=8)
    assert str(diff(before, after)) == "@ mixer_cfg: Hyena -> Attention"


def test_a_difference_can_be_taken_apart() -> None:
    after = network()
    after.depth = True
    (change,) = diff(network(), after)
    assert (change.path, change.kind, change.before, change.after) == ("depth", "changed", 2, True)


def test_roots_of_any_kind_are_compared() -> None:
    assert str(diff(1, 2)) == "~ root: 1 -> 2"
    assert str(diff([1], (1,))) == "~ root: [1] -> (1,)"
    assert str(diff({"a": 1}, {"a": 1.5})) == "~ a: 1 -> 1.5"
    assert str(diff(LazyConfig(Hyena)(), LazyConfig(Attention)())) == "@ root: Hyena -> Attention"
    assert str(diff(LazyConfig(Hyena)(), 3)) == "~ root: LazyConfig(Hyena)() -> 3"
