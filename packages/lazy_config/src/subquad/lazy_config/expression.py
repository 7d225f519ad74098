"""Arithmetic over fields: ``expr("max(H, W) // 2")``, ``"${model.depth}"``.

Grammar, lowest binding first; Python's precedence, associativity and results:

    sum       := product (("+" | "-") product)*
    product   := unary (("*" | "/" | "//" | "%") unary)*
    unary     := ("+" | "-") unary | power
    power     := atom ["**" unary]
    atom      := number | ("min" | "max") "(" sum ("," sum)* ")" | "(" sum ")" | reference
    reference := name path        the nearest enclosing config that holds the path
               | "." name path    this config; one more dot for each config further out
               | "$." name path   the root of the tree
    path      := ("." name | "[" index "]" | "[" quoted key "]")*

There is no other call, no attribute, no string and no name of Python's. Text is at most 1,000 characters and 32 levels
deep, whole numbers at most 1,024 bits, so an evaluation takes microseconds whatever the text says.
"""

import functools
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from subquad.lazy_config._paths import Key, Keys, format_path
from subquad.lazy_config.errors import ExpressionError, LazyConfigError

MAX_CHARACTERS = 1000
MAX_LEVELS = 32
MAX_BITS = 1024

Number = int | float
_Code = Literal["number", "reference", "negate", "keep", "binary", "call"]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9][0-9_]*)?)
    | (?P<start>\$\.|\.+(?=[^\W\d]))
    | (?P<name>[^\W\d]\w*)
    | (?P<operator>\*\*|//|[-+*/%(),\[\]])
    | (?P<quoted>"[^"]*"|'[^']*')
    )""",
    re.VERBOSE,
)
_DIGITS = r"[0-9](?:_?[0-9])*"
_WHOLE = re.compile(r"(?:[1-9](?:_?[0-9])*|0(?:_?0)*)\Z")
_REAL = re.compile(rf"(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS}|{_DIGITS}(?=[eE]))(?:[eE][+-]?{_DIGITS})?\Z")
_INDEX = re.compile(r"\.[0-9]{1,9}\Z")
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2}


class _Undefined(Exception):
    """Why an evaluation has no result; the expression is added where it is caught."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A name in an expression.

    Attributes:
      keys: The path.
      anchor: 0 for the nearest enclosing config that holds the path, n for the n-th enclosing config (1 is the config
        of the field itself), -1 for the root.
      start, end: Where it stands in the text.
    """

    keys: Keys
    anchor: int
    start: int
    end: int

    def __str__(self) -> str:
        """As written."""
        return ("$." if self.anchor < 0 else "." * self.anchor) + format_path(self.keys)


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression; equal to another with the same text. Made by ``expr``."""

    text: str
    program: tuple[tuple[str, Any], ...] = field(compare=False, repr=False)

    @property
    def references(self) -> tuple[Reference, ...]:
        """The names it holds, from left to right."""
        return tuple(value for code, value in self.program if code == "reference")

    @property
    def sole_reference(self) -> Reference | None:
        """The reference that is the whole expression, if it is one."""
        return self.program[0][1] if len(self.program) == 1 and self.program[0][0] == "reference" else None

    def evaluate(self, lookup: Callable[[Reference], Any]) -> Any:
        """The value, with ``lookup`` giving the value of each name.

        Raises:
          ExpressionError: An operand is not a number, or the result is undefined or too large.
        """
        try:
            return _run(self.program, lookup)
        except (ArithmeticError, _Undefined) as error:
            if isinstance(error, LazyConfigError):  # from building what a name refers to
                raise
            raise ExpressionError(f"{self.text!r}: {error}") from None

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"expr({self.text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return expr, (self.text,)


def expr(text: str) -> Expression:
    """An expression over fields, evaluated when the tree is built.

    Args:
      text: Such as ``"max(H, W)"``; the module's text has the grammar.

    Raises:
      ExpressionError: ``text`` is not an expression, or too long or deep; points at the character.
    """
    if not isinstance(text, str):
        raise ExpressionError(f"an expression is a text, got {type(text).__name__}")
    return _parse(text)


def replace_references(expression: Expression, replace: Callable[[Reference], str | None]) -> Expression:
    """``expression`` with the text of some references replaced; None keeps one as it is."""
    text = expression.text
    for reference in reversed(expression.references):
        new = replace(reference)
        if new is not None:
            text = text[: reference.start] + new + text[reference.end :]
    return expr(text) if text != expression.text else expression


def number_text(value: Any) -> str:
    """The text of an operand, to stand inside an expression.

    Raises:
      ExpressionError: ``value`` is no finite number and no list or tuple of such.
    """
    if isinstance(value, list | tuple):
        return ", ".join(number_text(item) for item in value)
    try:
        text = repr(_number(value))
    except _Undefined as error:
        raise ExpressionError(str(error)) from None
    return f"({text})" if text.startswith("-") else text


def _run(program: tuple[tuple[str, Any], ...], lookup: Callable[[Reference], Any]) -> Any:
    if len(program) == 1 and program[0][0] == "reference":
        return lookup(program[0][1])
    stack: list[Any] = []
    for code, value in program:
        if code == "number":
            stack.append(value)
        elif code == "reference":
            stack.append(_operand(lookup(value), value))
        elif code == "call":
            name, count = value
            arguments = stack[-count:]
            del stack[-count:]
            stack.append(_extreme(name, arguments))
        elif code == "binary":
            right, left = _number(stack.pop()), _number(stack.pop())
            result = _power(left, right) if value == "**" else _BINARY[value](left, right)
            stack.append(_number(result, "a result"))
        else:
            operand = _number(stack.pop())
            stack.append(-operand if code == "negate" else +operand)
    return _number(stack[0])


def _operand(value: Any, reference: Reference) -> Any:
    """``value`` if it can be calculated with; lists and tuples are left to ``min`` and ``max``."""
    if isinstance(value, list | tuple):
        return value
    return _number(value, str(reference))


def _extreme(name: str, arguments: list[Any]) -> Number:
    if len(arguments) == 1:
        if not isinstance(arguments[0], list | tuple) or not arguments[0]:
            raise _Undefined(f"{name} takes two or more numbers, or one list of numbers that is not empty")
        arguments = list(arguments[0])
    return _FUNCTIONS[name]([_number(argument) for argument in arguments])


def _power(base: Number, exponent: Number) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        bits = max(abs(base).bit_length() - 1, 0) * exponent
        if bits > MAX_BITS:
            raise _Undefined(f"the power is over {MAX_BITS} bits")
    return base**exponent


def _number(value: Any, what: str = "an operand") -> Number:
    """``value`` if it is a number within the bounds; ``what`` names it in the message."""
    if isinstance(value, list | tuple):
        raise _Undefined(f"{what} is a list; a list of numbers can only be the one argument of min or max")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Undefined(f"{what} is of type {type(value).__name__}, not a real number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Undefined(f"{what} is {value}, not a finite number")
    elif value.bit_length() > MAX_BITS:
        raise _Undefined(f"{what} has {value.bit_length()} bits; at most {MAX_BITS} are taken")
    return value


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> Expression:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"an expression has at most {MAX_CHARACTERS} characters, got {len(text)}: {text[:40]!r}…")
    return Expression(text, tuple(_Parser(text).parse()))


class _Parser:
    """Precedence climbing to a postfix program."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._tokens()
        self.at = 0
        self.program: list[tuple[_Code, Any]] = []

    def parse(self) -> list[tuple[_Code, Any]]:
        self.sum(0, MAX_LEVELS)
        if self.kind != "end":
            self.fail("an operator or the end")
        return self.program

    def _tokens(self) -> list[tuple[str, str, int]]:
        tokens, position, text = [], 0, self.text
        end = len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                blank = len(text[position:]) - len(text[position:].lstrip())
                _complain(text, position + blank, f"{text[position + blank]!r} has no meaning here")
            kind = str(match.lastgroup)
            tokens.append((kind, match[kind], match.start(kind)))
            position = match.end()
        return [*tokens, ("end", "", end)]

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def word(self) -> str:
        return self.tokens[self.at][1]

    def take(self, word: str) -> bool:
        if self.kind == "operator" and self.word == word:
            self.at += 1
            return True
        return False

    def expect(self, word: str) -> None:
        if not self.take(word):
            self.fail(f"{word!r}")

    def fail(self, wanted: str) -> NoReturn:
        got = repr(self.word) if self.word else "the end"
        _complain(self.text, self.tokens[self.at][2], f"expected {wanted}, got {got}")

    def sum(self, binding: int, levels: int) -> None:
        """Operators that bind tighter than ``binding``."""
        self.unary(levels)
        while self.kind == "operator" and _BINDING.get(self.word, 0) > binding:
            sign = self.word
            self.at += 1
            self.sum(_BINDING[sign], levels - 1)
            self.program.append(("binary", sign))

    def unary(self, levels: int) -> None:
        if levels <= 0:
            _complain(self.text, self.tokens[self.at][2], f"more than {MAX_LEVELS} levels")
        if self.kind == "operator" and self.word in "+-":
            code: _Code = "negate" if self.word == "-" else "keep"
            self.at += 1
            self.unary(levels - 1)
            self.program.append((code, None))
            return
        self.atom(levels)
        if self.take("**"):
            self.unary(levels - 1)
            self.program.append(("binary", "**"))

    def atom(self, levels: int) -> None:
        kind, word, start = self.tokens[self.at]
        if kind == "number":
            self.at += 1
            self.program.append(("number", self.number(word, start)))
        elif kind == "name" and self.tokens[self.at + 1][1] == "(":
            self.call(word, start, levels)
        elif kind in ("name", "start"):
            self.reference()
        elif self.take("("):
            self.sum(0, levels - 1)
            self.expect(")")
        else:
            self.fail("a number, a name or '('")

    def call(self, name: str, start: int, levels: int) -> None:
        if name not in _FUNCTIONS:
            _complain(self.text, start, f"{name!r} cannot be called; the functions are {' and '.join(_FUNCTIONS)}")
        self.at += 2
        count = 1
        self.sum(0, levels - 1)
        while self.take(","):
            self.sum(0, levels - 1)
            count += 1
        self.expect(")")
        self.program.append(("call", (name, count)))

    def reference(self) -> None:
        kind, word, start = self.tokens[self.at]
        anchor = 0
        if kind == "start":
            anchor = -1 if word == "$." else len(word)
            self.at += 1
        keys: list[Key] = [self.name()]
        while True:
            if self.kind == "start" and self.word == ".":
                self.at += 1
                keys.append(self.name())
            elif self.kind == "number" and _INDEX.match(self.word):
                keys.append(int(self.word[1:]))
                self.at += 1
            elif self.take("["):
                keys.append(self.index())
                self.expect("]")
            else:
                break
        _, last, position = self.tokens[self.at - 1]
        self.program.append(("reference", Reference(tuple(keys), anchor, start, position + len(last))))

    def name(self) -> str:
        if self.kind != "name":
            self.fail("a name")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def index(self) -> Key:
        negative = self.take("-")
        kind, word, start = self.tokens[self.at]
        if kind == "quoted" and not negative:
            self.at += 1
            return word[1:-1]
        value = self.number(word, start) if kind == "number" else None
        if not isinstance(value, int) or value >= 10**9:
            self.fail("an index or a quoted key")
        self.at += 1
        return -value if negative else value

    def number(self, word: str, start: int) -> Number:
        value: Number | None = None
        if len(word) <= 310:
            value = int(word) if _WHOLE.match(word) else float(word) if _REAL.match(word) else None
        if (
            value is None
            or (isinstance(value, float) and not math.isfinite(value))
            or (isinstance(value, int) and value.bit_length() > MAX_BITS)
        ):
            _complain(self.text, start, f"{word[:20]!r} is not a number that can be read")
        return value


def _complain(text: str, position: int, what: str) -> NoReturn:
    shown, caret = text.replace("\n", " ").replace("\t", " "), position
    if len(shown) > 100:
        cut = max(0, position - 50)
        shown, caret = shown[cut : cut + 100], position - cut
    raise ExpressionError(f"{text[:100]!r} is not an expression: {what}\n    {shown}\n    {' ' * caret}^")
