"""What is known of a target's parameters."""

import functools
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, TypeVar

import pytest

from subquad.lazy_config._signature import Numeric, Signature, annotation_text, numeric_of

if TYPE_CHECKING:
    from decimal import Decimal

N = TypeVar("N", bound=int)
M = TypeVar("M", int, float)
Width = NewType("Width", int)


class Named(str):
    pass


@pytest.mark.parametrize(
    ("annotation", "numeric"),
    [
        (int, Numeric(True, False, False, ())),
        (float, Numeric(False, True, False, ())),
        (int | float | None, Numeric(True, True, True, ())),
        (numbers.Number, Numeric(True, True, False, ())),
        (N, Numeric(True, False, False, ())),
        (M, Numeric(True, True, False, ())),
        (Width, Numeric(True, False, False, ())),
        (Annotated[float, "unit"], Numeric(False, True, False, ())),
        (int | Literal["same"], Numeric(True, False, False, ("same",))),
        (int | tuple[int, int], Numeric(True, False, False, ())),
        (str, None),
        (bool, None),
        (int | str, None),
        (int | Named, None),
        (int | Any, None),
        (object, None),
        (Any, None),
        (list[int], None),
        (Literal[1, 2], None),
        (Callable[[int], int], None),
        ("int", None),
    ],
)
def test_numbers_are_told_from_everything_that_takes_text(annotation: Any, numeric: Numeric | None) -> None:
    assert numeric_of(annotation) == numeric


def later(
    a: "int | None", b: "Decimal | int", c: "float", d: "list[Decimal]", e: "Literal['x'] | int", /, f: int = 0
) -> None:
    """Annotations that exist for type checkers only."""


def test_annotations_as_text_are_resolved_one_by_one() -> None:
    signature = Signature(later)
    assert signature.numeric("a") == Numeric(True, False, True, ())
    assert signature.numeric("b") is None
    assert signature.numeric("c") == Numeric(False, True, False, ())
    assert signature.numeric("d") is None
    assert signature.numeric("e") == Numeric(True, False, False, ("x",))


class Base:
    def __init__(self, width: "int", *, deep: "float" = 1.0) -> None: ...


class Inherits(Base):
    pass


class Makes:
    def __new__(cls, size: "int") -> "Makes":
        return super().__new__(cls)

    def method(self, count: "int") -> None: ...

    def __call__(self, times: "int") -> None: ...


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Inherits, "width"),
        (functools.partial(Base, deep=2), "width"),
        (Makes, "size"),
        (Makes(1).method, "count"),
        (Makes(1), "times"),
        (functools.wraps(later)(lambda *a, **k: None), "c"),
    ],
)
def test_annotations_are_found_on_targets_of_every_kind(target: Any, name: str) -> None:
    assert Signature(target).numeric(name) is not None


def test_a_signature_is_written_as_python_would() -> None:
    def target(a, /, b: int, *c: str, d: int | None = None, e: Any = later, f="x" * 50, **g: Any) -> None: ...

    text = str(Signature(target)).partition(".target")[2]
    assert text == f"(a, /, b: int, *c: str, d: int | None = None, e: Any = later, f='{'x' * 38}…, **g: Any)"
    assert str(Signature(Base)) == "Base(width: int, *, deep: float = 1.0)"
    assert str(Signature(functools.partial(Base, 1))) == "partial(Base)(*, deep: float = 1.0)"
    assert len(str(Signature(eval("lambda " + ",".join(f"argument{i}" for i in range(200)) + ": 0")))) < 450
    assert annotation_text(int | None) == "int | None"


def test_a_builtin_without_a_signature_takes_any_field() -> None:
    signature = Signature(dict)
    assert signature.takes("anything")
    assert not signature.missing([])
