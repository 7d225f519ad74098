"""Configs as values: fields, names, copies, equality."""

import copy
import functools
import pickle
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest

from subquad.lazy_config import (
    PLACEHOLDER,
    Config,
    FieldNotSetError,
    LazyConfig,
    LazyConfigError,
    TargetError,
    UnknownFieldError,
    expr,
    fields_of,
    instantiate,
    target_of,
)


@dataclass
class Mixer:
    width: int
    order: int = 2
    name: str = "hyena"


@dataclass
class Network:
    depth: int
    mixer_cfg: Any = None
    blocks: Any = ()
    dropout: float = 0.0


Size = namedtuple("Size", ["height", "width"])


def open_ended(first: int, *rest: int, **options: object) -> tuple[Any, ...]:
    return first, rest, options


def variadic(head: int, *items: int, tail: int = 0) -> tuple[Any, ...]:
    return head, items, tail


def positional_only(a: int, b: int = 2, /, c: int = 3) -> tuple[int, ...]:
    return a, b, c


def test_fields_are_read_set_and_deleted_as_attributes() -> None:
    config = LazyConfig(Network)(depth=4)
    config.depth += 4
    config.dropout = 0.1
    assert (config.depth, config.dropout) == (8, 0.1)
    assert dict(fields_of(config)) == {"depth": 8, "dropout": 0.1}
    del config.dropout
    assert not hasattr(config, "dropout")
    assert target_of(config) is Network
    assert isinstance(config, Config)


def test_any_parameter_name_is_free() -> None:
    def target(copy: int, items: int, keys: int, target: int, fields: int, self: int) -> int:
        return copy + items + keys + target + fields + self

    config = LazyConfig(target)(copy=1, items=2, keys=3, target=4, fields=5, self=6)
    assert (config.copy, config.items, config.self) == (1, 2, 6)
    assert instantiate(config) == 21


def test_an_unknown_name_is_refused_at_once_with_a_suggestion_and_the_signature() -> None:
    with pytest.raises(UnknownFieldError) as caught:
        LazyConfig(Mixer)(widht=4)
    lines = str(caught.value).splitlines()
    assert lines[0] == "widht is not a parameter of Mixer; did you mean 'width'?"
    assert lines[1] == "  signature: Mixer(width: int, order: int = 2, name: str = 'hyena')"
    config = LazyConfig(Mixer)(width=4)
    with pytest.raises(UnknownFieldError, match="did you mean 'order'"):
        config.ordr = 3
    with pytest.raises(UnknownFieldError, match="did you mean 'width'"):
        _ = config.widht
    assert dict(fields_of(config)) == {"width": 4}


def test_reading_a_field_that_is_not_set_tells_the_default() -> None:
    config = LazyConfig(Mixer)()
    with pytest.raises(FieldNotSetError, match="order of Mixer is not set; the target's default is 2"):
        _ = config.order
    with pytest.raises(FieldNotSetError, match="width of Mixer is not set; it is required"):
        _ = config.width
    with pytest.raises(UnknownFieldError, match="order is not set in the config of Mixer"):
        del config.order
    assert getattr(config, "order", None) is None
    assert not hasattr(config, "__array__")


def test_what_is_put_in_is_copied_so_that_sharing_is_safe() -> None:
    mixer = LazyConfig(Mixer)(width=4)
    network = LazyConfig(Network)(depth=2, blocks=[mixer] * 3, mixer_cfg=mixer)
    mixer.width = 5
    network.blocks[0].width = 6
    assert [block.width for block in network.blocks] == [6, 4, 4]
    assert network.mixer_cfg.width == 4
    sizes = [1, [2]]
    network.blocks = sizes
    sizes[1].append(3)
    assert network.blocks == [1, [2]]


def test_other_objects_are_kept_as_they_are() -> None:
    weights = object()
    config = LazyConfig(Network)(depth=1, blocks=weights)
    assert config.blocks is weights
    assert copy.copy(config).blocks is weights


def test_a_deep_copy_is_independent_and_keeps_the_target() -> None:
    config = LazyConfig(Network)(depth=1, mixer_cfg=LazyConfig(Mixer)(width=4), blocks={"a": [1]})
    for copied in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert copied == config
        copied.mixer_cfg.width = 9
        copied.blocks["a"].append(2)
        assert config.mixer_cfg.width == 4
        assert config.blocks == {"a": [1]}
        assert target_of(copied) is Network


def test_a_deep_copy_copies_values_that_are_shared_once() -> None:
    shared = {1, 2}
    config = LazyConfig(Network)(depth=1, mixer_cfg=shared, blocks=shared)
    copied = copy.deepcopy(config)
    assert copied.mixer_cfg is copied.blocks is not shared


def test_configs_are_equal_by_value() -> None:
    nan = float("nan")
    assert LazyConfig(Mixer)(width=4, order=1) == LazyConfig(Mixer)(order=1, width=4)
    assert LazyConfig(Mixer)(width=4) != LazyConfig(Mixer)(width=5)
    assert LazyConfig(Mixer)(width=4) != LazyConfig(Network)(depth=4)
    assert LazyConfig(Mixer)(width=1) != LazyConfig(Mixer)(width=True)
    assert LazyConfig(Mixer)(width=1) == LazyConfig(Mixer)(width=1.0)
    assert LazyConfig(Mixer)(width=[nan]) == LazyConfig(Mixer)(width=[float("nan")])
    assert LazyConfig(Mixer)(width=[1]) != LazyConfig(Mixer)(width=(1,))
    assert LazyConfig(Mixer)(width=expr("a")) == LazyConfig(Mixer)(width=expr("a"))
    assert LazyConfig(functools.partial(Mixer, order=1))() == LazyConfig(functools.partial(Mixer, order=1))()
    assert LazyConfig(functools.partial(Mixer, order=1))() != LazyConfig(functools.partial(Mixer, order=2))()
    assert LazyConfig(Mixer)() != 3
    with pytest.raises(TypeError):
        hash(LazyConfig(Mixer)())


def test_arrays_are_equal_by_shape_and_items() -> None:
    class Array(list[int]):
        @property
        def shape(self) -> int:
            return len(self)

        def all(self) -> bool:
            return all(self)

        def __eq__(self, other: object) -> Any:
            return Array([a == b for a, b in zip(self, other, strict=False)] if isinstance(other, list) else [])

        __hash__ = None  # pyright: ignore[reportAssignmentType]

    assert LazyConfig(Mixer)(width=Array([1, 2])) == LazyConfig(Mixer)(width=Array([1, 2]))
    assert LazyConfig(Mixer)(width=Array([1, 2])) != LazyConfig(Mixer)(width=Array([1, 3]))
    assert LazyConfig(Mixer)(width=Array([1])) != LazyConfig(Mixer)(width=Array([1, 1]))


def test_values_whose_equality_is_not_defined_are_unequal_and_not_an_error() -> None:
    class Array:
        def __eq__(self, other: object) -> Any:
            raise ValueError("ambiguous")

        __hash__ = None  # pyright: ignore[reportAssignmentType]

    assert LazyConfig(Mixer)(width=Array()) != LazyConfig(Mixer)(width=Array())


def test_positional_values_get_their_names_from_the_signature() -> None:
    assert LazyConfig(Mixer)(4, 3) == LazyConfig(Mixer)(width=4, order=3)
    assert dict(fields_of(LazyConfig(variadic)(1, 2, 3, tail=4))) == {"head": 1, "items": [2, 3], "tail": 4}
    assert instantiate(LazyConfig(variadic)(1, 2, 3, tail=4)) == (1, (2, 3), 4)
    assert instantiate(LazyConfig(variadic)(1)) == (1, (), 0)
    assert instantiate(LazyConfig(positional_only)(1, c=5)) == (1, 2, 5)
    assert instantiate(LazyConfig(positional_only)(b=7, a=1)) == (1, 7, 3)
    with pytest.raises(LazyConfigError, match=r"Mixer takes fewer positional values \(4 given\)"):
        LazyConfig(Mixer)(1, 2, "x", 4)
    with pytest.raises(LazyConfigError, match="width given by position and by name"):
        LazyConfig(Mixer)(1, width=2)


def test_a_target_with_open_keywords_takes_any_field() -> None:
    config = LazyConfig(open_ended)(first=1, anything="x")
    config.more = 3
    assert instantiate(config) == (1, (), {"anything": "x", "more": 3})
    assert instantiate(LazyConfig(dict)(a=1, b=[LazyConfig(Mixer)(width=2)])) == {"a": 1, "b": [Mixer(2)]}


def test_a_target_is_something_to_call() -> None:
    with pytest.raises(TargetError, match="import the class and give it itself"):
        LazyConfig("subquad.modules:Hyena")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TargetError, match="got 3"):
        LazyConfig(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TargetError, match="another"):
        LazyConfig(LazyConfig(Mixer))
    with pytest.raises(TargetError):
        LazyConfig(LazyConfig(Mixer)())  # pyright: ignore[reportArgumentType]


def test_a_placeholder_is_one_false_object_that_survives_copying() -> None:
    assert not PLACEHOLDER
    assert copy.deepcopy(PLACEHOLDER) is pickle.loads(pickle.dumps(PLACEHOLDER)) is PLACEHOLDER
    assert repr(PLACEHOLDER) == "PLACEHOLDER"


def test_named_tuples_stay_named_tuples() -> None:
    config = LazyConfig(Network)(depth=1, blocks=Size(LazyConfig(Mixer)(width=1), 2))
    built = instantiate(config).blocks
    assert built == Size(Mixer(1), 2)
    assert type(built) is Size


def test_a_tree_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(LazyConfigError, match="100 levels"):
        LazyConfig(Network)(depth=1, blocks=endless)


def test_completion_shows_fields_and_parameters() -> None:
    assert dir(LazyConfig(Mixer)(width=1)) == ["name", "order", "width"]
