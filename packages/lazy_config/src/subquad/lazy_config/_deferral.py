"""Handing a config over unbuilt: a copy in which every reference to something outside it is replaced by its value.

References that stay inside the copy remain references, so ``instantiate(mixer_cfg, dim=32)`` still moves the fields
that depend on ``dim``; names that are found nowhere remain too, since the receiver may yet set them.
"""

from collections.abc import Callable
from typing import Any

from subquad.lazy_config._containers import is_container, map_container
from subquad.lazy_config._paths import Keys, format_path
from subquad.lazy_config._scope import Place, expression_at, find
from subquad.lazy_config._template import escape, has_reference, parse_template
from subquad.lazy_config.errors import ExpressionError, ReferenceCycleError
from subquad.lazy_config.expression import Expression, Reference, number_text, replace_references
from subquad.lazy_config.lazy import Config, bare_copy

MAX_COPIED = 10_000
"""How many expressions of deferred configs are worked on in one tree; bounds what references can copy."""


class Deferral:
    """Closes parts of one tree over the values around them; ``value_of`` gives the value of any place of it."""

    def __init__(self, value_of: Callable[[Place], Any]) -> None:
        self._value_of = value_of
        self._copied = 0
        self._active: list[Keys] = []

    def hand_over(self, place: Place) -> Any:
        """The closed copy of the config at ``place``; of every config in a list, tuple or dict; else the value."""
        raw = place.raw
        if isinstance(raw, Config):
            return self._close_config(place)
        if is_container(raw):
            return map_container(raw, lambda key, _: self.hand_over(place.child(key)))
        expression = expression_at(place)
        if expression is not None and expression.sole_reference is not None:
            found = find(place, expression.sole_reference)
            if found is not None:
                return self.hand_over(found[0])
        return self._value_of(place)

    def _close_config(self, place: Place) -> Any:
        if place.keys in self._active:
            ways = " -> ".join(format_path(keys) for keys in [*self._active, place.keys])
            raise ReferenceCycleError(f"these configs refer to one another: {ways}")
        self._active.append(place.keys)
        try:
            return self._close(place, place)
        finally:
            self._active.pop()

    def _close(self, place: Place, boundary: Place) -> Any:
        raw = place.raw
        if isinstance(raw, Config):
            copied = bare_copy(raw)
            fields = {str(child.key): self._close(child, boundary) for child in place.children()}
            copied._lazy_fields.update(fields)
            object.__setattr__(copied, "_lazy_path", place.path)
            return copied
        if is_container(raw):
            return map_container(raw, lambda key, _: self._close(place.child(key), boundary))
        if not isinstance(raw, str | Expression):
            return raw
        expression = expression_at(place)
        if expression is not None:
            return self._close_expression(place, expression, boundary)
        return self._close_text(place, boundary) if isinstance(raw, str) and has_reference(raw) else raw

    def _close_expression(self, place: Place, expression: Expression, boundary: Place) -> Any:
        self._copied += 1
        if self._copied > MAX_COPIED:
            raise ExpressionError(f"{place.shown}: more than {MAX_COPIED} references in deferred configs")
        uses = [self._use(place, reference, boundary) for reference in expression.references]
        if all(use is None for use in uses):
            return place.raw
        if expression.sole_reference is not None and isinstance(uses[0], Place):
            return _inert(self.hand_over(uses[0]))
        if all(isinstance(use, Place) for use in uses):
            return _inert(self._value_of(place))
        texts = dict(zip(expression.references, map(self._text, uses), strict=True))
        return replace_references(expression, texts.__getitem__)

    def _close_text(self, place: Place, boundary: Place) -> str:
        """A text with references, those to the outside replaced."""
        closed = ""
        for part in parse_template(place.raw):
            if isinstance(part, str):
                closed += escape(part)
                continue
            uses = [self._use(place, reference, boundary) for reference in part.references]
            if all(isinstance(use, Place) for use in uses):
                closed += escape(str(part.evaluate(lambda r: self._value_of(self._outside(place, r)))))
            else:
                texts = dict(zip(part.references, map(self._text, uses), strict=True))
                closed += f"${{{replace_references(part, texts.__getitem__).text}}}"
        return closed

    def _use(self, place: Place, reference: Reference, boundary: Place) -> "Place | str | None":
        """What becomes of a reference: an outer place whose value replaces it, another spelling, or None to keep it."""
        found = find(place, reference)
        if found is None:
            return None
        target, scope = found
        if not target.within(boundary):
            return target
        if scope.within(boundary) and reference.anchor >= 0:
            return None
        scopes = [s for s in place.scopes() if s.within(boundary)]
        return "." * len(scopes) + format_path(target.keys[len(boundary.keys) :])

    def _outside(self, place: Place, reference: Reference) -> Place:
        found = find(place, reference)
        assert found is not None
        return found[0]

    def _text(self, use: "Place | str | None") -> str | None:
        return number_text(self._value_of(use)) if isinstance(use, Place) else use


def _inert(value: Any) -> Any:
    """``value`` with its texts escaped, so that they are not read as references again."""
    if isinstance(value, str):
        return escape(value)
    return map_container(value, lambda _, item: _inert(item)) if is_container(value) else value
