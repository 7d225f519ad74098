"""Reads the text of a value as the type that a parameter is annotated with."""

import collections.abc
import enum
import pathlib
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

from subquad.lazy_config._signature import EMPTY, alternatives, annotation_text, numeric_of
from subquad.lazy_config._template import has_reference, parse_template
from subquad.lazy_config.errors import ExpressionError
from subquad.lazy_config.expression import Expression, expr

_TRUE, _FALSE, _NONE = ("true", "yes", "on"), ("false", "no", "off"), ("none", "null")
_WHOLE = re.compile(r"[+-]?[0-9](?:_?[0-9])*\Z")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_MAX_DEPTH = 20
_LISTS: tuple[Any, ...] = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_SETS: tuple[Any, ...] = (set, frozenset, collections.abc.Set)
_DICTS: tuple[Any, ...] = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Unreadable(Exception):
    """The text is no value of the type."""


def read_value(text: str, annotation: Any, current: Any = EMPTY) -> Any:
    """The value that ``text`` stands for.

    Args:
      text: What stands after ``=``.
      annotation: The parameter's type; ``EMPTY`` or ``Any`` where nothing is known, then ``current`` guides.
      current: The present value.

    Returns:
      The value; the text itself where it is an expression or holds ``${…}``, to be evaluated when the tree is built.

    Raises:
      Unreadable: ``text`` is no value of that type; the message says why where there is more to say.
    """
    members = alternatives(annotation)
    if has_reference(text) and _stands_for_itself(text, members, numeric_of(annotation) is not None):
        return text
    try:
        return _read(text, members, current, _MAX_DEPTH)
    except Unreadable:
        if numeric_of(annotation) is None:
            raise
    try:
        expr(text)
    except ExpressionError as error:
        raise Unreadable(str(error)) from None
    return text


def accepted_text(annotation: Any) -> str:
    """What a parameter takes, for messages."""
    if annotation is EMPTY:
        return "any value"
    members = alternatives(annotation)
    texts = [_accepted(member) for member in members]
    if numeric_of(annotation) is not None:
        texts.append("an expression over fields")
    return " or ".join(dict.fromkeys(texts))


def element_annotation(annotation: Any, key: Any) -> Any:
    """The type of the item ``key`` of a list, tuple or dict of type ``annotation``; ``EMPTY`` where not known."""
    for member in alternatives(annotation):
        origin, arguments = typing.get_origin(member), typing.get_args(member)
        if origin in _DICTS and len(arguments) == 2:
            return arguments[1]
        if origin is tuple and arguments and isinstance(key, int):
            if arguments[-1] is Ellipsis:
                return arguments[0]
            return arguments[key] if 0 <= key < len(arguments) else EMPTY
        if origin in _LISTS and arguments:
            return arguments[0]
    return EMPTY


def _accepted(member: Any) -> str:
    if member is bool:
        return "true or false"
    if typing.get_origin(member) is Literal:
        return " or ".join(str(value) for value in typing.get_args(member))
    if isinstance(member, type) and issubclass(member, enum.Enum):
        return " or ".join(member.__members__)
    return annotation_text(member)


def _stands_for_itself(text: str, members: list[Any], takes_expressions: bool) -> bool:
    """Whether a text with ``${…}`` is the value: a lone reference, or text for something that takes text.

    Raises:
      Unreadable: What stands in the braces is not an expression, or nothing of this type can be such a text.
    """
    try:
        parts = parse_template(text)
    except ExpressionError as error:
        raise Unreadable(str(error)) from None
    if len(parts) == 1 and isinstance(parts[0], Expression):
        return True
    if text[:1] in _BRACKETS:
        return False
    if takes_expressions or any(member is str or _unknown(member) for member in members):
        return True
    raise Unreadable("only a lone ${…} can stand for a value of this type")


def _read(text: str, members: list[Any], current: Any, levels: int) -> Any:
    if levels < 0:
        raise Unreadable(f"more than {_MAX_DEPTH} brackets inside one another")
    if all(_unknown(member) for member in members):
        return _guess(text, current, levels)
    why = ""
    for kind in _ORDER:
        for member in members:
            try:
                result = kind(text, member, levels)
            except Unreadable as error:
                result, why = Unreadable, why or str(error)
            if result is not Unreadable:
                return result
    if any(_unknown(member) for member in members):
        return _guess(text, current, levels)
    raise Unreadable(why)


def _unknown(member: Any) -> bool:
    return member is EMPTY or member is Any or member is object or isinstance(member, str)


def _as_none(text: str, member: Any, levels: int) -> Any:
    return None if member is type(None) and text.lower() in _NONE else Unreadable


def _as_literal(text: str, member: Any, levels: int) -> Any:
    if typing.get_origin(member) is not Literal:
        return Unreadable
    for value in typing.get_args(member):
        spelled = [str(value)]
        if isinstance(value, bool):
            spelled = [str(value), str(value).lower()]
        elif isinstance(value, enum.Enum):
            spelled = [value.name, str(value.value)]
        if text in spelled:
            return value
    return Unreadable


def _as_bool_word(text: str, member: Any, levels: int) -> Any:
    if member is not bool or text.lower() not in _TRUE + _FALSE:
        return Unreadable
    return text.lower() in _TRUE


def _as_whole(text: str, member: Any, levels: int) -> Any:
    numeric = numeric_of(member)
    whole = numeric is not None and numeric.integer and len(text) <= 310 and _WHOLE.match(text)
    return int(text) if whole else Unreadable


def _as_real(text: str, member: Any, levels: int) -> Any:
    numeric = numeric_of(member)
    return _float(text) if numeric is not None and numeric.real else Unreadable


def _as_bool_digit(text: str, member: Any, levels: int) -> Any:
    return text == "1" if member is bool and text in ("0", "1") else Unreadable


def _as_enum(text: str, member: Any, levels: int) -> Any:
    if not (isinstance(member, type) and issubclass(member, enum.Enum)):
        return Unreadable
    if text in member.__members__:
        return member[text]
    found = [e for e in member if str(e.value) == text] or [e for e in member if e.name.lower() == text.lower()]
    return found[0] if found else Unreadable


def _as_container(text: str, member: Any, levels: int) -> Any:
    origin = typing.get_origin(member) or member
    if origin in _DICTS:
        return _dict(text, typing.get_args(member), levels) if text.startswith("{") else Unreadable
    if origin is not tuple and origin not in _LISTS and origin not in _SETS:
        return Unreadable
    if text[:1] in ("[", "(", "{") and text[-1:] == _BRACKETS[text[0]]:
        items = split_items(text[1:-1])
    elif "," in text and text[:1] not in _BRACKETS:
        items = split_items(text)
    else:
        return Unreadable
    arguments = typing.get_args(member)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(items) != len(arguments):
            raise Unreadable(f"{len(items)} items given, {len(arguments)} needed")
        return tuple(_item(item, kind, levels) for item, kind in zip(items, arguments, strict=True))
    values = [_item(item, arguments[0] if arguments else EMPTY, levels) for item in items]
    make: Callable[[Iterable[Any]], Any] = list
    if origin is tuple or origin is frozenset:
        make = origin
    elif origin in _SETS:
        make = set
    return make(values)


def _as_path(text: str, member: Any, levels: int) -> Any:
    is_path = isinstance(member, type) and issubclass(member, pathlib.PurePath)
    return pathlib.Path(text) if text and is_path else Unreadable


def _as_text(text: str, member: Any, levels: int) -> Any:
    return text if member is str else Unreadable


_ORDER = (
    _as_none,
    _as_literal,
    _as_bool_word,
    _as_whole,
    _as_real,
    _as_bool_digit,
    _as_enum,
    _as_container,
    _as_path,
    _as_text,
)


def _item(text: str, annotation: Any, levels: int) -> Any:
    """An item of a list: as ``_read``, but a quoted text is that text."""
    members = alternatives(annotation)
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
        if all(_unknown(member) or member is str for member in members):
            return text
    if has_reference(text) and _stands_for_itself(text, members, False):
        return text
    return _read(text, members, EMPTY, levels - 1)


def _dict(text: str, arguments: tuple[Any, ...], levels: int) -> dict[Any, Any]:
    if not text.endswith("}"):
        raise Unreadable("a dict is written {name: value, …}")
    key_kind, kind = arguments if len(arguments) == 2 else (str, EMPTY)
    result = {}
    for item in split_items(text[1:-1]):
        key, colon, value = item.partition(":")
        if not colon:
            raise Unreadable("a dict is written {name: value, …}")
        result[_item(key.strip(), key_kind, levels)] = _item(value.strip(), kind, levels)
    return result


def _guess(text: str, current: Any, levels: int) -> Any:
    """A value without a type to go by: none, true, false, a number, brackets, else the text."""
    if isinstance(current, str):
        return text
    lowered = text.lower()
    if lowered in _NONE:
        return None
    if lowered in ("true", "false"):
        return lowered == "true"
    if _WHOLE.match(text) and len(text) <= 310:
        return float(text) if isinstance(current, float) else int(text)
    real = _float(text)
    if real is not Unreadable and lowered.strip("+-") not in ("inf", "infinity", "nan"):
        return real
    if text.startswith("{"):
        return _dict(text, (), levels)
    if text[:1] in ("[", "(") or ("," in text and isinstance(current, list | tuple)):
        return _as_container(text, tuple if text[0] == "(" or isinstance(current, tuple) else list, levels)
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _float(text: str) -> Any:
    if not text.isascii() or len(text) > 310 or text != text.strip():
        return Unreadable
    try:
        return float(text)
    except ValueError:
        return Unreadable


def split_items(text: str) -> list[str]:
    """The parts of ``text`` between commas that stand in no brackets and no quotes; a last empty part is left out.

    Raises:
      Unreadable: Brackets or quotes are not closed, or a part is empty.
    """
    items, opened, quote, start = [], "", "", 0
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _BRACKETS:
            opened += _BRACKETS[character]
        elif character in _BRACKETS.values():
            if not opened.endswith(character):
                raise Unreadable(f"{character!r} closes no bracket")
            opened = opened[:-1]
        elif character == "," and not opened:
            items.append(text[start:position].strip())
            start = position + 1
    if opened or quote:
        raise Unreadable(f"{opened[-1:] or quote!r} is missing")
    last = text[start:].strip()
    items += [last] if last else []
    if not all(items):
        raise Unreadable("an item is empty")
    return items
