"""Overrides from the command line, and ``derive``."""

import contextlib
import enum
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subquad.lazy_config import (
    Config,
    LazyConfig,
    LazyConfigError,
    OverrideError,
    UnknownFieldError,
    apply_overrides,
    derive,
    diff,
    expr,
    fields_of,
    instantiate,
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


def everything(
    flag: bool = False,
    whole: int = 0,
    real: float = 0.0,
    text: str = "",
    maybe: int | None = None,
    maybe_text: str | None = None,
    either: int | str = 0,
    both: bool | int = 0,
    numbers: list[int] | None = None,
    pair: tuple[int, float] = (0, 0.0),
    many: tuple[float, ...] = (),
    names: Sequence[str] = (),
    nested: list[list[int]] | None = None,
    table: dict[str, float] | None = None,
    mapping: Mapping[int, bool] | None = None,
    unique: set[int] | None = None,
    fixed: frozenset[str] = frozenset(),
    colour: Colour = Colour.RED,
    mode: Literal["fast", "slow", 3, None, True] = "fast",
    path: pathlib.Path | None = None,
    anything: Any = None,
    bare=None,
    function: Callable[[int], int] = abs,
    mixer_cfg: Config[Any] | None = None,
    size: int | Sequence[int] = 1,
) -> dict[str, Any]:
    return dict(locals())


@dataclass
class Layer:
    width: int = 1
    name: str = ""


@dataclass
class Stack:
    layers: Any
    width: int = 4
    options: dict[str, int] | None = None
    betas: tuple[float, float] = (0.9, 0.99)


def stack() -> Config[Stack]:
    return LazyConfig(Stack)(
        layers=[LazyConfig(Layer)(width=1), LazyConfig(Layer)(width=2, name="b")], options={"a": 1}, betas=(0.9, 0.99)
    )


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("flag=true", True),
        ("flag=False", False),
        ("flag=1", True),
        ("flag=off", False),
        ("whole=3", 3),
        ("whole=-1_000", -1000),
        ("whole=+7", 7),
        ("real=1", 1.0),
        ("real=1e-3", 0.001),
        ("real=-inf", float("-inf")),
        ("text=3", "3"),
        ("text=", ""),
        ("text=a=b", "a=b"),
        ("text=2024-10-12", "2024-10-12"),
        ("text=None", "None"),
        ("maybe=None", None),
        ("maybe=null", None),
        ("maybe=4", 4),
        ("maybe_text=none", None),
        ("maybe_text=x", "x"),
        ("either=4", 4),
        ("either=four", "four"),
        ("both=1", 1),
        ("both=true", True),
        ("numbers=[1, 2]", [1, 2]),
        ("numbers=1,2,", [1, 2]),
        ("numbers=[]", []),
        ("numbers=None", None),
        ("pair=(1, 2)", (1, 2.0)),
        ("pair=1,0.5", (1, 0.5)),
        ("many=[1, 2, 3]", (1.0, 2.0, 3.0)),
        ("names=[a, 'b, c', \"d\"]", ["a", "b, c", "d"]),
        ("nested=[[1, 2], [], [3]]", [[1, 2], [], [3]]),
        ("table={a: 1, b: 2e-1}", {"a": 1.0, "b": 0.2}),
        ("mapping={1: true}", {1: True}),
        ("unique=[1, 1, 2]", {1, 2}),
        ("fixed=[a]", frozenset({"a"})),
        ("colour=BLUE", Colour.BLUE),
        ("colour=red", Colour.RED),
        ("colour=2", Colour.BLUE),
        ("mode=slow", "slow"),
        ("mode=3", 3),
        ("mode=None", None),
        ("mode=true", True),
        ("path=/tmp/x", pathlib.Path("/tmp/x")),
        ("anything=3", 3),
        ("anything=3.5", 3.5),
        ("anything=true", True),
        ("anything=none", None),
        ("anything=[1, a, 'x y', {k: 2}]", [1, "a", "x y", {"k": 2}]),
        ("anything=(1,)", (1,)),
        ("anything='3'", "3"),
        ("anything=1e", "1e"),
        ("bare=nan", "nan"),
        ("whole=${real}", "${real}"),
        ("function=${whole}", "${whole}"),
        ("size=max(whole, 3)", "max(whole, 3)"),
        ("size=[1, 2]", [1, 2]),
        ("size=1, 2", [1, 2]),
        ("whole=2 * ${real}", "2 * ${real}"),
        ("text=a-${real}", "a-${real}"),
        ("numbers=[${whole}, 2]", ["${whole}", 2]),
        ("names=[x-${whole}, 'b']", ["x-${whole}", "b"]),
        ("anything=[${max(whole, 2)}, 3]", ["${max(whole, 2)}", 3]),
    ],
)
def test_a_value_is_read_as_the_type_of_its_parameter(word: str, value: Any) -> None:
    name = word.partition("=")[0]
    base = LazyConfig(everything)(whole=1, real=2.0)
    result = fields_of(apply_overrides(base, [word]))[name]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("word", "accepted"),
    [
        ("flag=maybe", "flag: 'maybe' is not accepted; it takes true or false"),
        ("whole=3.5", "whole: '3.5' is not accepted; it takes int or an expression over fields"),
        ("whole=abc", "whole: 'abc' is not accepted; it takes int"),
        ("whole=", "whole: '' is not accepted"),
        ("whole=true", "whole: 'true' is not accepted"),
        ("whole=7/2", "whole: '7/2' is not accepted"),
        ("whole=1/0", "division by zero"),
        ("whole=${nothing}", "nothing refers to nothing"),
        ("text=${nothing}", "nothing refers to nothing"),
        ("text=${", "is not closed"),
        ("maybe=x", "it takes int or None or an expression over fields"),
        ("real=1e", "it takes float"),
        ("numbers=[1, x]", "it takes list[int] or None"),
        ("numbers=3", "it takes list[int] or None"),
        ("numbers=[1", "it takes list[int] or None"),
        ("pair=(1, 2, 3)", "3 items given, 2 needed"),
        ("table={a}", "a dict is written {name: value"),
        ("table=a", "it takes dict[str, float] or None"),
        ("colour=green", "it takes RED or BLUE"),
        ("mode=medium", "it takes fast or slow or 3 or None or True"),
        ("function=abs", "it takes collections.abc.Callable[[int], int]"),
        ("mixer_cfg=3", "it takes subquad.lazy_config.lazy.Config"),
        ("colour=x-${whole}", "only a lone ${…} can stand for a value of this type"),
        ("numbers=[2 * ${whole}]", "only a lone ${…} can stand"),
        ("numbers=[whole]", "it takes list[int] or None"),
        ("names=[a,,b]", "an item is empty"),
        ("names=['a]", "is missing"),
        ("names=[a)]", "closes no bracket"),
    ],
)
def test_a_bad_value_is_refused_with_field_value_and_what_is_accepted(word: str, accepted: str) -> None:
    with pytest.raises(OverrideError) as caught:
        apply_overrides(LazyConfig(everything)(), [word])
    assert accepted in str(caught.value)
    assert "signature: everything(" in str(caught.value)


def test_paths_reach_into_lists_dicts_and_tuples() -> None:
    tree = apply_overrides(
        stack(), ["layers[1].width=5", "layers.0.name=first", "options.a=7", "betas[1]=1", "layers[-1].name=last"]
    )
    assert tree.layers[1].width == 5
    assert tree.layers[0].name == "first"
    assert tree.layers[1].name == "last"
    assert tree.options == {"a": 7}
    assert tree.betas == (0.9, 1.0)
    assert type(tree.betas[1]) is float


def test_a_parameter_that_is_not_set_can_be_set_without_a_plus() -> None:
    assert apply_overrides(stack(), ["width=9"]).width == 9
    assert apply_overrides(stack(), ["+width=9"]).width == 9


def test_plus_adds_and_tilde_deletes() -> None:
    tree = apply_overrides(stack(), ["+options.b=2", "~options.a", "~layers[0]", "~betas"])
    assert tree.options == {"b": 2}
    assert [layer.width for layer in tree.layers] == [2]
    assert not hasattr(tree, "betas")
    added = apply_overrides({"sizes": [1]}, ["+sizes[1]=2", "+more={a: 1}", "+more.b=[x]"])
    assert added == {"sizes": [1, 2], "more": {"a": 1, "b": ["x"]}}
    assert apply_overrides(LazyConfig(dict)(a=1), ["+b=2"]) == LazyConfig(dict)(a=1, b=2)


@pytest.mark.parametrize(
    ("word", "kind", "text"),
    [
        ("+width=3", None, ""),
        ("+betas=1,2", OverrideError, r"betas is set already, to \(0.9, 0.99\); leave out the '\+'"),
        ("~width", OverrideError, "width is not set, so '~width' has nothing to delete"),
        ("~options.b", UnknownFieldError, "options.b: there is no 'b'"),
        ("options.b=1", UnknownFieldError, r"options.b: there is no 'b'; there is a"),
        ("widht=3", UnknownFieldError, r"widht is not a parameter of Stack; did you mean 'width'\?"),
        ("+widht=3", UnknownFieldError, "did you mean 'width'"),
        ("~widht", UnknownFieldError, "did you mean 'width'"),
        ("layers[5].width=1", UnknownFieldError, r"layers\[5\]: there are 2 items"),
        ("layers[5]=1", UnknownFieldError, r"layers\[5\]: there are 2 items"),
        ("+layers[5]=1", UnknownFieldError, r"layers\[5\]: there are 2 items"),
        ("layers.x.width=1", UnknownFieldError, "layers is a list; give an index below 2"),
        ("width.x=1", UnknownFieldError, "width is not set, so width.x cannot be"),
        ("options.a.b=1", UnknownFieldError, "options.a is 1, which has no fields"),
        ("layers[0]=3", OverrideError, r"it holds LazyConfig\(Layer\)\(…\), set one of its fields"),
        ("width", OverrideError, "'width' is not an override; the forms are key=value"),
        ("=3", OverrideError, "the forms are"),
        ("~", OverrideError, "the forms are"),
        ("~width=3", OverrideError, "the forms are"),
        ("", OverrideError, "the forms are"),
        ("a..b=3", OverrideError, "'a..b' is not a field path"),
        ("a.=3", OverrideError, "it ends with a dot"),
        ("a b=3", OverrideError, "not a field path"),
        ("[0=3", OverrideError, "not a field path"),
    ],
)
def test_a_key_that_leads_nowhere_is_refused(word: str, kind: type[Exception] | None, text: str) -> None:
    if kind is None:
        assert apply_overrides(stack(), [word]).width == 3
        return
    with pytest.raises(kind, match=text):
        apply_overrides(stack(), [word])


def test_a_field_that_refers_elsewhere_is_replaced_or_set_there() -> None:
    tree = LazyConfig(dict)(base=LazyConfig(Layer)(width=1), alias="${base}")
    with pytest.raises(UnknownFieldError, match=r"alias is '\$\{base\}'; set the field there, or replace alias"):
        apply_overrides(tree, ["alias.width=3"])
    assert instantiate(apply_overrides(tree, ["base.width=3"]))["alias"] == Layer(3)


def test_the_given_tree_is_not_changed_and_the_last_word_wins() -> None:
    base = stack()
    assert apply_overrides(base, ["width=1", "width=2", "layers[0].width=9"]).width == 2
    assert base == stack()
    assert not diff(base, apply_overrides(base, []))


def test_names_in_an_override_are_checked_in_the_finished_tree() -> None:
    tree = LazyConfig(dict)(layer=LazyConfig(Layer)())
    done = apply_overrides(tree, ["layer.width=H * 2", "+H=4"])
    assert instantiate(done)["layer"] == Layer(8)
    with pytest.raises(OverrideError, match=r"layer.width: 'H \* 2' is not accepted(.|\n)*H refers to nothing"):
        apply_overrides(tree, ["layer.width=H * 2"])
    assert apply_overrides(tree, ["layer.width=H * 2", "layer.width=3"]).layer.width == 3


def test_an_override_may_name_a_parameter_that_the_builder_will_set() -> None:
    tree = LazyConfig(dict)(mixer_cfg=LazyConfig(Stack)(layers=[]))
    assert apply_overrides(tree, ["+mixer_cfg.width=1"]).mixer_cfg.width == 1
    assert apply_overrides(LazyConfig(everything)(), ["maybe=size * 2"]).maybe == "size * 2"


def test_untyped_fields_keep_the_kind_they_have() -> None:
    tree = {"name": "x", "rate": 0.1, "n": 3, "flag": True, "sizes": (1, 2), "date": "2024-01-01"}
    words = ["name=3", "rate=1", "n=0.5", "flag=false", "sizes=3,4", "date=2025"]
    assert apply_overrides(tree, words) == {
        "name": "3", "rate": 1.0, "n": 0.5, "flag": False, "sizes": (3, 4), "date": "2025",
    }  # fmt: skip
    assert type(apply_overrides(tree, words)["rate"]) is float


def test_derive_copies_and_sets_by_path() -> None:
    base = stack()
    derived = derive(base, {"layers[1].width": 7, "options": {"z": 1}, "width": "max(1, 2)"})
    assert derived.layers[1].width == 7
    assert instantiate(derived).width == 2
    assert base == stack()
    with pytest.raises(UnknownFieldError, match="did you mean 'width'"):
        derive(base, {"widht": 3})
    with pytest.raises(LazyConfigError, match="an empty path"):
        derive(base, {"": 3})
    assert derive([1, (2, 3)], {"[1][0]": 5}) == [1, (5, 3)]


def test_long_words_are_shortened_in_messages() -> None:
    for word in ("x" * 5000, "width=" + "y" * 5000, "z" * 5000 + "=1"):
        with pytest.raises(LazyConfigError) as caught:
            apply_overrides(stack(), [word])
        assert len(str(caught.value)) < 12000


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text(alphabet="+~=.[]{}(),:'\"$ widthlayerspo0123456789ab-_eE*/\\é", max_size=25), max_size=3))
def test_any_words_give_a_tree_or_a_typed_error(words: list[str]) -> None:
    with contextlib.suppress(LazyConfigError):
        assert isinstance(apply_overrides(stack(), words), Config)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(fields_of(LazyConfig(everything)(**everything())))),
    st.text(alphabet="[]{}(),:'\"$ truefalsnon0123456789ab-_eE*/\\.é", max_size=30),
)
def test_any_value_for_any_type_is_read_or_refused_with_a_typed_error(name: str, text: str) -> None:
    with contextlib.suppress(LazyConfigError):
        apply_overrides(LazyConfig(everything)(), [f"{name}={text}"])


@settings(max_examples=200, deadline=None)
@given(st.integers(), st.floats(allow_nan=False), st.booleans(), st.lists(st.integers()))
def test_the_text_python_prints_is_read_back(whole: int, real: float, flag: bool, numbers: list[int]) -> None:
    words = [f"whole={whole}", f"real={real}", f"flag={flag}", f"numbers={numbers}", f"anything={numbers}"]
    tree = apply_overrides(LazyConfig(everything)(), words)
    assert (tree.whole, tree.real, tree.flag, tree.numbers, tree.anything) == (whole, real, flag, numbers, numbers)


def test_expressions_may_be_replaced_by_numbers() -> None:
    assert apply_overrides({"a": expr("b"), "b": 1}, ["a=3"]) == {"a": 3, "b": 1}
