"""Trees as YAML: round trips, the allow-list, limits, and errors with their line."""

import contextlib
import enum
import os
import pathlib
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from subquad.lazy_config import (
    PLACEHOLDER,
    Config,
    ConfigFileError,
    ExpressionError,
    LazyConfig,
    LazyConfigError,
    RenderError,
    TargetError,
    TargetRefusedError,
    UnknownFieldError,
    apply_overrides,
    expr,
    from_yaml,
    load_yaml,
    save_yaml,
    to_yaml,
)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Layer:
    width: int = 1
    name: Any = ""

    @classmethod
    def wide(cls, factor: int = 1) -> "Layer":
        return cls(100 * factor)


@dataclass
class Stack:
    layers: Any = None
    part_cfg: Any = None


def free(**fields: Any) -> dict[str, Any]:
    return fields


ALLOWED = [__name__]
WORDS = (
    "1e-3 2024-10-12 2024-10-12T01:02:03 no 1:30 ~ null 010 0x1f << = !tag &a *a # ${a.b} $${x} _target_ 1_000 .5 +1"
)
TRICKY = [
    *WORDS.split(" "),
    "2024-10-12",
    "- x",
    "a: b",
    "",
    " ",
    "\n",
    "\t",
    "\r",
    "\x85",
    "\u2028",
    "\ufeff",
    "é\x07",
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=6),
    st.sampled_from(TRICKY),
    st.sampled_from([PLACEHOLDER, expr("max(H, W)"), pathlib.Path("a/b"), Colour.RED, Layer, free]),
)
keys = st.one_of(st.text(max_size=8), st.sampled_from(["_target_", "_tuple_", "_x_", "__", "<<", "no", "1"]))
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(
            st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)), inner, max_size=2
        ),
        st.sets(st.integers(), max_size=3),
        st.frozensets(st.text(max_size=3), max_size=3),
        st.builds(lambda w, n: LazyConfig(Layer)(width=w, name=n), inner, inner),
        st.builds(
            lambda fields: LazyConfig(free)(**fields),
            st.dictionaries(st.from_regex(r"[a-z]{1,4}\Z"), inner, max_size=3),
        ),
        st.builds(lambda f: LazyConfig(Layer.wide)(factor=f), inner),
    ),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(trees)
def test_reading_what_was_written_gives_an_equal_tree(tree: Any) -> None:
    text = to_yaml(tree)
    assert LazyConfig(free)(x=from_yaml(text, allowed=ALLOWED)) == LazyConfig(free)(x=tree)
    assert to_yaml(from_yaml(text, allowed=ALLOWED)) == text


@settings(max_examples=200, deadline=None)
@given(trees)
def test_other_yaml_readers_can_read_what_was_written(tree: Any) -> None:
    yaml.safe_load(to_yaml(tree))


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="_target:expluc-[]{}, \n  \t&*!|>'\"#%~<0123é", max_size=60))
def test_any_text_gives_a_tree_or_a_typed_error(text: str) -> None:
    with contextlib.suppress(LazyConfigError):
        from_yaml(text, allowed=ALLOWED)


@settings(max_examples=200, deadline=None)
@given(trees, st.data())
def test_damaged_text_gives_a_tree_or_a_typed_error(tree: Any, data: Any) -> None:
    text = to_yaml(tree)
    place = data.draw(st.integers(0, len(text)))
    damaged = (
        text[:place]
        + data.draw(st.text(alphabet="_:-[]{}'\"\n !&", max_size=3))
        + text[place + data.draw(st.integers(0, 3)) :]
    )
    with contextlib.suppress(LazyConfigError):
        from_yaml(damaged, allowed=ALLOWED)


def test_the_written_form_is_plain_and_in_order() -> None:
    tree = LazyConfig(Stack)(
        layers=[LazyConfig(Layer)(width="max(1, 2)", name="2024-10-12"), (1, 2.5)],
        part_cfg={"required": PLACEHOLDER, "size": expr("a * 2"), "small": 1e-05},
    )
    assert to_yaml(tree) == (
        f"_target_: {__name__}:Stack\n"
        "layers:\n"
        f"- _target_: {__name__}:Layer\n"
        "  width: max(1, 2)\n"
        "  name: '2024-10-12'\n"
        "- {_tuple_: [1, 2.5]}\n"
        "part_cfg:\n"
        "  required: {_placeholder_: true}\n"
        "  size: {_expr_: a * 2}\n"
        "  small: 1.0e-05\n"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("2024-10-12", "2024-10-12"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("010", 10),
        ("0o10", 8),
        ("0x1f", 31),
        ("-.inf", float("-inf")),
        ("~", None),
        ("True", True),
        ("'1'", "1"),
        ("", None),
        ("[1, {a: 2}]", [1, {"a": 2}]),
        ("1: a", {1: "a"}),
    ],
)
def test_plain_words_are_read_as_yaml_1_2_reads_them(text: str, value: Any) -> None:
    assert from_yaml(text) == value
    assert type(from_yaml(text)) is type(value)


def test_anchors_and_merges_are_understood_and_make_independent_copies() -> None:
    text = f"base: &base\n  _target_: {__name__}:Layer\n  width: 3\nsame: *base\nmore:\n  <<: *base\n  name: x\n"
    tree = from_yaml(text, allowed=ALLOWED)
    assert tree["more"] == LazyConfig(Layer)(width=3, name="x")
    tree["same"].width = 4
    assert tree["base"].width == 3


@pytest.mark.parametrize(
    "target",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:eval",
        "subquadratic:X",
        "subquad_evil:X",
        "subquad.lazy_config:load_config_file",
        "subquad.lazy_config.yaml_form:os.system",
        "subquad.lazy_config.config_file:load_config_file",
        "this:s",
        "antigravity:fly",
        "subquad.__main__:main",
        "subquad.modules:__builtins__.eval",
    ],
)
def test_a_target_outside_the_allow_list_is_refused_and_never_imported(target: str) -> None:
    before = set(sys.modules)
    with pytest.raises(
        TargetRefusedError, match=r"f.yaml:2: a: .* is refused and was not imported; allowed are subquad\."
    ):
        from_yaml(f"a:\n  _target_: {target}\n", name="f.yaml")
    with pytest.raises(TargetRefusedError):
        from_yaml(f"- {{_import_: '{target}'}}")
    assert set(sys.modules) == before


def test_what_an_allowed_module_has_imported_cannot_be_reached_through_it() -> None:
    with pytest.raises(TargetRefusedError, match="os is another module"):
        from_yaml(f"_target_: {__name__}:os.system", allowed=ALLOWED)
    with pytest.raises(TargetRefusedError, match=r"it comes from pathlib"):
        from_yaml(f"_import_: '{__name__}:Alias'", allowed=ALLOWED)
    with pytest.raises(TargetRefusedError, match=r"it comes from posix"):
        from_yaml(f"_target_: {__name__}:renamed", allowed=ALLOWED)


Alias = pathlib.Path
renamed = os.getcwd


def test_the_allow_list_takes_packages_and_single_targets() -> None:
    text = "_target_: datetime:timedelta\nhours: 2\n"
    for allowed in (["datetime"], ["datetime."], ["x", "datetime:timedelta"]):
        assert isinstance(from_yaml(text, allowed=allowed), Config)
    for allowed in ([], ["date"], ["datetime:date"], [""], ["."], ["datetime.sub"]):
        with pytest.raises(TargetRefusedError):
            from_yaml(text, allowed=allowed)
    with pytest.raises(LazyConfigError, match="allowed is a list"):
        from_yaml(text, allowed="datetime")


def test_a_dict_as_a_namespace_needs_no_permission() -> None:
    tree = LazyConfig(dict)(a=1)
    assert from_yaml(to_yaml(tree)) == tree


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("a: [1", ConfigFileError, "f.yaml:1: not YAML"),
        ("a: 1\na: 2", ConfigFileError, "f.yaml:2: 'a' is given twice"),
        ("a: !!python/object:os.system {}", ConfigFileError, "f.yaml:1: a: the tag"),
        ("a: !!python/name:os.system ''", ConfigFileError, "the tag"),
        ("a: !!timestamp 2024-01-01", ConfigFileError, "the tag"),
        ("a: !!set {x}", ConfigFileError, "the tag"),
        ("a: !!int abc", ConfigFileError, "'abc' is not a int"),
        ("a: {_expr_: 'a +'}", ExpressionError, "f.yaml:1: a: 'a +' is not an expression"),
        ("a: {_expr_: 3}", ConfigFileError, "a text is needed here"),
        ("a: {_tuple_: 3}", ConfigFileError, "a list is needed here"),
        ("a: {_tuple_: [], b: 1}", ConfigFileError, "_tuple_ is not understood here"),
        ("a: {_nope_: 3}", ConfigFileError, "_nope_ is not understood here"),
        ("a: {_placeholder_: false}", ConfigFileError, "write _placeholder_: true"),
        ("a: {_set_: [[1]]}", ConfigFileError, "unhashable"),
        ("a: {_dict_: [1]}", ConfigFileError, "pairs of key and value"),
        ("a: {_dict_: [[[], 1]]}", ConfigFileError, "unhashable"),
        ("[1]: 2", ConfigFileError, "a key is a word"),
        ("<<: 3", ConfigFileError, "'<<' takes over mappings"),
        ("a: 1\n---\nb: 2", ConfigFileError, "not YAML"),
        ("a: *b", ConfigFileError, "not YAML"),
        ("_target_: subquad", TargetError, "is not a target; write 'module:name'"),
        ("_target_: [1]", ConfigFileError, "a text is needed"),
        ("_target_: 'a b:c'", TargetError, "is not a target"),
        ("_target_: subquad.lazy_confgi:x", TargetError, "cannot be imported"),
        (f"_target_: {__name__}:Layr", TargetError, "does not exist; did you mean 'Layer'"),
        (f"_target_: {__name__}:Colour.RED", TargetError, "cannot be called"),
        (
            f"_target_: {__name__}:Layer\nwidht: 3",
            UnknownFieldError,
            "f.yaml:2: widht is not a parameter of Layer; did you mean 'width'?",
        ),
        (f"_target_: {__name__}:Layer\n3: 3", ConfigFileError, "a field has a name, got 3"),
        ("&a [*a]", ConfigFileError, "nests more than 100 levels"),
        ("[" * 150 + "]" * 150, ConfigFileError, "nests"),
        ("[" * 5000 + "]" * 5000, ConfigFileError, "nests"),
        ("\x00", ConfigFileError, "not YAML"),
    ],
)
def test_malformed_text_is_refused_with_its_line(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        from_yaml(text, allowed=["subquad", __name__], name="f.yaml")
    assert message in str(caught.value)
    assert "f.yaml" in str(caught.value)


def test_texts_that_multiply_are_bounded() -> None:
    laughs = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]\n" for i in range(1, 12))
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i}\n  <<: [" + ", ".join([f"*a{i - 1}"] * 9) + "]\n" for i in range(1, 12)
    )
    for text in (laughs, merges):
        with pytest.raises(ConfigFileError, match="more than 200000 values"):
            from_yaml(text)
    with pytest.raises(ConfigFileError, match="at most 10000000 characters"):
        from_yaml("#" * 10_000_001)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (lambda: 1, TargetError, "is local"),
        (object(), RenderError, "a[0]: <object> has no YAML form"),
        ("\ud800", RenderError, "a[0]: the text holds half a character"),
        (1j, RenderError, "has no YAML form"),
        (sys, RenderError, "has no YAML form"),
    ],
)
def test_a_value_without_a_yaml_form_is_named(value: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        to_yaml(LazyConfig(free)(a=[value]))
    assert message in str(caught.value)


def test_a_local_target_is_refused_when_it_is_written() -> None:
    class Local:
        pass

    with pytest.raises(
        TargetError, match=r"layers: .*Local of .* is local; a file can refer only to what a module defines"
    ):
        to_yaml(LazyConfig(Stack)(layers=LazyConfig(Local)()))


def test_files_are_written_whole_or_not_at_all(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    tree = LazyConfig(Layer)(width=3, name="é")
    save_yaml(tree, path)
    assert load_yaml(path, allowed=ALLOWED) == tree
    with pytest.raises(RenderError):
        save_yaml(LazyConfig(Layer)(name=object()), path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            save_yaml(LazyConfig(Layer)(width=4), path)
    assert load_yaml(str(path), allowed=ALLOWED) == tree
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


def test_files_that_cannot_be_read_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigFileError, match=r"no\.yaml: cannot be read: No such file"):
        load_yaml(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigFileError, match=r"bad\.yaml: not UTF-8 at byte 3"):
        load_yaml(tmp_path / "bad.yaml")
    with pytest.raises(ConfigFileError, match="cannot be read"):
        load_yaml(tmp_path)


def test_a_tree_from_yaml_takes_overrides(tmp_path: pathlib.Path) -> None:
    save_yaml(LazyConfig(Stack)(layers=[LazyConfig(Layer)(width=1)]), tmp_path / "a.yml")
    tree = apply_overrides(load_yaml(tmp_path / "a.yml", allowed=ALLOWED), ["layers[0].width=7"])
    assert tree.layers[0].width == 7
