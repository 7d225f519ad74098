"""A tree as text for people: as the Python that makes it, or field by field with who set what."""

import enum
from collections.abc import Iterator
from typing import Any

from subquad.lazy_config._paths import format_path, parse_path
from subquad.lazy_config._scope import Place, walk
from subquad.lazy_config._signature import target_name
from subquad.lazy_config.errors import UnknownFieldError
from subquad.lazy_config.history import Change, short_text
from subquad.lazy_config.lazy import MAX_DEPTH, Config, is_container, is_tuple

_WIDTH = 100
_INDENT = "    "


def to_python(tree: Any) -> str:
    """The Python text of a tree: ``LazyConfig(Network)(depth=4)``; broken into lines of about 100 characters.

    Names are written without their module, other objects by their ``repr``.
    """
    return _python(tree, "", MAX_DEPTH)


def to_text(tree: Any) -> str:
    """A tree as one line per field, ``path = value  (who set it)``, configs with their target."""
    lines = []
    for place in _places(Place(tree)):
        raw = place.raw
        if (
            is_container(raw)
            and len(raw)
            and any(isinstance(c.raw, Config) or is_container(c.raw) for c in place.children())
        ):
            continue
        value = target_name(raw._lazy_target) + "(…)" if isinstance(raw, Config) else short_text(raw)
        source = f"  ({place.source})" if place.source else ""
        lines.append(f"{place.path or 'root'} = {value}{source}")
    return "\n".join(lines)


def history_of(tree: Any, path: str = "") -> list[Change]:
    """Who set the field at ``path``, oldest first; without a path, the history of every field of the tree.

    A field inside a list or dict has the history of the field that holds the list or dict.

    Raises:
      UnknownFieldError: There is no such field and never was.
    """
    if not path:
        return [change for place in _places(Place(tree)) for change in _config_history(place)]
    keys = parse_path(path)
    for count in range(len(keys), 0, -1):
        holder = walk(Place(tree), keys[: count - 1])
        if holder is None or not isinstance(holder.raw, Config):
            continue
        found = [_at(change, path) for change in holder.raw._lazy_history.of(str(keys[count - 1]))]
        if count < len(keys) and walk(holder, keys[count - 1 :]) is None:
            break
        if found:
            return found
    if walk(Place(tree), keys) is None:
        raise UnknownFieldError(f"{path} is not set in this tree and never was")
    return []


def _config_history(place: Place) -> Iterator[Change]:
    if isinstance(place.raw, Config):
        for field in place.raw._lazy_history.fields():
            for change in place.raw._lazy_history.of(field):
                yield _at(change, format_path([field], place.path))


def _at(change: Change, path: str) -> Change:
    return Change(path, change.action, change.value, change.source)


def _places(place: Place) -> Iterator[Place]:
    yield place
    for child in place.children():
        if isinstance(child.raw, Config) or is_container(child.raw):
            yield from _places(child)
        elif isinstance(place.raw, Config | dict) or any(is_container(c.raw) for c in place.children()):
            yield child


def _python(value: Any, indent: str, levels: int) -> str:
    if levels < 0:
        return "…"
    if isinstance(value, Config):
        fields = value._lazy_fields
        start = f"LazyConfig({target_name(value._lazy_target)})("
        if all(name.isidentifier() for name in fields):
            return _joined(start, ")", [(f"{n}=", v) for n, v in fields.items()], indent, levels)
        return _joined(start + "**{", "})", [(f"{n!r}: ", v) for n, v in fields.items()], indent, levels)
    if type(value) is dict:
        return _joined("{", "}", [(f"{_leaf(k)}: ", v) for k, v in value.items()], indent, levels)
    if type(value) is list:
        return _joined("[", "]", [("", v) for v in value], indent, levels)
    if type(value) is tuple:
        return _joined("(", ",)" if len(value) == 1 else ")", [("", v) for v in value], indent, levels)
    if is_tuple(value):
        items = [(f"{name}=", item) for name, item in zip(type(value)._fields, value, strict=True)]
        return _joined(f"{type(value).__qualname__}(", ")", items, indent, levels)
    return _leaf(value)


def _joined(start: str, end: str, items: list[tuple[str, Any]], indent: str, levels: int) -> str:
    inner = indent + _INDENT
    texts = [name + _python(item, inner, levels - 1) for name, item in items]
    line = start + ", ".join(texts) + end
    if not texts or ("\n" not in line and len(indent) + len(line) <= _WIDTH):
        return line
    end = end.removeprefix(",")
    return start + "".join(f"\n{inner}{text}," for text in texts) + f"\n{indent}{end}"


def _leaf(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return str(value) if not isinstance(value, enum.Flag) else repr(value)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return value.__qualname__
    try:
        return repr(value)
    except Exception:  # a foreign repr
        return short_text(value)
