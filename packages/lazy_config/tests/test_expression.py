"""Expressions against Python's own arithmetic, their bounds, and their error texts."""

import contextlib
import copy
import math
import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subquad.lazy_config import Expression, ExpressionError, LazyConfigError, expr
from subquad.lazy_config.expression import MAX_BITS, MAX_CHARACTERS, MAX_LEVELS, number_text, replace_references

VALUES = {"H": 32, "W": 48, "depth": 7, "ratio": 0.25, "low": -3, "zero": 0}


def evaluate(text: str, values: dict | None = None):
    return expr(text).evaluate(lambda reference: (values or VALUES)[str(reference)])


def python_value(text: str):
    """The oracle: Python's own evaluation of a text that the test has made."""
    try:
        return eval(text, {"__builtins__": {}, "min": min, "max": max}, dict(VALUES))
    except (ArithmeticError, TypeError):  # TypeError: Python compares no complex number, such as (-1) ** 0.5
        return None


numbers = st.one_of(
    st.integers(0, 10**6).map(str),
    st.floats(0, 1e6, allow_nan=False, allow_subnormal=False).map(repr),
    st.sampled_from(["1_000", "1e-3", ".5", "2.", "0", "00", "1E+2"]),
)
leaves = st.one_of(numbers, st.sampled_from(sorted(VALUES)))


def grow(inner):
    spaces = st.sampled_from(["", " ", "  "])
    binary = st.tuples(inner, spaces, st.sampled_from(["+", "-", "*", "/", "//", "%"]), spaces, inner).map("".join)
    return st.one_of(
        binary,
        st.tuples(st.sampled_from("+-"), inner).map("".join),
        inner.map(lambda text: f"({text})"),
        st.lists(inner, min_size=2, max_size=4).map(lambda texts: f"max({', '.join(texts)})"),
        st.lists(inner, min_size=2, max_size=4).map(lambda texts: f"min( {','.join(texts)} )"),
        st.tuples(inner, st.sampled_from(["2", "3", "-1", "0", "0.5"])).map(lambda pair: f"{pair[0]}**{pair[1]}"),
    )


expressions = st.recursive(leaves, grow, max_leaves=12).filter(lambda text: len(text) < MAX_CHARACTERS)


@settings(max_examples=600, deadline=None)
@given(expressions)
def test_every_result_is_the_one_python_gives(text: str) -> None:
    expected, refusal, result = python_value(text), "", None
    try:
        result = evaluate(text)
    except ExpressionError as error:
        refusal = str(error)
    if result is not None:
        assert (result, type(result)) == (expected, type(expected))
    elif isinstance(expected, int | float) and math.isfinite(expected):  # an operand on the way was over a bound
        assert any(word in refusal for word in ("bits", "finite", "levels"))


@settings(max_examples=600, deadline=None)
@given(st.text(alphabet="HW0123456789.eE_+-*/%()[],$ min max'\"\n\tλ²٣", max_size=40))
def test_any_text_is_evaluated_or_refused_with_a_typed_error(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert isinstance(expr(text).evaluate(lambda reference: 3), int | float)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_text_of_any_alphabet_raises_nothing_but_typed_errors(text: str) -> None:
    with contextlib.suppress(LazyConfigError):
        expr(text).evaluate(lambda reference: 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max(H, W)", 48),
        ("min(H, W, 5)", 5),
        ("-2 ** 2", -4),
        ("2 ** -1", 0.5),
        ("2 ** 3 ** 2", 512),
        ("7 // -2", -4),
        ("-7 % 3", 2),
        ("7 / 2", 3.5),
        ("1 - 2 - 3", -4),
        ("2 * (H + W) // 3", 53),
        ("--3", 3),
        ("max(min(H, 10), 3)", 10),
        ("2**1000 * 0 + 1", 1),
        ("1e-3", 0.001),
        ("  depth  ", 7),
    ],
)
def test_precedence_and_rounding_are_pythons(text: str, value: float) -> None:
    assert evaluate(text) == value
    assert type(evaluate(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "().__class__",
        "open('x')",
        "H.__class__()",
        "lambda: 1",
        "[1, 2]",
        "{1: 2}",
        "'ab' * 3",
        "H if W else 1",
        "H and W",
        "H == W",
        "H & W",
        "abs(H)",
        "eval('1')",
        "max",
        "max()",
        "f(1)",
        "1 2",
        "1 +",
        "* 1",
        "(1",
        "1)",
        "",
        "   ",
        "007",
        "1__0",
        "1.2.3",
        "0x10",
        "1j",
        "a..b",
        "a.",
        "a[",
        "a[b]",
        "a[-'k']",
        "$",
        "$a",
        "H = 1",
        "H := 1",
        "max(H, key=1)",
        "max(*H)",
        "٣",
        "1;2",
        "#",
        "\\",
    ],
)
def test_what_is_no_arithmetic_is_refused_when_it_is_written(text: str) -> None:
    if text in ("max",):  # a plain name, which a field may have
        assert expr(text).references[0].keys == ("max",)
        return
    with pytest.raises(ExpressionError):
        expr(text)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9**9**6",
        "2**1024",
        "(2**600) * (2**600)",
        "(-2)**1025",
        "10**400",
        "2.0**2000",
        "1e308 * 10",
        "-1e308*9",
    ],
)
def test_results_over_the_bounds_are_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ExpressionError):
        evaluate(text)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("text", ["1 / 0", "1 // 0", "1 % zero", "0 ** -1", "(-8) ** 0.5", "(2**1000) / 0.5 ** 500"])
def test_undefined_results_are_typed_errors_that_show_the_expression(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text)
    assert text in str(caught.value)


def test_the_largest_allowed_sizes_are_allowed() -> None:
    assert evaluate(f"2**{MAX_BITS - 1}") == 2 ** (MAX_BITS - 1)
    assert evaluate("+".join(["1"] * (MAX_CHARACTERS // 2))) == MAX_CHARACTERS // 2
    assert evaluate("(" * (MAX_LEVELS - 1) + "1" + ")" * (MAX_LEVELS - 1)) == 1


def test_text_over_the_sizes_is_refused() -> None:
    with pytest.raises(ExpressionError, match="at most 1000 characters, got 1001"):
        expr("1" * 1001)
    for deep in ("(" * 40 + "1" + ")" * 40, "-" * 40 + "1", "2**" * 40 + "1", "max(1," * 40 + "1" + ")" * 40):
        with pytest.raises(ExpressionError, match="more than 32 levels"):
            expr(deep)
    with pytest.raises(ExpressionError, match="not a number that can be read"):
        expr("9" * 400)
    with pytest.raises(ExpressionError, match="not a number that can be read"):
        expr("1e999")


def test_a_syntax_error_points_at_the_character() -> None:
    with pytest.raises(ExpressionError) as caught:
        expr("max(H, 3 +) * 2")
    lines = str(caught.value).splitlines()
    assert lines[0] == "'max(H, 3 +) * 2' is not an expression: expected a number, a name or '(', got ')'"
    assert lines[1].index("+)") + 1 == lines[2].index("^")


def test_only_min_and_max_can_be_called() -> None:
    with pytest.raises(ExpressionError, match="'abs' cannot be called; the functions are min and max"):
        expr("abs(H)")


@pytest.mark.parametrize(
    ("text", "keys", "anchor"),
    [
        ("model.depth", ("model", "depth"), 0),
        ("blocks[0].dim", ("blocks", 0, "dim"), 0),
        ("blocks.0.dim", ("blocks", 0, "dim"), 0),
        ("blocks[-1]", ("blocks", -1), 0),
        ("options['a key']", ("options", "a key"), 0),
        (".depth", ("depth",), 1),
        ("..model.depth", ("model", "depth"), 2),
        ("$.model", ("model",), -1),
    ],
)
def test_references_are_read_with_their_anchor(text: str, keys: tuple, anchor: int) -> None:
    reference = expr(text).sole_reference
    assert reference is not None
    assert (reference.keys, reference.anchor, reference.start, reference.end) == (keys, anchor, 0, len(text))


def test_a_sole_reference_gives_any_value_but_an_operand_must_be_a_number() -> None:
    assert evaluate("size", {"size": [1, 2]}) == [1, 2]
    assert evaluate("max(size)", {"size": [1, 2]}) == 2
    assert evaluate("min(size)", {"size": (4,)}) == 4
    for value in (None, "3", True, math.nan, math.inf, 2**1100):
        with pytest.raises(ExpressionError, match=r"'size \+ 1': size (is|has)"):
            evaluate("size + 1", {"size": value})
    for text in ("size + 1", "max(size, 2)", "-size"):
        with pytest.raises(ExpressionError, match="can only be the one argument of min or max"):
            evaluate(text, {"size": [1, 2]})
    with pytest.raises(ExpressionError, match="two or more numbers"):
        evaluate("max(size)", {"size": []})


def test_expressions_are_equal_by_text_and_survive_copying() -> None:
    one = expr("max(H, W)")
    assert one == expr("max(H, W)") != expr("max(W, H)")
    assert hash(one) == hash(expr("max(H, W)"))
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == "expr('max(H, W)')"
    assert isinstance(one, Expression)


def test_references_can_be_replaced_in_the_text() -> None:
    replaced = replace_references(expr("a - b * a ** 2"), lambda r: number_text(-3) if r.keys == ("a",) else None)
    assert replaced == expr("(-3) - b * (-3) ** 2")
    assert replaced.evaluate(lambda reference: 2) == -21
    assert number_text([1, -2.5]) == "1, (-2.5)"
