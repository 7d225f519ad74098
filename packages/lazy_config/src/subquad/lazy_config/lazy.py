"""Deferred constructor calls: ``LazyConfig(Target)(field=value, …)`` is a ``Config`` that is built later.

A config is a value. What is put into one is copied on the way in (configs, lists, tuples and dicts; other objects are
kept as they are), so the same part can be given to many configs and each may be changed alone.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar, final

from subquad.lazy_config._containers import is_container, map_container
from subquad.lazy_config._paths import did_you_mean, known_names
from subquad.lazy_config._python_text import to_python
from subquad.lazy_config._signature import Signature, target_name
from subquad.lazy_config.errors import FieldNotSetError, LazyConfigError, TargetError, UnknownFieldError
from subquad.lazy_config.history import FieldHistory, caller_source, short_text

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
MAX_DEPTH = 100
"""How deep a tree may nest."""


@final
class Placeholder:
    """The type of ``PLACEHOLDER``; there is one instance, also after copying and pickling."""

    __slots__ = ()
    _instance: "Placeholder | None" = None

    def __new__(cls) -> "Placeholder":
        """Returns the one instance."""
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        """The name it is imported under."""
        return "PLACEHOLDER"

    def __bool__(self) -> bool:
        """False, as for a value that is not there."""
        return False

    def __reduce__(self) -> tuple[type["Placeholder"], tuple[()]]:
        return Placeholder, ()


PLACEHOLDER: Any = Placeholder()
"""The value of a field that must be given before the tree is built."""


class Config(Generic[T_co]):
    """A constructor call that has not happened yet: a target and the fields it will be called with.

    Fields are read, set and deleted as attributes; names that the target does not take are refused at once. There are
    no public methods, so any parameter name is free: ``target_of`` and ``fields_of`` look inside. Configs are equal
    when target and fields are.
    """

    __slots__ = ("__weakref__", "_lazy_fields", "_lazy_history", "_lazy_path", "_lazy_signature", "_lazy_target")
    __hash__ = None  # pyright: ignore[reportAssignmentType]
    _lazy_target: Callable[..., T_co]
    _lazy_fields: dict[str, Any]
    _lazy_history: FieldHistory
    _lazy_signature: Signature
    _lazy_path: str

    def __init__(self, target: Callable[..., T_co]) -> None:
        """Starts a config without fields; ``LazyConfig(target)(…)`` is the usual way."""
        place = object.__setattr__
        place(self, "_lazy_target", target)
        place(self, "_lazy_signature", Signature(target))
        place(self, "_lazy_fields", {})
        place(self, "_lazy_history", FieldHistory())
        place(self, "_lazy_path", "")

    def __getattr__(self, name: str) -> Any:
        """The value of field ``name``.

        Raises:
          FieldNotSetError: The target takes ``name`` but it is not set here.
          UnknownFieldError: The target does not take ``name``.
        """
        if name.startswith(("_lazy_", "__")):  # an instance in the making, or a protocol that configs do not have
            raise AttributeError(name)
        fields = self._lazy_fields
        if name in fields:
            return fields[name]
        signature = self._lazy_signature
        if name not in signature.names():
            _refuse_name(self, name, "is not a field of", fields)
        default = (
            signature.parameters[name].default
            if not signature.requires(name) and name in signature.parameters
            else None
        )
        note = "it is required" if signature.requires(name) else f"the target's default is {short_text(default)}"
        raise FieldNotSetError(f"{name} of {target_name(self._lazy_target)} is not set; {note}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets field ``name``; a name that the target does not take raises ``UnknownFieldError``."""
        set_field(self, name, value, caller_source())

    def __delattr__(self, name: str) -> None:
        """Deletes field ``name``, so that the target's default holds again."""
        delete_field(self, name, caller_source())

    def __eq__(self, other: object) -> bool:
        """Whether both have the same target and equal fields; the order and history of fields do not count."""
        if not isinstance(other, Config):
            return NotImplemented
        return same_value(self, other)

    def __dir__(self) -> list[str]:
        """The fields and parameters, for completion."""
        return sorted({*self._lazy_fields, *self._lazy_signature.names()})

    def __repr__(self) -> str:
        """The Python text of the config, on one line where it is short."""
        return to_python(self)

    def __python_call__(self) -> tuple[str, Mapping[str, Any]]:
        return f"LazyConfig({target_name(self._lazy_target)})", self._lazy_fields

    def __short_text__(self) -> str:
        return f"LazyConfig({target_name(self._lazy_target)})(…)"

    def __copy__(self) -> "Config[T_co]":
        return copy_tree(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Config[T_co]":
        copied = bare_copy(self)
        memo[id(self)] = copied
        copied._lazy_fields.update({name: copy.deepcopy(value, memo) for name, value in self._lazy_fields.items()})
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._lazy_target, self._lazy_fields, self._lazy_history, self._lazy_path)


class LazyConfig(Generic[T]):
    """Defers calls of ``target``: ``LazyConfig(Network)(depth=4)`` is a ``Config[Network]``.

    Raises:
      TargetError: ``target`` is not a class or another callable.
    """

    __slots__ = ("_target",)

    def __init__(self, target: Callable[..., T], /) -> None:
        if not callable(target):
            way_out = "; import the class and give it itself" if isinstance(target, str) else ""
            raise TargetError(f"a config needs a class or function to call, got {short_text(target)}{way_out}")
        if isinstance(target, Config | LazyConfig):
            raise TargetError(f"a config needs a class or function to call, got another {type(target).__name__}")
        self._target = target

    def __call__(self, /, *positional: Any, **fields: Any) -> Config[T]:
        """A config with ``fields``; positional values get the names that the target's signature gives them.

        Raises:
          UnknownFieldError: The target takes no parameter of such a name.
          LazyConfigError: More positional values than the target takes, or one of them named as well.
        """
        config, source = Config(self._target), caller_source()
        if positional:
            fields = _bind(config, positional, fields)
        for name, value in fields.items():
            set_field(config, name, value, source)
        return config

    def __repr__(self) -> str:
        """``LazyConfig(Target)``."""
        return f"LazyConfig({target_name(self._target)})"


def target_of(config: Config[T]) -> Callable[..., T]:
    """The class or function that ``config`` will call."""
    return config._lazy_target


def fields_of(config: Config[Any]) -> Mapping[str, Any]:
    """A read-only view of the fields that are set, in the order in which they were set."""
    return MappingProxyType(config._lazy_fields)


def set_field(config: Config[Any], name: str, value: Any, source: str) -> None:
    """Sets a field and remembers that ``source`` did."""
    if not config._lazy_signature.takes(name):
        _refuse_name(config, name, "is not a parameter of", config._lazy_signature.names())
    config._lazy_fields[name] = copy_tree(value)
    config._lazy_history.record(name, "set", value, source)


def delete_field(config: Config[Any], name: str, source: str) -> None:
    """Deletes a field and remembers that ``source`` did."""
    if name not in config._lazy_fields:
        _refuse_name(config, name, "is not set in the config of", config._lazy_fields)
    del config._lazy_fields[name]
    config._lazy_history.record(name, "deleted", None, source)


def copy_tree(tree: T) -> T:
    """A copy of the configs, lists, tuples and dicts of ``tree``; all other objects are shared with it."""
    return _copy(tree, MAX_DEPTH)


def same_value(left: Any, right: Any) -> bool:
    """Equality by value that never raises: configs by target and fields, NaN equal to NaN, bool unlike int.

    Arrays are equal when their shapes and all their items are.
    """
    if left is right:
        return True
    if isinstance(left, Config) and isinstance(right, Config):
        return same_target(left, right) and same_value(left._lazy_fields, right._lazy_fields)
    if is_container(left) and type(left) is type(right):
        return _same_items(left, right)
    if isinstance(left, bool) is not isinstance(right, bool):
        return False
    try:
        if type(left) is type(right) is float and left != left:
            return right != right
        equal = left == right
        if hasattr(equal, "all"):
            return left.shape == right.shape and bool(equal.all())
        return bool(equal)
    except Exception:  # a foreign comparison that fails
        return False


def _same_items(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in left)
    return len(left) == len(right) and all(map(same_value, left, right))


def same_target(left: Config[Any], right: Config[Any]) -> bool:
    """Whether both call the same target; partials count as the same when they bind the same."""
    a, b = target_of(left), target_of(right)
    if a is b:
        return True
    if isinstance(a, functools.partial) and isinstance(b, functools.partial):
        return a.func == b.func and same_value([a.args, a.keywords], [b.args, b.keywords])
    return bool(a == b)


def _copy(tree: Any, levels: int) -> Any:
    if levels < 0:
        raise LazyConfigError(f"a config may nest {MAX_DEPTH} levels at most (a list that holds itself?)")
    if isinstance(tree, Config):
        copied = bare_copy(tree)
        copied._lazy_fields.update({name: _copy(value, levels - 1) for name, value in tree._lazy_fields.items()})
        return copied
    if is_container(tree):
        return map_container(tree, lambda _, item: _copy(item, levels - 1))
    return tree


def bare_copy(config: Config[T]) -> Config[T]:
    """A copy without fields."""
    copied: Config[T] = Config.__new__(Config)
    place = object.__setattr__
    place(copied, "_lazy_target", config._lazy_target)
    place(copied, "_lazy_signature", config._lazy_signature)
    place(copied, "_lazy_fields", {})
    place(copied, "_lazy_history", config._lazy_history.copy())
    place(copied, "_lazy_path", config._lazy_path)
    return copied


def _restore(target: Callable[..., Any], fields: dict[str, Any], history: FieldHistory, path: str) -> Config[Any]:
    config: Config[Any] = Config(target)
    config._lazy_fields.update(fields)
    object.__setattr__(config, "_lazy_history", history)
    object.__setattr__(config, "_lazy_path", path)
    return config


def _bind(config: Config[Any], positional: tuple[Any, ...], fields: dict[str, Any]) -> dict[str, Any]:
    signature = config._lazy_signature
    bound = signature.bind_positionals(positional)
    if bound is None:
        takes = "takes fewer positional values" if signature.readable else "does not name its positional values"
        raise LazyConfigError(f"{target_name(config._lazy_target)} {takes} ({len(positional)} given): {signature}")
    twice = bound.keys() & fields.keys()
    if twice:
        raise LazyConfigError(f"{known_names(sorted(twice))} given by position and by name: {signature}")
    return {**bound, **fields}


def _refuse_name(config: Config[Any], name: str, why: str, known: Any) -> NoReturn:
    suggestion = did_you_mean(name, known)
    where = f"{config._lazy_path}." if config._lazy_path else ""
    raise UnknownFieldError(
        f"{where}{name} {why} {target_name(config._lazy_target)}{suggestion}\n  signature: {config._lazy_signature}"
    )
