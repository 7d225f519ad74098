"""A tree as text for people: as the Python that makes it, or field by field with who set what."""

from collections.abc import Iterator
from typing import Any

from subquad.lazy_config._containers import is_container
from subquad.lazy_config._paths import format_path, parse_path
from subquad.lazy_config._python_text import to_python as to_python
from subquad.lazy_config._scope import Place, walk
from subquad.lazy_config._signature import target_name
from subquad.lazy_config.errors import UnknownFieldError
from subquad.lazy_config.history import Change, short_text
from subquad.lazy_config.lazy import Config


def to_text(tree: Any) -> str:
    """A tree as one line per field, ``path = value  (who set it)``, configs with their target."""
    lines = []
    for place in _places(Place(tree)):
        raw = place.raw
        if is_container(raw) and _has_lines(raw):
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
      PathError: ``path`` cannot be read.
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
    """The places that have a line of their own: fields, configs, and what holds these."""
    yield place
    for child in place.children():
        if _has_lines(child.raw):
            yield from _places(child)
        elif not is_container(place.raw) or _has_lines(place.raw) or place.parent is None:
            yield child


def _has_lines(value: Any) -> bool:
    """Whether ``value`` is a config or holds one."""
    if isinstance(value, Config):
        return True
    return is_container(value) and any(map(_has_lines, value.values() if isinstance(value, dict) else value))
