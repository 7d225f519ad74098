"""Who set a field."""

import pathlib
from dataclasses import dataclass
from typing import Any

import pytest

from subquad.lazy_config import (
    LazyConfig,
    UnknownFieldError,
    apply_overrides,
    derive,
    expr,
    from_yaml,
    history_of,
    instantiate,
)
from subquad.lazy_config.history import caller_source, short_text

THIS = pathlib.Path(__file__).name


@dataclass
class Layer:
    width: int = 1
    name: str = ""


@dataclass
class Stack:
    layer: Any = None
    layers: Any = None


def set_here(config: Any) -> int:
    config.width = 5
    return set_here.__code__.co_firstlineno + 1


def test_each_change_of_a_field_is_kept_with_file_and_line() -> None:
    config = LazyConfig(Layer)(width=1)
    line = set_here(config)
    del config.width
    changes = history_of(config, "width")
    assert [(change.action, change.value) for change in changes] == [("set", "1"), ("set", "5"), ("deleted", "")]
    assert changes[1].source.endswith(f"{THIS}:{line}")
    assert str(changes[1]) == f"width = 5  ({changes[1].source})"
    assert str(changes[2]).startswith("width deleted  (")


def test_command_line_yaml_and_derive_are_named_as_sources() -> None:
    base = from_yaml(
        f"_target_: {__name__}:Stack\nlayer:\n  _target_: {__name__}:Layer\n  width: 3\n",
        allowed=[__name__],
        name="a.yaml",
    )
    tree = apply_overrides(base, ["layer.width=4"])
    tree = derive(tree, {"layer.width": 5})
    sources = [change.source for change in history_of(tree, "layer.width")]
    assert sources[:2] == ["a.yaml:4", "command line: layer.width=4"]
    assert THIS in sources[2]
    assert len(history_of(base, "layer.width")) == 1


def test_an_override_of_instantiate_names_its_caller() -> None:
    def fail(width: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match=rf"width = 3, set at .*{THIS}:\d+"):
        instantiate(LazyConfig(fail)(), width=3)


def test_the_history_of_a_tree_holds_every_field() -> None:
    tree = LazyConfig(Stack)(layer=LazyConfig(Layer)(width=1), layers=[LazyConfig(Layer)(name="x")])
    assert [change.path for change in history_of(tree)] == ["layer", "layers", "layer.width", "layers[0].name"]
    assert [change.path for change in history_of(tree, "layers[0].name")] == ["layers[0].name"]
    assert history_of(tree, "layers[0]")[0].value == "[LazyConfig(Layer)(…)]"
    assert history_of({"a": 1}, "a") == []
    with pytest.raises(UnknownFieldError, match="was"):
        history_of(tree, "layers[4].name")
    with pytest.raises(UnknownFieldError, match="nmae"):
        history_of(tree, "layers[0].nmae")


def test_history_is_bounded_and_keeps_no_objects() -> None:
    config = LazyConfig(Layer)()
    for width in range(100):
        config.width = width
    changes = history_of(config, "width")
    assert len(changes) == 32
    assert changes[-1].value == "99"


def test_short_texts_never_call_a_foreign_repr() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise RuntimeError("repr called")

    assert short_text(Loud()).endswith("Loud>")
    assert short_text([Loud, {"a": (1,)}, None]).endswith("Loud, {'a': (1,)}, None]")
    assert short_text("x" * 500).startswith("'xxx")
    assert len(short_text("x" * 500)) == 80
    assert short_text(10**5000) == "<int of 16610 bits>"
    assert short_text(expr("a + b")) == "expr('a + b')"
    assert short_text(list(range(20))) == "[0, 1, 2, 3, 4, 5, 6, 7, …]"
    assert short_text([[[[1]]]]) == "[[[<list>]]]"


def test_the_source_is_the_caller_outside_the_package() -> None:
    assert THIS in caller_source()
