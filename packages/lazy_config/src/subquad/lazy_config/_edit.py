"""Changes one place of a tree; used by every kind of override."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from subquad.lazy_config._containers import is_container, is_tuple
from subquad.lazy_config._paths import Key, Keys, did_you_mean, format_path, known_names, parse_path
from subquad.lazy_config._signature import target_name
from subquad.lazy_config._template import has_reference
from subquad.lazy_config.errors import LazyConfigError, OverrideError, UnknownFieldError
from subquad.lazy_config.expression import Expression
from subquad.lazy_config.history import short_text
from subquad.lazy_config.lazy import Config, delete_field, set_field

ABSENT: Final = object()
"""The value of a field that is not set."""
DELETE: Final = object()
"""What a change returns to delete the field."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One place of a tree that is about to change; ``value`` is ``ABSENT`` if nothing is there yet."""

    holder: Any
    key: Any
    value: Any
    keys: Keys
    path: str


def edit(tree: Any, keys: Keys, change: Callable[[Spot], Any], source: str) -> Any:
    """``tree`` with one place changed: configs, lists and dicts in place, tuples anew.

    Raises:
      UnknownFieldError: A step of ``keys`` leads nowhere; names what there is.
    """
    if not keys:
        raise OverrideError("an override names a field, such as model.depth; got an empty path")
    start = tree._lazy_path if isinstance(tree, Config) else ""
    return _edit(tree, keys, 0, start, change, source)


def set_paths(tree: Any, changes: Mapping[str, Any], source: str) -> Any:
    """``tree`` with the fields at dotted paths set, in place where it can be."""
    for text, value in changes.items():
        tree = edit(tree, parse_path(text), lambda spot, value=value: _present(spot, value), source)
    return tree


def refuse_absent(spot: Spot) -> None:
    """Raises ``UnknownFieldError`` if ``spot`` is no field: not in a dict or list, or nothing that a target takes."""
    if spot.value is not ABSENT:
        return
    if not isinstance(spot.holder, Config):
        raise _unknown(spot.holder, spot.key, spot.path)


def _present(spot: Spot, value: Any) -> Any:
    refuse_absent(spot)
    return value


def _edit(node: Any, keys: Keys, at: int, start: str, change: Callable[[Spot], Any], source: str) -> Any:
    path = format_path(keys[: at + 1], start)
    key = _own_key(node, keys[at], path, start if at == 0 else format_path(keys[:at], start))
    value = _get(node, key)
    if at == len(keys) - 1:
        new = change(Spot(node, key, value, keys, path))
    elif value is ABSENT:
        if isinstance(node, Config) and node._lazy_signature.takes(str(key)):
            raise UnknownFieldError(f"{path} is not set, so {format_path(keys[: at + 2], start)} cannot be")
        raise _unknown(node, key, path)
    else:
        new = _edit(value, keys, at + 1, start, change, source)
        if new is value:
            return node
    return _put(node, key, new, path, source)


def _own_key(node: Any, key: Key, path: str, holder_path: str) -> Any:
    """``key`` as ``node`` spells it."""
    if isinstance(node, Config):
        if not node._lazy_signature.takes(str(key)):
            raise _unknown(node, key, path)
        return str(key)
    if type(node) is dict:
        return next((own for own in node if own == key or str(own) == str(key)), key)
    if is_container(node):
        if not isinstance(key, int):
            raise UnknownFieldError(f"{path}: {holder_path or 'the root'} is a list; give an index below {len(node)}")
        return key + len(node) if -len(node) <= key < 0 else key
    if isinstance(node, Expression) or (isinstance(node, str) and has_reference(node)):
        raise UnknownFieldError(f"{path}: {holder_path} is {node!r}; set the field there, or replace {holder_path}")
    raise UnknownFieldError(f"{path}: {holder_path or 'the root'} is {short_text(node)}, which has no fields")


def _get(node: Any, key: Any) -> Any:
    if isinstance(node, Config):
        return node._lazy_fields.get(key, ABSENT)
    if type(node) is dict:
        return node.get(key, ABSENT)
    return node[key] if 0 <= key < len(node) else ABSENT


def _put(node: Any, key: Any, new: Any, path: str, source: str) -> Any:
    if isinstance(node, Config):
        if new is DELETE:
            delete_field(node, key, source)
        else:
            set_field(node, key, new, source)
        return node
    if type(node) is dict:
        if new is DELETE:
            del node[key]
        else:
            node[key] = new
        return node
    items = list(node)
    items[key : key + 1] = [] if new is DELETE else [new]
    if type(node) is list:
        node[:] = items
        return node
    if type(node) is tuple:
        return tuple(items)
    assert is_tuple(node)
    if len(items) != len(node):
        raise LazyConfigError(f"{path} cannot be added or deleted: {type(node).__name__} has {len(node)} items")
    return type(node)(*items)


def _unknown(holder: Any, key: Any, path: str) -> UnknownFieldError:
    if isinstance(holder, Config):
        signature = holder._lazy_signature
        close = did_you_mean(key, [*signature.names(), *holder._lazy_fields])
        return UnknownFieldError(
            f"{path}: {key} is not a parameter of {target_name(holder._lazy_target)}{close}\n  signature: {signature}"
        )
    if type(holder) is dict:
        return UnknownFieldError(
            f"{path}: there is no {key!r}{did_you_mean(key, holder)}; there is {known_names(holder)}"
        )
    return UnknownFieldError(f"{path}: there are {len(holder)} items")
