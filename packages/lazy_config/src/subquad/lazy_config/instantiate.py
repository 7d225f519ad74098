"""``instantiate``: checks a tree, evaluates its expressions and calls its targets, innermost first."""

from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from subquad.lazy_config._construction import construction_error
from subquad.lazy_config._containers import is_container, map_container
from subquad.lazy_config._deferral import Deferral
from subquad.lazy_config._edit import set_paths
from subquad.lazy_config._paths import format_path
from subquad.lazy_config._scope import MAX_HOPS, Place, as_number, expression_at, find, not_found
from subquad.lazy_config._signature import target_name
from subquad.lazy_config._template import MAX_TEXT, has_reference, parse_template
from subquad.lazy_config.errors import (
    ExpressionError,
    LazyConfigError,
    MissingFieldError,
    ReferenceCycleError,
    UnknownFieldError,
)
from subquad.lazy_config.expression import Expression, Reference
from subquad.lazy_config.history import caller_source, short_text
from subquad.lazy_config.lazy import Config, Placeholder, copy_tree, target_of

T = TypeVar("T")
DEFERRED_SUFFIX = "_cfg"
"""Configs in parameters whose name ends so are handed over unbuilt."""


@overload
def instantiate(tree: Config[T], /, **overrides: Any) -> T: ...
@overload
def instantiate(tree: list[Config[T]], /, **overrides: Any) -> list[T]: ...
@overload
def instantiate(tree: tuple[Config[T], ...], /, **overrides: Any) -> tuple[T, ...]: ...
@overload
def instantiate(tree: dict[str, Config[T]], /, **overrides: Any) -> dict[str, T]: ...
@overload
def instantiate(tree: object, /, **overrides: Any) -> Any: ...
def instantiate(tree: Any, /, **overrides: Any) -> Any:
    """Builds what a tree describes: ``instantiate(LazyConfig(Target)(a=1)) == Target(a=1)``.

    The whole tree is checked before the first target is called. Fields are built before the call they belong to, in
    lists, tuples and dicts too. Configs in parameters named ``*_cfg`` are handed over as configs, with every reference
    to something outside them replaced by its value. A reference to a config stands for the one object built from it.

    Args:
      tree: A config, or a list, tuple or dict of configs and values; it is not changed. Anything else is returned.
      **overrides: Fields to set first; ``instantiate(tree, **{"model.depth": 3})`` for those further in.

    Raises:
      UnknownFieldError: A field or an override names something that the target does not take.
      PathError: The name of an override cannot be read.
      MissingFieldError: Required fields have no value; all of them are named.
      ExpressionError: An expression cannot be evaluated.
      ConstructionError: A target raised; also of the type of what it raised.
    """
    if overrides:
        source = caller_source()
        tree = set_paths(copy_tree(tree), overrides, source)
    if not isinstance(tree, Config | Expression | str) and not is_container(tree):
        return tree
    root = Place(tree)
    try:
        check(root)
        return _Builder().value(root)
    except LazyConfigError:
        raise
    except RecursionError as error:
        raise LazyConfigError("the tree, or a chain of references in it, is too deep to build") from error


def check(root: Place) -> None:
    """Checks names and required fields of a whole tree, without evaluating or building anything.

    Raises:
      UnknownFieldError, MissingFieldError: As ``instantiate``.
    """
    missing: list[str] = []
    _check(root, False, missing)
    if missing:
        count = f"{len(missing)} required fields have" if len(missing) > 1 else "a required field has"
        raise MissingFieldError(f"{count} no value: {'; '.join(missing)}")


def _check(place: Place, deferred: bool, missing: list[str]) -> None:
    raw = place.raw
    if isinstance(raw, Placeholder) and not deferred:
        set_at = f", PLACEHOLDER set at {place.source}" if place.source else ""
        missing.append(f"{place.shown}{set_at}{_holder_signature(place)}")
    if isinstance(raw, Config):
        signature = raw._lazy_signature
        for name in raw._lazy_fields:
            if not signature.takes(name):
                raise UnknownFieldError(f"{format_path([name], place.path)} is not a parameter of {signature}")
        if not deferred:
            names = signature.missing(raw._lazy_fields)
            missing += [f"{format_path([name], place.path)} of {signature}" for name in names]
    for child in place.children():
        _check(child, deferred or _is_deferred(child), missing)


def _holder_signature(place: Place) -> str:
    holder = place.parent.raw if place.parent is not None else None
    return f", of {holder._lazy_signature}" if isinstance(holder, Config) else ""


def _is_deferred(place: Place) -> bool:
    """Whether configs at this place are handed over unbuilt."""
    named = isinstance(place.key, str) and place.key.endswith(DEFERRED_SUFFIX)
    return named and place.parent is not None and isinstance(place.parent.raw, Config)


class _Builder:
    """The values of the places of one tree; each config and each expression is evaluated at most once."""

    def __init__(self) -> None:
        self._done: dict[Any, Any] = {}
        self._active: dict[Any, Place] = {}
        self._deferral = Deferral(self.value)

    def value(self, place: Place) -> Any:
        """The value that is passed on for ``place``."""
        raw = place.raw
        if isinstance(raw, Config):
            return self._once(place, self._build)
        if is_container(raw):
            return map_container(raw, lambda key, _: self.value(place.child(key)))
        if isinstance(raw, Placeholder):
            raise MissingFieldError(f"{place.shown} has no value but is referred to{place.set_at}")
        if isinstance(raw, str | Expression):
            expression = expression_at(place)
            if expression is not None:
                return self._once(place, lambda p: self._evaluate(p, expression))
            if isinstance(raw, str) and has_reference(raw):
                return self._once(place, self._fill)
        return raw

    def _once(self, place: Place, make: Callable[[Place], Any]) -> Any:
        keys = place.keys
        if keys in self._done:
            return self._done[keys]
        if keys in self._active:
            circle = [*list(self._active.values())[list(self._active).index(keys) :], place]
            ways = " -> ".join(p.shown for p in circle)
            raise ReferenceCycleError(f"these fields refer to one another: {ways}{place.set_at}")
        if len(self._active) > 4 * MAX_HOPS:
            raise ExpressionError(f"{place.shown}: more than {4 * MAX_HOPS} fields wait for one another")
        self._active[keys] = place
        try:
            self._done[keys] = result = make(place)
        finally:
            del self._active[keys]
        return result

    def _lookup(self, place: Place, reference: Reference) -> Any:
        found = find(place, reference)
        if found is None:
            raise not_found(place, reference)
        return self.value(found[0])

    def _evaluate(self, place: Place, expression: Expression) -> Any:
        holder = place.parent.raw if place.parent is not None else None
        if isinstance(holder, Config) and expression.sole_reference is not None and _is_deferred(place):
            found = find(place, expression.sole_reference)
            if found is None:
                raise not_found(place, expression.sole_reference)
            return self._deferral.hand_over(found[0])
        try:
            result = expression.evaluate(lambda reference: self._lookup(place, reference))
        except ExpressionError as error:
            if str(error).startswith(repr(expression.text)):
                raise ExpressionError(f"{place.shown}: {error}{place.set_at}") from None
            raise
        numeric = holder._lazy_signature.numeric(str(place.key)) if isinstance(holder, Config) else None
        return result if numeric is None else as_number(result, numeric, place, expression)

    def _fill(self, place: Place) -> str:
        """A text with the values of its references."""
        parts = []
        length = 0
        for part in parse_template(place.raw):
            text = part if isinstance(part, str) else self._part(place, part)
            length += len(text)
            if length > MAX_TEXT:
                raise ExpressionError(f"{place.shown}: the text is over {MAX_TEXT} characters{place.set_at}")
            parts.append(text)
        return "".join(parts)

    def _part(self, place: Place, expression: Expression) -> str:
        value = self._evaluate_part(place, expression)
        if not isinstance(value, str | int | float | bool | None):
            what = short_text(value)
            raise ExpressionError(f"{place.shown}: ${{{expression.text}}} is {what}, which has no place in a text")
        return str(value)

    def _evaluate_part(self, place: Place, expression: Expression) -> Any:
        return expression.evaluate(lambda reference: self._lookup(place, reference))

    def _build(self, place: Place) -> Any:
        config = cast(Config[Any], place.raw)
        arguments = {}
        for child in place.children():
            hand_over = _is_deferred(child) and not isinstance(child.raw, str | Expression)
            arguments[str(child.key)] = self._deferral.hand_over(child) if hand_over else self.value(child)
        positional, named = config._lazy_signature.arrange(arguments)
        try:
            return target_of(config)(*positional, **named)
        except LazyConfigError as error:
            error.add_note(f"while building {place.shown}: {target_name(target_of(config))}")
            raise
        except Exception as error:
            raise construction_error(error, place) from error
