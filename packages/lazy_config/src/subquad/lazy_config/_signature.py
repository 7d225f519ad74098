"""What a target takes: its parameters, their types, and how fields become a call."""

import ast
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

EMPTY = inspect.Parameter.empty
_KINDS = inspect.Parameter
_INTEGERS: tuple[Any, ...] = (int, numbers.Integral, numbers.Real, numbers.Number)
_REALS: tuple[Any, ...] = (float, numbers.Real, numbers.Number)
_BUILTIN_NAMES = {"int": int, "float": float, "bool": bool, "str": str, "None": None, "list": list, "tuple": tuple}


@dataclass(frozen=True, slots=True)
class Numeric:
    """A parameter that takes numbers and no free text: which numbers, and what else."""

    integer: bool
    real: bool
    none: bool
    literals: tuple[Any, ...]

    def __str__(self) -> str:
        """The accepted values, for messages."""
        names = [name for name, taken in (("int", self.integer), ("float", self.real), ("None", self.none)) if taken]
        return " or ".join([*names, *(repr(literal) for literal in self.literals)])


class Signature:
    """The parameters of one target as fields of a config.

    A target whose signature cannot be read (some builtins) takes any field.
    """

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target = target
        try:
            parameters = tuple(inspect.signature(target).parameters.values())
        except (TypeError, ValueError):
            parameters, self.readable = (), False
        else:
            self.readable = True
        self.takes_any_name = not self.readable or any(p.kind is _KINDS.VAR_KEYWORD for p in parameters)
        starred = [p.name for p in parameters if p.kind is _KINDS.VAR_POSITIONAL]
        self.starred = starred[0] if starred and not self.takes_any_name else None
        self._takes_more_positionals = bool(starred)
        self._all = parameters
        self.parameters = {p.name: p for p in parameters if p.kind not in (_KINDS.VAR_POSITIONAL, _KINDS.VAR_KEYWORD)}

    @functools.cached_property
    def annotations(self) -> Mapping[str, Any]:
        """The annotation of each parameter, strings resolved where they can be."""
        raw = {name: p.annotation for name, p in self.parameters.items() if p.annotation is not EMPTY}
        if not any(_holds_text(annotation) for annotation in raw.values()):
            return raw
        function = _function_of(self.target)
        try:
            hints = typing.get_type_hints(function)
        except Exception:  # a name that exists for type checkers only; read the annotations one by one
            namespace = getattr(function, "__globals__", {})
            return {k: _read_annotation(v, namespace) if isinstance(v, str) else v for k, v in raw.items()}
        return {name: hints.get(name, annotation) for name, annotation in raw.items()}

    def annotation(self, name: str) -> Any:
        """The annotation of ``name``; ``EMPTY`` where there is none."""
        return self.annotations.get(name, EMPTY)

    def numeric(self, name: str) -> Numeric | None:
        """What ``name`` takes if it is annotated as a number, else None."""
        annotation = self.annotations.get(name, EMPTY)
        return None if annotation is EMPTY else numeric_of(annotation)

    def takes(self, name: str) -> bool:
        """Whether ``name`` may be a field."""
        return self.takes_any_name or name in self.parameters or name == self.starred

    def requires(self, name: str) -> bool:
        """Whether ``name`` is a parameter without a default."""
        return name in self.parameters and self.parameters[name].default is EMPTY

    def missing(self, fields: Iterable[str]) -> list[str]:
        """The required parameters that are not among ``fields``."""
        given = set(fields)
        return [name for name in self.parameters if self.requires(name) and name not in given]

    def names(self) -> list[str]:
        """The names a field may have, as far as the signature tells."""
        return [*self.parameters, *([self.starred] if self.starred else [])]

    def bind_positionals(self, values: tuple[Any, ...]) -> dict[str, Any] | None:
        """Names for positional values; None where there are more than the target takes."""
        names = [n for n, p in self.parameters.items() if p.kind is not _KINDS.KEYWORD_ONLY]
        bound: dict[str, Any] = dict(zip(names, values, strict=False))
        if len(values) > len(names):
            if self.starred is None:
                return None
            bound[self.starred] = list(values[len(names) :])
        return bound

    def arrange(self, fields: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional and keyword arguments of the call that ``fields`` stands for."""
        left = dict(fields)
        extra = list(left.pop(self.starred)) if self.starred in left else None
        kinds = {_KINDS.POSITIONAL_ONLY, _KINDS.POSITIONAL_OR_KEYWORD} if extra else {_KINDS.POSITIONAL_ONLY}
        names = [name for name, parameter in self.parameters.items() if parameter.kind in kinds]
        while names and not extra and names[-1] not in left:  # defaults at the end need not be passed
            names.pop()
        positional = [left.pop(name, self.parameters[name].default) for name in names]
        return [*positional, *(extra or ())], left

    def __str__(self) -> str:
        """``Target(name: type = default, …)`` in at most about 400 characters."""
        name = target_name(self.target)
        if not self.readable:
            return f"{name}(…)"
        text, slash, star = [], False, False
        for p in self._all:
            if slash and p.kind is not _KINDS.POSITIONAL_ONLY:
                text.append("/")
            slash = p.kind is _KINDS.POSITIONAL_ONLY
            star = star or p.kind is _KINDS.VAR_POSITIONAL
            if p.kind is _KINDS.KEYWORD_ONLY and not star:
                text.append("*")
                star = True
            text.append(_parameter_text(p))
        shown = ", ".join(text + ["/"] * slash)
        return f"{name}({shown if len(shown) <= 400 else shown[:399] + '…'})"


def target_name(target: Any) -> str:
    """The short name of a target for messages."""
    if isinstance(target, functools.partial):
        return f"partial({target_name(target.func)})"
    return getattr(target, "__qualname__", None) or type(target).__qualname__


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, with aliases, ``Annotated``, ``NewType`` and bound type variables unwrapped."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(annotation) for member in alternatives(argument)]
    if isinstance(annotation, typing.NewType):
        return alternatives(annotation.__supertype__)
    if isinstance(annotation, typing.TypeVar):
        inner = annotation.__constraints__ or ((annotation.__bound__,) if annotation.__bound__ else ())
        return [member for argument in inner for member in alternatives(argument)] or [Any]
    if type(annotation).__name__ == "TypeAliasType":
        return alternatives(annotation.__value__)
    return [type(None) if annotation is None else annotation]


def numeric_of(annotation: Any) -> Numeric | None:
    """Which numbers ``annotation`` allows; None if it allows none, or allows free text beside them."""
    members = alternatives(annotation)
    if any(m is Any or m is object or m is EMPTY or (isinstance(m, type) and issubclass(m, str)) for m in members):
        return None
    integer, real = any(m in _INTEGERS for m in members), any(m in _REALS for m in members)
    if not (integer or real):
        return None
    literals = tuple(v for m in members if typing.get_origin(m) is Literal for v in typing.get_args(m))
    return Numeric(integer, real, type(None) in members, literals)


def annotation_text(annotation: Any) -> str:
    """``annotation`` as it would be written."""
    if annotation is type(None) or annotation is None:
        return "None"
    if isinstance(annotation, str):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(annotation_text(member) for member in typing.get_args(annotation))
    return inspect.formatannotation(annotation).replace("typing.", "")


def _parameter_text(parameter: inspect.Parameter) -> str:
    stars = {_KINDS.VAR_POSITIONAL: "*", _KINDS.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    if parameter.annotation is not EMPTY:
        text += f": {annotation_text(parameter.annotation)}"
    if parameter.default is not EMPTY:
        default = parameter.default
        plain = default is None or isinstance(default, bool | int | float | str | tuple | list | dict)
        shown = repr(default) if plain else getattr(default, "__qualname__", f"<{type(default).__qualname__}>")
        text += " = " if parameter.annotation is not EMPTY else "="
        text += shown if len(shown) <= 40 else shown[:39] + "…"
    return text


def _function_of(target: Any) -> Any:
    """The function whose annotations ``inspect.signature(target)`` shows."""
    if isinstance(target, functools.partial):
        return _function_of(target.func)
    if isinstance(target, type):
        for name, plain in (("__init__", object.__init__), ("__new__", object.__new__)):
            method = getattr(target, name)
            if method is not plain:
                return inspect.unwrap(method)
        return target
    if inspect.ismethod(target):
        return inspect.unwrap(target.__func__)
    return inspect.unwrap(target) if hasattr(target, "__code__") else type(target).__call__


def _holds_text(annotation: Any) -> bool:
    """Whether a part of ``annotation`` is still a string to be resolved."""
    if isinstance(annotation, str | typing.ForwardRef):
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return False
    return any(_holds_text(argument) for argument in (arguments[:1] if origin is typing.Annotated else arguments))


def _read_annotation(text: str, namespace: Mapping[str, Any]) -> Any:
    """The annotation that ``text`` spells, from names and unions only; ``text`` itself if it holds more."""
    try:
        return _annotation_node(ast.parse(text, mode="eval").body, namespace)
    except (LookupError, SyntaxError, TypeError, AttributeError, ValueError, RecursionError, MemoryError):
        return text


def _annotation_node(node: ast.expr, namespace: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return _annotation_node(ast.parse(text, mode="eval").body, namespace)
        case ast.Name(id=name):
            return namespace[name] if name in namespace else _BUILTIN_NAMES[name]
        case ast.Attribute(value=value, attr=name):
            return getattr(_annotation_node(value, namespace), name)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return typing.Union[_annotation_node(left, namespace), _annotation_node(right, namespace)]  # noqa: UP007
        case ast.Subscript(value=value, slice=inner):
            origin = _annotation_node(value, namespace)
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if origin is Literal:
                return Literal[tuple(item.value for item in items if isinstance(item, ast.Constant))]
            return origin[tuple(_annotation_node(item, namespace) for item in items)]
    raise LookupError
