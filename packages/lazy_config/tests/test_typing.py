"""The types that a checker sees; this file is checked by one, and run so that it stays true."""

from dataclasses import dataclass
from typing import Any, Protocol, assert_type

from subquad.lazy_config import PLACEHOLDER, Config, LazyConfig, derive, expr, instantiate


class Mixer(Protocol):
    width: int


@dataclass
class Hyena:
    width: int


def make(size: int) -> float:
    return size / 2


def takes_mixer(mixer_cfg: Config[Mixer]) -> Mixer:
    return instantiate(mixer_cfg, width=3)


def test_a_built_config_has_the_type_of_its_target() -> None:
    config = LazyConfig(Hyena)(width=expr("1 + 1"))
    assert_type(config, Config[Hyena])
    assert_type(instantiate(config), Hyena)
    assert_type(instantiate(config, width=3), Hyena)
    assert_type(instantiate([config]), list[Hyena])
    assert_type(instantiate({"a": config}), dict[str, Hyena])
    assert_type(derive(config, {"width": 3}), Config[Hyena])
    assert instantiate(config) == Hyena(2)


def test_a_function_gives_its_return_type() -> None:
    assert_type(instantiate(LazyConfig(make)(size=3)), float)
    assert instantiate(LazyConfig(make)(size=3)) == 1.5


def test_a_config_of_a_class_serves_where_one_of_its_protocol_is_asked() -> None:
    assert takes_mixer(LazyConfig(Hyena)(width=PLACEHOLDER)).width == 3


def test_fields_are_any() -> None:
    config = LazyConfig(Hyena)(width=1)
    config.width = expr("2")
    value: Any = config.width
    assert value == expr("2")
