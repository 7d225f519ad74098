"""Building trees: order, overrides, expressions and references, and every way it can be refused."""

import enum
import pickle
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional, Union

import pytest

from subquad.lazy_config import (
    PLACEHOLDER,
    ConstructionError,
    ExpressionError,
    LazyConfig,
    LazyConfigError,
    MissingFieldError,
    ReferenceCycleError,
    UnknownFieldError,
    expr,
    instantiate,
)

if TYPE_CHECKING:
    from decimal import Decimal

Count = NewType("Count", int)


class Keeper:
    """Keeps what it is given."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:  # tells type checkers that any attribute may be there
        raise AttributeError(name)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Layer:
    width: int = 1
    name: str = ""


@dataclass
class Stack:
    layers: Any = None
    width: int = 0
    extra: Any = None


def numbers(
    whole: int = 0,
    real: float = 0.0,
    maybe: Optional[int] = None,  # noqa: UP045
    either: int | float = 0,
    old: Union[float, None] = None,  # noqa: UP007
    noted: Annotated[int, "positive"] = 0,
    count: Count = Count(0),
    auto: int | Literal["auto", "same"] = 0,
    sizes: int | Sequence[int] = 0,
    quoted: "int | None" = None,
    partly: "int | Decimal" = 0,
) -> dict[str, Any]:
    return dict(locals())


def others(
    text: str = "",
    maybe: str | None = None,
    mixed: int | str = 0,
    flag: bool = False,
    anything: Any = None,
    bare=None,
    items: list[int] | None = None,
    colour: Colour | None = None,
    literal: Literal["a+b"] | None = None,
) -> dict[str, Any]:
    return dict(locals())


def test_a_tree_is_built_depth_first_in_lists_tuples_and_dicts() -> None:
    order: list[str] = []

    def make(name: str, parts: Any = None) -> str:
        order.append(name)
        return name

    def leaf(name: str) -> Any:
        return LazyConfig(make)(name=name)

    tree = LazyConfig(make)(name="root", parts=[leaf("a"), (leaf("b"), {"k": leaf("c"), "v": [[leaf("d")]]})])
    assert instantiate(tree) == "root"
    assert order == ["a", "b", "c", "d", "root"]


def test_containers_of_configs_are_built_at_the_root_too() -> None:
    layer = LazyConfig(Layer)(width=2)
    assert instantiate([layer, layer]) == [Layer(2), Layer(2)]
    assert instantiate((layer,)) == (Layer(2),)
    assert instantiate({"a": layer, "b": 3}) == {"a": Layer(2), "b": 3}
    assert instantiate(5) == 5
    built = Layer(3)
    assert instantiate(built) is built
    assert instantiate(None) is None


def test_each_occurrence_is_an_object_of_its_own() -> None:
    layers = instantiate(LazyConfig(Stack)(layers=[LazyConfig(Layer)()] * 3)).layers
    assert len({id(layer) for layer in layers}) == 3


def test_building_changes_neither_the_tree_nor_lends_its_containers() -> None:
    config = LazyConfig(Stack)(layers=[1, {"a": [2]}])
    built = instantiate(config, width=3)
    built.layers[1]["a"].append(4)
    assert config == LazyConfig(Stack)(layers=[1, {"a": [2]}])


def test_overrides_reach_any_depth() -> None:
    config = LazyConfig(Stack)(layers=[LazyConfig(Layer)(width=1), LazyConfig(Layer)()])
    built = instantiate(config, width=7, **{"layers[1].width": 5, "layers.0.name": "first"})
    assert built == Stack([Layer(1, "first"), Layer(5)], 7)
    assert instantiate([config], **{"[0].width": 2})[0].width == 2
    assert instantiate({"a": config}, **{"a.width": 2})["a"].width == 2


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("widht", r"widht: widht is not a parameter of Stack; did you mean 'width'\?"),
        ("layers[3].width", r"layers\[3\]: there are 2 items"),
        ("layers.first", "layers is a list; give an index below 2"),
        ("width.x", "width is 4, which has no fields"),
        ("extra.x", "extra is not set, so extra.x cannot be"),
        ("layers[0].nmae", "did you mean 'name'"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(path: str, text: str) -> None:
    config = LazyConfig(Stack)(layers=[LazyConfig(Layer)(), LazyConfig(Layer)()], width=4)
    with pytest.raises(UnknownFieldError, match=text):
        instantiate(config, **{path: 1})


def test_overrides_may_be_objects_that_can_be_used_once() -> None:
    parameters = iter([1, 2])
    assert instantiate(LazyConfig(Stack)(), layers=parameters).layers is parameters


def test_text_for_a_parameter_that_takes_numbers_is_an_expression() -> None:
    built = instantiate(
        LazyConfig(numbers)(
            whole="2 * 3",
            real="max(whole, 10)",
            maybe="whole",
            either="7 / 2",
            old="1e-3",
            noted="whole // 4",
            count="-1",
            auto="4",
            sizes="whole",
            quoted="whole + 1",
            partly="whole + 2",
        )
    )
    assert built == {
        "whole": 6, "real": 10.0, "maybe": 6, "either": 3.5, "old": 0.001, "noted": 1, "count": -1, "auto": 4,
        "sizes": 6, "quoted": 7, "partly": "whole + 2",
    }  # fmt: skip
    assert type(built["real"]) is float
    assert instantiate(LazyConfig(numbers)(auto="same"))["auto"] == "same"


def test_text_for_any_other_parameter_is_never_touched() -> None:
    values = {
        "text": "2024-10-12",
        "maybe": "1.0",
        "mixed": "555-1234",
        "flag": "True",
        "anything": "3 + 4",
        "bare": "max(1, 2)",
        "items": "1, 2",
        "colour": "1",
        "literal": "a+b",
    }
    assert instantiate(LazyConfig(others)(**values)) == values
    assert instantiate({"date": "2024-10-12", "items": ["1+1"]}) == {"date": "2024-10-12", "items": ["1+1"]}
    assert instantiate(LazyConfig(dict)(run="2026-10-30", version="1.0")) == {"run": "2026-10-30", "version": "1.0"}
    assert instantiate(LazyConfig(others)(items=["1 + 1"]))["items"] == ["1 + 1"]


def test_names_resolve_in_the_nearest_enclosing_config() -> None:
    tree = LazyConfig(Keeper)(
        H=8,
        W=4,
        inner=LazyConfig(Keeper)(H=2, layer=LazyConfig(Layer)(width="max(H, W)"), rows=[{"n": expr("H")}]),
        layer=LazyConfig(Layer)(width="max(H, W)"),
    )
    built = instantiate(tree)
    assert built.inner.layer.width == 4
    assert built.layer.width == 8
    assert built.inner.rows == [{"n": 2}]


def test_a_dict_is_an_enclosing_config_too() -> None:
    tree = {"H": 3, "layer": LazyConfig(Layer)(width="H * 2"), "options": {"H": 1, "n": expr("H")}}
    assert instantiate(tree) == {"H": 3, "layer": Layer(6), "options": {"H": 1, "n": 1}}


def test_a_fields_own_name_is_looked_up_further_out() -> None:
    tree = LazyConfig(Keeper)(width=5, layer=LazyConfig(Layer)(width="width"), sizes={"width": ["${width}"]})
    built = instantiate(tree)
    assert built.layer.width == 5
    assert built.sizes == {"width": [5]}


def test_interpolation_takes_absolute_and_relative_paths() -> None:
    tree = LazyConfig(Keeper)(
        model=LazyConfig(Keeper)(depth=3, width=4, part=LazyConfig(Keeper)(a="${.b}", b="${..depth}", c="${$.top}")),
        top="x",
        depth=9,
        sizes=[1, 2, "${sizes[0]}"],
        name="run-${model.depth}-${model.width * 2}-${top}",
        same="${model.depth}",
        plain="$${model.depth} costs $5 {}",
        item="${sizes[-2]}",
        options={"a key": 5},
        quoted="${options['a key']}",
    )
    built = instantiate(tree)
    assert vars(built.model.part) == {"a": 3, "b": 3, "c": "x"}
    assert built.name == "run-3-8-x"
    assert built.same == 3
    assert built.plain == "${model.depth} costs $5 {}"
    assert (built.item, built.quoted, built.sizes) == (2, 5, [1, 2, 1])


def test_braces_in_text_for_a_number_are_terms() -> None:
    tree = LazyConfig(Keeper)(H=3, layer=LazyConfig(Layer)(width="2 * ${H + 1}", name="2 * ${H + 1}"))
    assert instantiate(tree).layer == Layer(8, "2 * 4")


def test_a_reference_to_a_config_is_the_one_object_built_from_it() -> None:
    tree = LazyConfig(Keeper)(
        model=LazyConfig(Layer)(width=3), optimizer=LazyConfig(Stack)(layers=["${model}"], extra="${optimizer2}"),
        optimizer2=LazyConfig(Stack)(layers="${model}"),
    )  # fmt: skip
    built = instantiate(tree)
    assert built.optimizer.layers[0] is built.model
    assert built.optimizer.extra is built.optimizer2
    assert built.optimizer2.layers is built.model


def test_references_lead_through_references() -> None:
    tree = LazyConfig(Keeper)(
        base=LazyConfig(Layer)(width=3), alias="${base}", again=expr("alias"), width=expr("again.width + 1")
    )
    built = instantiate(tree)
    assert built.width == 4
    assert built.again is built.base


@pytest.mark.parametrize(
    "fields",
    [
        {"a": expr("b"), "b": expr("a")},
        {"a": expr("b + 1"), "b": expr("c + 1"), "c": expr("a + 1")},
        {"a": "x${b}", "b": "y${a}"},
        {"a": expr("a")},
        {"a": expr("a + 1")},
        {"a": expr(".a")},
        {"a": "${$.a}"},
        {"a": [expr("$.a")]},
        {"a": expr("b.x"), "b": expr("a.x")},
        {"a": expr("b.x"), "b": expr("b.x")},
        {"a": LazyConfig(Keeper)(x=expr("b")), "b": LazyConfig(Keeper)(x=expr("a"))},
        {"a": LazyConfig(Keeper)(x=expr("..a"))},
    ],
)
def test_fields_that_refer_in_a_circle_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((ReferenceCycleError, ExpressionError)) as caught:
        instantiate(LazyConfig(Keeper)(**fields))
    assert "test_instantiate.py:" in str(caught.value)


def test_a_circle_is_shown_as_a_chain() -> None:
    with pytest.raises(ReferenceCycleError, match="these fields refer to one another: a -> b -> a"):
        instantiate(LazyConfig(Keeper)(a=expr("b"), b=expr("a")))


def test_long_chains_are_bounded_whatever_their_form() -> None:
    chain = {f"a{i}": expr(f"a{i + 1} + 1") for i in range(100)} | {"a100": 0}
    assert instantiate(LazyConfig(Keeper)(**chain)).a0 == 100
    for form in (expr, lambda name: f"${{{name}}}", lambda name: [f"${{{name}}}"]):
        endless: dict[str, Any] = {f"a{i}": form(f"a{i + 1}") for i in range(5000)} | {"a5000": 0}
        with pytest.raises(LazyConfigError):
            instantiate(LazyConfig(Keeper)(**endless))


def test_texts_that_double_are_bounded() -> None:
    doubling = {f"a{i}": f"${{a{i + 1}}}${{a{i + 1}}}" for i in range(40)} | {"a40": "xx"}
    with pytest.raises(ExpressionError, match="over 65536 characters"):
        instantiate(LazyConfig(Keeper)(**doubling))


def test_lists_that_double_take_no_time() -> None:
    doubling: dict[str, Any] = {f"a{i}": [f"${{a{i + 1}}}"] * 2 for i in range(60)} | {"a60": [1]}
    assert len(instantiate(LazyConfig(Keeper)(**doubling)).a0) == 2


def test_a_name_that_refers_to_nothing_names_field_place_and_close_names() -> None:
    config = LazyConfig(Keeper)(heigth=3, layer=LazyConfig(Layer)(width="height * 2"))
    with pytest.raises(ExpressionError) as caught:
        instantiate(config)
    text = str(caught.value)
    assert text.startswith("layer.width: height refers to nothing; did you mean 'heigth'?")
    assert "'height * 2' is read as an expression: width takes int" in text
    assert "set at " in text
    assert "test_instantiate.py:" in text


def test_a_parameter_that_is_not_set_is_pointed_out() -> None:
    with pytest.raises(ExpressionError, match="width is a parameter but not set"):
        instantiate(LazyConfig(Layer)(name="${width}"))


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("whole", "7 / 2", "'7 / 2' is 3.5; whole takes int"),
        ("whole", "1 / 0", "'1 / 0': division by zero"),
        ("whole", "auto", "auto refers to nothing"),
        ("whole", "3 +", "is not an expression"),
        ("whole", "${", "is not closed"),
        ("whole", "text", "'text' is 'abc'; whole takes int"),
        ("maybe", "text", "takes int or None"),
        ("auto", "text", "takes int or 'auto' or 'same'"),
        ("whole", "9**9**9", "over 1024 bits"),
        ("whole", "flag", "'flag' is True; whole takes int"),
        ("whole", "flag + 1", "flag is of type bool, not a real number"),
    ],
)
def test_a_result_of_the_wrong_type_is_refused(field: str, value: str, text: str) -> None:
    tree = LazyConfig(Keeper)(text="abc", flag=True, n=LazyConfig(numbers)(**{field: value}))
    with pytest.raises(ExpressionError) as caught:
        instantiate(tree)
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"n.{field}: ")


def test_whole_results_become_ints_and_expressions_may_give_none() -> None:
    assert instantiate(LazyConfig(numbers)(whole=expr("8 / 2")))["whole"] == 4
    assert type(instantiate(LazyConfig(numbers)(whole=expr("8 / 2")))["whole"]) is int
    assert instantiate(LazyConfig(Keeper)(nothing=None, n=LazyConfig(numbers)(maybe="nothing"))).n["maybe"] is None
    assert instantiate(LazyConfig(Keeper)(half=expr("8 / 2"))).half == 4.0


def test_objects_have_no_place_in_a_text() -> None:
    with pytest.raises(ExpressionError, match="which has no place in a text"):
        instantiate(LazyConfig(Keeper)(a=[1], name="x-${a}"))


def test_every_missing_field_is_named_before_anything_is_built() -> None:
    built = []

    def part(width: int, height: int) -> None:
        built.append(width)

    config = LazyConfig(Keeper)(
        a=LazyConfig(part)(width=1, height=2), b=LazyConfig(part)(width=PLACEHOLDER), c=[{"d": PLACEHOLDER}]
    )
    with pytest.raises(MissingFieldError) as caught:
        instantiate(config)
    text = str(caught.value)
    assert text.startswith("3 required fields have no value: b.height of ")
    assert "b.width, PLACEHOLDER set at " in text
    assert "part(width: int, height: int)" in text
    assert "c[0].d" in text
    assert built == []
    assert instantiate(config, **{"b.width": 1, "b.height": 2, "c[0].d": 3}).c == [{"d": 3}]


def test_a_name_that_became_unknown_is_refused_before_anything_is_built() -> None:
    built = []
    config = LazyConfig(Keeper)(first=LazyConfig(built.append)(object=1), layer=LazyConfig(Layer)())
    config.layer._lazy_fields["wdith"] = 3  # as from a pickle of another version
    with pytest.raises(UnknownFieldError, match=r"layer.wdith is not a parameter of Layer"):
        instantiate(config)
    assert built == []


def test_what_a_target_raises_keeps_its_type_and_gains_path_signature_and_sources() -> None:
    class Refusal(ValueError):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(text)
            self.code = code

    def fussy(width: int, name: str = "n") -> None:
        raise Refusal(7, "width must be even")

    config = LazyConfig(Keeper)(model=[LazyConfig(fussy)(width=3)])
    with pytest.raises(Refusal) as caught:
        instantiate(config)
    error = caught.value
    assert isinstance(error, ConstructionError)
    assert isinstance(error.__cause__, Refusal)
    assert error.code == 7
    lines = str(error).splitlines()
    assert lines[0].startswith("model[0]: ")
    assert lines[0].endswith("fussy raised Refusal: width must be even")
    assert lines[1].endswith("fussy(width: int, name: str = 'n')")
    assert lines[2].startswith("  width = 3, set at ")
    assert "test_instantiate.py:" in lines[2]


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"),
        OSError(2, "gone"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        ExceptionGroup("many", [ValueError()]),
        StopIteration(3),
        ZeroDivisionError("z"),
        TypeError("t"),
        RecursionError("deep"),
    ],
)
def test_exceptions_of_every_make_become_construction_errors(error: Exception) -> None:
    def target() -> None:
        raise error

    with pytest.raises(ConstructionError) as caught:
        instantiate(LazyConfig(target)())
    assert "target raised" in str(caught.value)
    assert type(error).__name__ in str(caught.value)
    assert caught.value.__cause__ is error


def test_construction_errors_survive_pickling() -> None:
    with pytest.raises(ConstructionError) as caught:
        instantiate(LazyConfig(Colour)("blue"))
    restored = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(restored, ValueError)
    assert isinstance(restored, ConstructionError)
    assert str(restored) == str(caught.value)


def test_exits_and_interrupts_pass_unchanged() -> None:
    with pytest.raises(SystemExit):
        instantiate(LazyConfig(sys.exit)(3))


def test_an_error_from_an_inner_call_of_instantiate_says_what_was_being_built() -> None:
    def outer(part_cfg: Any) -> Any:
        return instantiate(part_cfg)

    def inner(width: int) -> None:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd") as caught:
        instantiate(LazyConfig(Keeper)(net=LazyConfig(outer)(part_cfg=LazyConfig(inner)(width=3))))
    assert str(caught.value).startswith("net.part_cfg: ")
    assert any("while building net" in note for note in caught.value.__notes__)
    with pytest.raises(MissingFieldError, match=r"net\.part_cfg\.width of "):
        instantiate(LazyConfig(Keeper)(net=LazyConfig(outer)(part_cfg=LazyConfig(inner)())))


def test_threads_may_build_the_same_tree() -> None:
    config = LazyConfig(Keeper)(n=4, layers=[LazyConfig(Layer)(width="n * 2") for _ in range(20)])
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(instantiate(config))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(layer.width == 8 for result in results for layer in result.layers)


def test_classes_with_fields_of_every_kind_are_built() -> None:
    @dataclass(kw_only=True)
    class Options:
        rate: float
        sizes: list[int] = field(default_factory=list)

    class Meta(type):
        def __call__(cls, value: int) -> Any:
            return value * 2

    class Doubled(metaclass=Meta):
        pass

    assert instantiate(LazyConfig(Options)(rate="1 / 4", sizes=[1])) == Options(rate=0.25, sizes=[1])
    assert instantiate(LazyConfig(Doubled)(value=4)) == 8
    assert instantiate(LazyConfig("a-b".split)(sep="-")) == ["a", "b"]
    assert instantiate(LazyConfig(Layer().__class__)(width=2)) == Layer(2)
