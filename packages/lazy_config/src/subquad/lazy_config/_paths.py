"""Paths into a tree of configs: ``model.blocks[0].depth``."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from subquad.lazy_config.errors import PathError

Key = str | int
Keys = tuple[Key, ...]

_PLAIN_NAME = re.compile(r"[^\W\d]\w*(?:-\w+)*\Z")
_STEP = re.compile(
    r"""\[\s*(?P<index>-?\d{1,9})\s*\]               # [0]
      | \[\s*(?P<quote>["'])(?P<quoted>.*?)(?P=quote)\s*\]  # ["a key"]
      | (?P<name>[^.\[\]=\s]+)                             # name, or 0
    """,
    re.VERBOSE,
)


def parse_path(text: str) -> Keys:
    """The keys of ``text``: names, and indices as ``[0]`` or ``.0``.

    Raises:
      PathError: ``text`` is not a path; says at which character.
    """
    keys: list[Key] = []
    position, after_dot = 0, True
    while position < len(text):
        match = _STEP.match(text, position)
        bracketed = match is not None and match["name"] is None
        if match is None or (not bracketed and not after_dot) or (bracketed and after_dot and keys):
            raise PathError(f"{text!r} is not a field path: character {position + 1} is not expected")
        keys.append(_key(match))
        position, after_dot = match.end(), False
        if text.startswith(".", position):
            position, after_dot = position + 1, True
    if after_dot and (keys or text):
        raise PathError(f"{text!r} is not a field path: it ends with a dot")
    return tuple(keys)


def _key(match: re.Match[str]) -> Key:
    if match["index"] is not None:
        return int(match["index"])
    if match["quoted"] is not None:
        return match["quoted"]
    name = match["name"]
    return int(name) if name.isascii() and name.isdigit() and len(name) < 10 else name


def format_path(keys: Iterable[Any], start: str = "") -> str:
    """The text of a path, ``start`` being the path of the root."""
    text = start
    for key in keys:
        if isinstance(key, str) and _PLAIN_NAME.match(key):
            text += f".{key}" if text else key
        else:
            text += f"[{key!r}]"
    return text


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """``; did you mean 'depth'?`` where a known name is close to ``name``, else empty."""
    names = list(dict.fromkeys(str(k) for k in known))
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
    if not close:
        lowered = {n.lower(): n for n in names}
        close = [lowered[c] for c in difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.6)]
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def known_names(names: Iterable[Any], limit: int = 24) -> str:
    """A list of names for messages."""
    shown = [str(n) for n in names]
    return ", ".join(shown[:limit]) + (f", … ({len(shown)} in all)" if len(shown) > limit else "") if shown else "none"
