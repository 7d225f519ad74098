"""Trees as text."""

import enum
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

from subquad.lazy_config import PLACEHOLDER, LazyConfig, apply_overrides, expr, to_python, to_text

Size = namedtuple("Size", ["height", "width"])


class Colour(enum.Enum):
    RED = 1


@dataclass
class Layer:
    width: int = 1
    name: Any = ""


@dataclass
class Stack:
    layers: Any = None
    layer: Any = None


def test_a_short_config_is_one_line_of_python() -> None:
    assert repr(LazyConfig(Layer)(width=2, name="x")) == "LazyConfig(Layer)(width=2, name='x')"
    assert repr(LazyConfig(Layer)()) == "LazyConfig(Layer)()"
    assert repr(LazyConfig(Layer)) == "LazyConfig(Layer)"


def test_the_python_text_makes_an_equal_tree() -> None:
    tree = LazyConfig(Stack)(
        layers=[LazyConfig(Layer)(width=i, name=(f"name-{i}",)) for i in range(6)],
        layer={"size": Size(1, 2), "kind": Layer, "colour": Colour.RED, 3: expr("a"), "none": PLACEHOLDER, "e": []},
    )
    text = to_python(tree)
    assert max(map(len, text.splitlines())) <= 101
    namespace = {"LazyConfig": LazyConfig, "Layer": Layer, "Stack": Stack, "Size": Size, "Colour": Colour, "expr": expr}
    assert eval(text, namespace | {"PLACEHOLDER": PLACEHOLDER}) == tree


def test_names_that_are_no_identifiers_are_written_as_a_dict() -> None:
    tree = LazyConfig(dict)(**{"a-b": 1})
    assert to_python(tree) == "LazyConfig(dict)(**{'a-b': 1})"


def test_a_foreign_repr_that_fails_does_no_harm() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Loud" in repr(LazyConfig(Layer)(name=Loud()))


def test_the_text_of_a_tree_has_a_line_per_field_with_its_source() -> None:
    tree = LazyConfig(Stack)(layers=[LazyConfig(Layer)(width=1), LazyConfig(Layer)()], layer={"a": [1, 2]})
    tree = apply_overrides(tree, ["layers[1].width=4"])
    lines = to_text(tree).splitlines()
    assert [line.partition("  (")[0] for line in lines] == [
        "root = Stack(…)",
        "layers[0] = Layer(…)",
        "layers[0].width = 1",
        "layers[1] = Layer(…)",
        "layers[1].width = 4",
        "layer = {'a': [1, 2]}",
    ]
    assert lines[4].endswith("(command line: layers[1].width=4)")
    assert "test_render.py:" in lines[2]
    assert to_text({"a": 1, "b": {"c": LazyConfig(Layer)()}}).splitlines() == ["a = 1", "b.c = Layer(…)"]
