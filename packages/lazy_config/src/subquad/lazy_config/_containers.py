"""Which values a tree looks into: lists, dicts, tuples and named tuples; every other object is opaque."""

from collections.abc import Callable
from typing import Any


def map_container(value: Any, change: Callable[[Any, Any], Any]) -> Any:
    """``value`` with every item replaced by ``change(key, item)`` if it is a list, tuple or dict; else None."""
    kind = type(value)
    if kind is dict:
        return {key: change(key, item) for key, item in value.items()}
    if kind is list:
        return [change(i, item) for i, item in enumerate(value)]
    if is_tuple(value):
        items = [change(i, item) for i, item in enumerate(value)]
        return tuple(items) if kind is tuple else kind(*items)
    return None


def is_tuple(value: Any) -> bool:
    """Whether ``value`` is a plain or named tuple (other subclasses are opaque values)."""
    return type(value) is tuple or (isinstance(value, tuple) and hasattr(type(value), "_fields"))


def is_container(value: Any) -> bool:
    """Whether ``value`` is a list, tuple or dict that a tree looks into."""
    return type(value) in (list, dict) or is_tuple(value)
