"""Command-line overrides: ``key=value`` sets a field, ``+key=value`` adds one, ``~key`` deletes one."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from subquad.lazy_config._edit import ABSENT, DELETE, Spot, edit, refuse_absent, set_paths
from subquad.lazy_config._paths import Keys, format_path, parse_path
from subquad.lazy_config._scope import Place, as_number, expression_at, find
from subquad.lazy_config._signature import EMPTY
from subquad.lazy_config._template import has_reference, parse_template
from subquad.lazy_config._values import Unreadable, accepted_text, element_annotation, read_value
from subquad.lazy_config.errors import ExpressionError, OverrideError, PathError
from subquad.lazy_config.expression import Expression, Reference
from subquad.lazy_config.history import caller_source, short_text
from subquad.lazy_config.lazy import Config, copy_tree

Tree = TypeVar("Tree")
_FORMS = "the forms are key=value, +key=value (adds) and ~key (deletes)"


def derive(tree: Tree, changes: Mapping[str, Any], /) -> Tree:
    """A copy of ``tree`` with fields set: ``derive(base(), {"model.depth": 8, "optimizer.lr": 3e-4})``.

    Args:
      tree: A config, or a list, tuple or dict of configs; it is not changed.
      changes: New values by path; values are Python values, nothing is read from text.

    Raises:
      UnknownFieldError: A path names something that the tree does not hold and no target takes.
      PathError: A path cannot be read.
    """
    return set_paths(copy_tree(tree), changes, caller_source())


def apply_overrides(tree: Tree, overrides: Iterable[str], *, source: str = "command line") -> Tree:
    """A copy of ``tree`` with command-line overrides applied, in order.

    ``model.depth=8`` sets a field that is there or that the target takes, ``+options.debug=true`` adds one that is not
    there, ``~model.dropout`` deletes one, so that the target's default holds. Values are read as the type the target's
    signature gives the field (bool, int, float, str, None, lists, tuples, dicts, sets, enums, Literal, paths and unions
    of them); a parameter that takes numbers also takes an expression, and every field takes ``${…}``.

    Args:
      tree: A config, or a list, tuple or dict of configs; it is not changed.
      overrides: The words of the command line.
      source: How the history names where the values came from.

    Raises:
      OverrideError: A word has none of the forms, or a value is not what the field takes: field, value, accepted.
      UnknownFieldError: A key names nothing; suggests close names.
    """
    tree, checks = copy_tree(tree), []
    for word in overrides:
        sign, keys, text = _parse_word(word)
        origin = f"{source}: {word if len(word) <= 200 else word[:199] + '…'}"
        tree = edit(tree, keys, lambda spot, s=sign, t=text, root=tree: _changed(root, spot, s, t), origin)
        if text is not None:
            checks.append((keys, text))
    for keys, text in checks:
        _check_references(tree, keys, text)
    return tree


def _parse_word(word: str) -> tuple[str, Keys, str | None]:
    sign = word[:1] if word[:1] in ("+", "~") else ""
    key, equals, value = word[len(sign) :].partition("=")
    if not key.strip() or (sign == "~") is bool(equals):
        raise OverrideError(f"{word[:200]!r} is not an override; {_FORMS}")
    try:
        keys = parse_path(key.strip())
    except PathError as error:
        raise OverrideError(f"{word[:200]!r} is not an override: {error}; {_FORMS}") from None
    return sign, keys, value if equals else None


def _changed(tree: Any, spot: Spot, sign: str, text: str | None) -> Any:
    if sign == "+":
        if spot.value is not ABSENT:
            raise OverrideError(
                f"{spot.path} is set already, to {short_text(spot.value)}; leave out the '+' to change it"
            )
        if isinstance(spot.holder, list | tuple) and spot.key != len(spot.holder):
            refuse_absent(spot)
    elif sign == "~" and spot.value is ABSENT and isinstance(spot.holder, Config):
        raise OverrideError(f"{spot.path} is not set, so '~{spot.path}' has nothing to delete")
    else:
        refuse_absent(spot)
    if text is None:
        return DELETE
    annotation = annotation_at(tree, spot.keys)
    current = EMPTY if spot.value is ABSENT else spot.value
    if isinstance(current, Config) and annotation is EMPTY and not has_reference(text):
        raise OverrideError(
            f"{spot.path}: {text!r} is not accepted; it holds {short_text(current)}, set one of its fields"
        )
    try:
        return read_value(text, annotation, current)
    except Unreadable as error:
        raise _refused(spot.path, text, annotation, spot.holder, str(error)) from None


def annotation_at(tree: Any, keys: Keys) -> Any:
    """The type of the place at ``keys``: its parameter's annotation, or an item's type of it; ``EMPTY`` if unknown."""
    annotation: Any = EMPTY
    node = tree
    for key in keys:
        if isinstance(node, Config):
            annotation = node._lazy_signature.annotation(str(key))
            node = node._lazy_fields.get(str(key))
        else:
            annotation = element_annotation(annotation, key) if annotation is not EMPTY else EMPTY
            try:
                node = node[key] if node is not None else None
            except (LookupError, TypeError):
                node = None
    return annotation


def _refused(path: str, text: str, annotation: Any, holder: Any, why: str) -> OverrideError:
    signature = f"\n  signature: {holder._lazy_signature}" if isinstance(holder, Config) else ""
    more = f"\n  {why}" if why else ""
    return OverrideError(
        f"{path}: {text[:200]!r} is not accepted; it takes {accepted_text(annotation)}{more}{signature}"
    )


def _check_references(tree: Any, keys: Keys, text: str) -> None:
    """Refuses an override whose names refer to nothing in the finished tree, or whose number has the wrong type."""
    place: Place | None = Place(tree)
    for key in keys:
        place = next((child for child in place.children() if str(child.key) == str(key)), None) if place else None
    if place is None or not isinstance(place.raw, str) or place.raw != text:  # deleted or set anew since
        return
    annotation = annotation_at(tree, keys)
    holder = place.parent.raw if place.parent is not None else None
    try:
        expression = expression_at(place)
        parts = parse_template(text) if expression is None and has_reference(text) else (expression,)
        for part in parts:
            for reference in part.references if isinstance(part, Expression) else ():
                if find(place, reference) is None and not _may_be_set(place, reference):
                    raise _refused(format_path(keys), text, annotation, holder, f"{reference} refers to nothing")
        if expression is not None and not expression.references and isinstance(holder, Config):
            numeric = holder._lazy_signature.numeric(str(place.key))
            if numeric is not None:
                as_number(expression.evaluate(lambda reference: None), numeric, place, expression)
    except ExpressionError as error:
        raise _refused(format_path(keys), text, annotation, holder, str(error).splitlines()[0]) from None


def _may_be_set(place: Place, reference: Reference) -> bool:
    """Whether a config around ``place`` takes the name, so that whoever builds it may set it."""
    name = str(reference.keys[0])
    holders = [scope.raw for scope in place.scopes() if isinstance(scope.raw, Config)]
    return name != place.key and any(name in holder._lazy_signature.parameters for holder in holders)
