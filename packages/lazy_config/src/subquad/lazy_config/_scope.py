"""Places in a tree, and what a reference at one place refers to."""

import itertools
from collections.abc import Iterator
from typing import Any

from subquad.lazy_config._containers import is_container
from subquad.lazy_config._paths import Key, Keys, did_you_mean, format_path
from subquad.lazy_config._signature import Numeric
from subquad.lazy_config._template import as_expression_text, has_reference, parse_template
from subquad.lazy_config.errors import ExpressionError, LazyConfigError, ReferenceCycleError
from subquad.lazy_config.expression import Expression, Reference, expr
from subquad.lazy_config.history import short_text
from subquad.lazy_config.lazy import PLACEHOLDER, Config

MAX_HOPS = 32
"""How many references may lead from one to the next."""
_MAX_FOLLOWED = 256
"""How many references may be followed to find one place, side ways included."""


class Place:
    """A value in a tree together with the way to it from the root."""

    __slots__ = ("key", "keys", "parent", "raw")

    def __init__(self, raw: Any, key: Key | None = None, parent: "Place | None" = None) -> None:
        self.raw, self.key, self.parent = raw, key, parent
        self.keys: Keys = () if parent is None or key is None else (*parent.keys, key)

    def child(self, key: Key) -> "Place":
        """The place of a field or item, which must be there."""
        raw = self.raw
        return Place(raw._lazy_fields[str(key)] if isinstance(raw, Config) else raw[key], key, self)

    def children(self) -> "Iterator[Place]":
        """The places of all fields or items."""
        raw = self.raw
        if isinstance(raw, Config):
            pairs: Any = raw._lazy_fields.items()
        elif type(raw) is dict:
            pairs = raw.items()
        else:
            pairs = enumerate(raw) if is_container(raw) else ()
        for key, value in list(pairs):
            yield Place(value, key, self)

    def ancestors(self) -> "Iterator[Place]":
        """The enclosing places, nearest first."""
        place = self.parent
        while place is not None:
            yield place
            place = place.parent

    def scopes(self) -> "Iterator[Place]":
        """The enclosing configs and dicts, nearest first."""
        return (place for place in self.ancestors() if isinstance(place.raw, Config | dict))

    def within(self, outer: "Place") -> bool:
        """Whether this place is ``outer`` or inside it."""
        return self.keys[: len(outer.keys)] == outer.keys

    @property
    def root(self) -> "Place":
        """The outermost place."""
        place = self
        while place.parent is not None:
            place = place.parent
        return place

    @property
    def path(self) -> str:
        """The path for messages; a part that was handed over unbuilt still shows where it came from."""
        start = self.root.raw._lazy_path if isinstance(self.root.raw, Config) else ""
        return format_path(self.keys, start)

    @property
    def shown(self) -> str:
        """The path, or a name for the root."""
        return self.path or "the root of the tree"

    @property
    def source(self) -> str:
        """Where the value was set, as far as the config that holds it knows."""
        place: Place | None = self
        while place is not None and place.parent is not None:
            if isinstance(place.parent.raw, Config):
                return place.parent.raw._lazy_history.source(str(place.key))
            place = place.parent
        return ""

    @property
    def set_at(self) -> str:
        """``\\n  set at …`` for messages, or nothing."""
        return f"\n  set at {self.source}" if self.source else ""


def expression_at(place: Place) -> Expression | None:
    """The expression a place stands for: ``expr``, a lone ``"${…}"``, or text for a parameter that takes numbers.

    Raises:
      ExpressionError: The text is not an expression.
    """
    raw = place.raw
    if isinstance(raw, Expression):
        return raw
    if not isinstance(raw, str):
        return None
    try:
        if is_number_text(place):
            return expr(as_expression_text(raw) if has_reference(raw) else raw)
        if has_reference(raw):
            parts = parse_template(raw)
            return parts[0] if len(parts) == 1 and isinstance(parts[0], Expression) else None
    except ExpressionError as error:
        raise ExpressionError(f"{place.shown}: {error}{_why_read(place)}{place.set_at}") from None
    return None


def is_number_text(place: Place) -> bool:
    """Whether a string stands directly in a field whose parameter is annotated as a number."""
    holder = place.parent.raw if place.parent is not None else None
    if not isinstance(holder, Config):
        return False
    numeric = holder._lazy_signature.numeric(str(place.key))
    return numeric is not None and place.raw not in numeric.literals


def find(place: Place, reference: Reference) -> tuple[Place, Place] | None:
    """The place that ``reference`` at ``place`` refers to, and the scope whose name it is; None if there is none.

    Raises:
      ReferenceCycleError: The way there leads in a circle.
    """
    itself = None
    for scope in _starts(place, reference):
        target = walk(scope, reference.keys)
        if target is None:
            continue
        if reference.anchor == 0 and place.within(target):  # a field's own name is looked up further out
            itself = target
            continue
        return target, scope
    if itself is not None:
        raise ReferenceCycleError(
            f"{place.shown}: {reference} refers to itself, and no config further out has that name{place.set_at}"
        )
    return None


def walk(place: Place, keys: Keys) -> Place | None:
    """The place at ``keys`` from ``place``, through fields that refer to other fields; None if there is none.

    Raises:
      ReferenceCycleError: Too many references have to be followed.
    """
    return _walk(place, keys, MAX_HOPS, itertools.count())


def _walk(place: Place, keys: Keys, hops: int, followed_so_far: "itertools.count[int]") -> Place | None:
    for key in keys:
        followed = _follow(place, hops, followed_so_far)
        if followed is None:
            return None
        found = _step(followed, key)
        if found is None:
            return None
        place = found
    return place


def not_found(place: Place, reference: Reference) -> LazyConfigError:
    """The error for a reference that refers to nothing, with the names there are."""
    names: dict[str, None] = {}
    notes = []
    for scope in _starts(place, reference):
        names.update(dict.fromkeys(str(key) for key in _names(scope.raw)))
        if isinstance(scope.raw, Config) and reference.keys[0] in scope.raw._lazy_signature.parameters:
            notes.append(f"\n  {scope.path + '.' if scope.path else ''}{reference.keys[0]} is a parameter but not set")
    text = (
        f"{place.shown}: {reference} refers to nothing{did_you_mean(reference.keys[0], names)}"
        f"{''.join(notes[:1])}{_why_read(place)}{place.set_at}"
    )
    return ExpressionError(text)


def as_number(result: Any, numeric: Numeric, place: Place, expression: Expression) -> Any:
    """The result of an expression as the parameter's type."""
    if (result is None and numeric.none) or any(result is v or result == v for v in numeric.literals):
        return result
    if isinstance(result, int | float) and not isinstance(result, bool):
        if isinstance(result, int) and (numeric.integer or result.bit_length() > 1000):
            return result
        if numeric.real:
            return float(result)
        if float(result).is_integer():
            return int(result)
    got = short_text(result)
    raise ExpressionError(f"{place.shown}: {expression.text!r} is {got}; {place.key} takes {numeric}{place.set_at}")


def _names(raw: Any) -> Any:
    return raw._lazy_fields if isinstance(raw, Config) else raw


def _starts(place: Place, reference: Reference) -> list[Place]:
    if reference.anchor < 0:
        return [place.root]
    scopes = list(place.scopes())
    return scopes if reference.anchor == 0 else scopes[reference.anchor - 1 : reference.anchor]


def _follow(place: Place, hops: int, followed_so_far: "itertools.count[int]") -> Place | None:
    """``place``, or what it refers to if it holds nothing but a reference."""
    expression = expression_at(place) if isinstance(place.raw, str | Expression) else None
    reference = expression.sole_reference if expression is not None else None
    if reference is None:
        return place
    if hops <= 0 or next(followed_so_far) > _MAX_FOLLOWED:
        many = f"more than {MAX_HOPS} references lead from one to the next, perhaps in a circle"
        raise ReferenceCycleError(f"{place.shown}: {many}{place.set_at}")
    for scope in _starts(place, reference):
        target = _walk(scope, reference.keys, hops - 1, followed_so_far)
        if target is not None and not (reference.anchor == 0 and place.within(target)):
            return _follow(target, hops - 1, followed_so_far)
    return None


def _step(place: Place, key: Key) -> Place | None:
    raw = place.raw
    if isinstance(raw, Config):
        if key in raw._lazy_fields:
            return place.child(key)
        required = isinstance(key, str) and raw._lazy_signature.requires(key)
        return Place(PLACEHOLDER, key, place) if required else None
    if type(raw) is dict:
        return place.child(key) if key in raw else None
    if is_container(raw) and isinstance(key, int) and -len(raw) <= key < len(raw):
        return place.child(key % len(raw))
    return None


def _why_read(place: Place) -> str:
    if isinstance(place.raw, str):
        if is_number_text(place) and place.parent is not None:
            numeric = place.parent.raw._lazy_signature.numeric(str(place.key))
            return f"\n  {place.raw[:100]!r} is read as an expression: {place.key} takes {numeric}"
        return "\n  write '$${' for a plain '${'"
    return ""
