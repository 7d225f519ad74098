"""Strings with references: ``"run-${model.depth}"``; ``$${`` stands for a plain ``${``."""

import functools

from subquad.lazy_config.errors import ExpressionError
from subquad.lazy_config.expression import Expression, expr

MAX_TEXT = 65536
"""The longest text that references may make."""


def has_reference(text: str) -> bool:
    """Whether ``text`` is more than plain text."""
    return "${" in text


@functools.lru_cache(maxsize=4096)
def parse_template(text: str) -> tuple[str | Expression, ...]:
    """The plain and the referring parts of ``text``; plain parts are unescaped and not empty.

    Raises:
      ExpressionError: A ``${`` is not closed, or what it holds is not an expression.
    """
    parts: list[str | Expression] = []
    plain, position = "", 0
    while (opening := text.find("${", position)) >= 0:
        if opening and text[opening - 1] == "$" and opening - 1 >= position:
            plain += text[position : opening - 1] + "${"
            position = opening + 2
            continue
        closing = text.find("}", opening)
        if closing < 0:
            raise ExpressionError(f"{text[:100]!r}: '${{' is not closed; write '$${{' for a plain '${{'")
        plain += text[position:opening]
        if plain:
            parts.append(plain)
            plain = ""
        parts.append(expr(text[opening + 2 : closing]))
        position = closing + 1
    plain += text[position:]
    return (*parts, plain) if plain else tuple(parts)


def escape(text: str) -> str:
    """``text`` as a template that stands for just that text."""
    return text.replace("${", "$${")


def as_expression_text(text: str) -> str:
    """The text of an expression in which each ``${…}`` is a bracketed term, for parameters that take numbers."""
    parts = parse_template(text)
    if len(parts) == 1 and isinstance(parts[0], Expression):
        return parts[0].text
    return "".join(part if isinstance(part, str) else f"({part.text})" for part in parts)
