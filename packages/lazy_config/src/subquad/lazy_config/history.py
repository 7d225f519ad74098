"""Who set a field: every change of a config's field is kept with the place it came from.

Two rules that are not obvious. A source is the nearest frame outside this package, so a helper of yours that sets
fields is named, not the caller of the helper. Only a short text of each value is kept, so history keeps no tensors
alive.
"""

import os
import sys
from dataclasses import dataclass
from typing import Any, Literal

_PACKAGE = __name__.rpartition(".")[0]
_SKIPPED = (_PACKAGE, "beartype", "jaxtyping")  # run-time type checkers put frames of their own between ours
_KEPT_PER_FIELD = 32
_TEXT_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one field.

    Attributes:
      path: The field, from the root of the tree that was asked, such as ``model.blocks[0].depth``.
      action: ``"set"``, or ``"deleted"`` (the field went back to the target's default).
      value: A short text of the value, at most 80 characters.
      source: ``file:line``, the command-line text, or the line of the YAML file.
    """

    path: str
    action: Literal["set", "deleted"]
    value: str
    source: str

    def __str__(self) -> str:
        """One line for people."""
        what = f"= {self.value}" if self.action == "set" else "deleted"
        return f"{self.path} {what}  ({self.source})"


class FieldHistory:
    """The changes of the fields of one config, oldest first; at most 32 are kept for each field."""

    __slots__ = ("_changes",)

    def __init__(self) -> None:
        self._changes: dict[str, tuple[Change, ...]] = {}

    def record(self, field: str, action: Literal["set", "deleted"], value: Any, source: str) -> None:
        """Adds a change of ``field``."""
        change = Change(field, action, short_text(value) if action == "set" else "", source)
        self._changes[field] = (*self._changes.get(field, ()), change)[-_KEPT_PER_FIELD:]

    def of(self, field: str) -> tuple[Change, ...]:
        """The changes of ``field``, oldest first."""
        return self._changes.get(field, ())

    def fields(self) -> tuple[str, ...]:
        """Every field that was ever changed."""
        return tuple(self._changes)

    def source(self, field: str) -> str:
        """Where ``field`` got its present value; empty where that is not known."""
        changes = self._changes.get(field)
        return changes[-1].source if changes else ""

    def copy(self) -> "FieldHistory":
        """An independent copy."""
        copied = FieldHistory()
        copied._changes = dict(self._changes)
        return copied


def caller_source() -> str:
    """``file:line`` of the nearest caller outside this package, relative to the working folder where it is inside."""
    frame = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not any(module == name or module.startswith(name + ".") for name in _SKIPPED):
            return f"{shown_path(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return "<unknown>"


def shown_path(path: str) -> str:
    """``path`` relative to the working folder where it lies inside, else unchanged."""
    if not os.path.isabs(path):
        return path
    try:
        folder = os.getcwd()
    except OSError:
        return path
    return os.path.relpath(path, folder) if path.startswith(folder.rstrip(os.sep) + os.sep) else path


def short_text(value: Any) -> str:
    """A text of ``value`` of at most 80 characters; never calls the ``repr`` of a type it does not know."""
    text = _text(value, 3)
    return text if len(text) <= _TEXT_LENGTH else text[: _TEXT_LENGTH - 1] + "…"


def _text(value: Any, levels: int) -> str:
    if value is None or isinstance(value, bool | int | float | complex):
        try:
            return repr(value)
        except ValueError:  # an integer with more digits than Python prints
            return f"<int of {value.bit_length()} bits>" if isinstance(value, int) else "<number>"
    if isinstance(value, str | bytes):
        return repr(value[:_TEXT_LENGTH])
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return value.__qualname__
    if levels and type(value) in (list, tuple, dict):
        return _container_text(value, levels - 1)
    if type(value).__module__.startswith(_PACKAGE + "."):
        short = getattr(type(value), "__short_text__", repr)
        return short(value)
    return f"<{type(value).__qualname__}>"


def _container_text(value: Any, levels: int) -> str:
    more = ", …" if len(value) > 8 else ""
    if isinstance(value, dict):
        pairs = list(value.items())[:8]
        return "{" + ", ".join(f"{_text(k, levels)}: {_text(v, levels)}" for k, v in pairs) + more + "}"
    inner = ", ".join(_text(item, levels) for item in value[:8]) + more
    if isinstance(value, list):
        return f"[{inner}]"
    return f"({inner},)" if len(value) == 1 else f"({inner})"
