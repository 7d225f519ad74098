"""The Python text of a tree.

A config says by ``__python_call__`` how it is called, so that this file needs to know nothing of configs and configs
can use it for their own ``repr``.
"""

import enum
from typing import Any

from subquad.lazy_config._containers import is_tuple
from subquad.lazy_config.history import short_text

_WIDTH = 100
_INDENT = "    "
_MAX_DEPTH = 100


def to_python(tree: Any) -> str:
    """The Python text of a tree: ``LazyConfig(Network)(depth=4)``; broken into lines of about 100 characters.

    Names are written without their module, other objects by their ``repr``.
    """
    return _python(tree, "", _MAX_DEPTH)


def _python(value: Any, indent: str, levels: int) -> str:
    if levels < 0:
        return "…"
    if hasattr(type(value), "__python_call__"):
        start, fields = value.__python_call__()
        if all(name.isidentifier() for name in fields):
            return _joined(start + "(", ")", [(f"{n}=", v) for n, v in fields.items()], indent, levels)
        return _joined(start + "(**{", "})", [(f"{n!r}: ", v) for n, v in fields.items()], indent, levels)
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
