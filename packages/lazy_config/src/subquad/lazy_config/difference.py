"""``diff``: what it takes to turn one tree into another."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from subquad.lazy_config._containers import is_container
from subquad.lazy_config._paths import format_path
from subquad.lazy_config._signature import target_name
from subquad.lazy_config.lazy import Config, same_target, same_value
from subquad.lazy_config.render import to_python

_SIGNS = {"added": "+", "removed": "-", "changed": "~", "retargeted": "@"}


@dataclass(frozen=True, slots=True, eq=False)
class FieldDifference:
    """One difference between two trees.

    Attributes:
      path: The field; empty for the root.
      kind: ``"added"`` (only in the second), ``"removed"`` (only in the first), ``"changed"``, or ``"retargeted"`` (a
        config of another target; ``before`` and ``after`` are the targets and their fields are compared by name).
      before: The value in the first tree; None if added.
      after: The value in the second tree; None if removed.
    """

    path: str
    kind: Literal["added", "removed", "changed", "retargeted"]
    before: Any
    after: Any

    def __str__(self) -> str:
        """One line where the values are short: ``~ model.depth: 4 -> 8``."""
        shown = target_name if self.kind == "retargeted" else to_python
        parts = [] if self.kind == "added" else [shown(self.before)]
        parts += [] if self.kind == "removed" else [shown(self.after)]
        return f"{_SIGNS[self.kind]} {self.path or 'root'}: {' -> '.join(parts)}"


@dataclass(frozen=True, slots=True, eq=False)
class TreeDifference:
    """All differences between two trees, in the order of the fields; false if there are none, iterable, printable."""

    changes: tuple[FieldDifference, ...]

    def __iter__(self) -> Iterator[FieldDifference]:
        """Over the differences."""
        return iter(self.changes)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.changes)

    def __str__(self) -> str:
        """One difference per line: ``~`` changed, ``+`` added, ``-`` removed, ``@`` another target."""
        return "\n".join(map(str, self.changes))


def diff(before: Any, after: Any) -> TreeDifference:
    """The differences between two trees, field by field.

    Args:
      before: A config, or a list, tuple or dict of configs and values.
      after: Another.

    Returns:
      The differences; ``print`` shows them, ``for change in …`` gives path, kind and both values of each.
    """
    return TreeDifference(tuple(_differences(before, after, ())))


def _differences(before: Any, after: Any, keys: tuple[Any, ...]) -> Iterator[FieldDifference]:
    if isinstance(before, Config) and isinstance(after, Config):
        if not same_target(before, after):
            yield FieldDifference(format_path(keys), "retargeted", before._lazy_target, after._lazy_target)
        yield from _by_key(before._lazy_fields, after._lazy_fields, keys)
    elif is_container(before) and type(before) is type(after):
        yield from _by_key(_items(before), _items(after), keys)
    elif not same_value(before, after):
        yield FieldDifference(format_path(keys), "changed", before, after)


def _items(container: Any) -> dict[Any, Any]:
    return container if isinstance(container, dict) else dict(enumerate(container))


def _by_key(before: dict[Any, Any], after: dict[Any, Any], keys: tuple[Any, ...]) -> Iterator[FieldDifference]:
    for key in (*before, *(k for k in after if k not in before)):
        inner = (*keys, key)
        if key not in after:
            yield FieldDifference(format_path(inner), "removed", before[key], None)
        elif key not in before:
            yield FieldDifference(format_path(inner), "added", None, after[key])
        else:
            yield from _differences(before[key], after[key], inner)
