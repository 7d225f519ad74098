"""The sums of Hopper's tensor cores, against products that an H100 added and against a slow form in fractions."""

from fractions import Fraction
from math import floor

import pytest
import torch
from torch import Tensor

from subquad import ops
from subquad.ops.fp8_linear.hopper_sums import hopper_product
from tools.testing.oracle import relative_error

E4M3 = torch.float8_e4m3fn
# What an H100 80GB (torch 2.11, CUDA 13.0) added to 256 for one product 1.125 * 2 ** -j, j from 0 on.
ADDED = (1.125, 0.5625, 0.28125, 0.125, 0.0625, 0.03125, 0.0, 0.0, 0.0)


def e4m3(*shape: int, spread: float = 60.0, seed: int = 0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread).to(E4M3)


def beside_a_large_one(factors: list[float], others: list[float], place: int, channels: int = 128) -> float:
    x, w = torch.zeros(1, channels), torch.zeros(1, channels)
    x[0, 0] = w[0, 0] = 16.0
    x[0, place : place + len(factors)] = torch.tensor(factors)
    w[0, place : place + len(others)] = torch.tensor(others)
    return float(hopper_product(x.to(E4M3), w.to(E4M3))) - 256


@pytest.mark.parametrize("place", [1, 15, 17, 31, 33, 63, 70, 127])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_small_product_beside_a_large_one_is_cut_off_as_an_h100_cuts_it(sign: int, place: int) -> None:
    for j, added in enumerate(ADDED):
        small = 1.125 * 2.0 ** max(6 - j, -3) if j > 6 else 1.125
        assert beside_a_large_one([sign * small], [2.0 ** -min(j, 6)], place) == sign * added


@pytest.mark.parametrize(("count", "added"), [(2, 0.25), (4, 0.5), (8, 1.0), (15, 1.875), (16, 2.0), (31, 3.875)])
def test_many_small_products_are_cut_off_one_by_one_as_on_an_h100(count: int, added: float) -> None:
    assert beside_a_large_one([1.125] * count, [0.125] * count, 1, channels=32) == added
    assert beside_a_large_one([1.125] * count, [2.0**-6] * count, 1, channels=32) == 0.0


def exponent(value: Fraction) -> int:
    """Returns ``floor(log2 |value|)``."""
    e = 0
    while abs(value) >= 2 ** (e + 1):
        e += 1
    while abs(value) < Fraction(2) ** e:
        e -= 1
    return e


def cut(value: Fraction, unit: Fraction) -> Fraction:
    steps = floor(abs(value) / unit)
    return steps * unit if value >= 0 else -steps * unit


def in_fractions(x: list[float], w: list[float]) -> float:
    total = Fraction(0)
    for start in range(0, len(x), 32):
        terms, exponents = [total], [exponent(total)] if total else []
        for a, b in zip(x[start : start + 32], w[start : start + 32], strict=True):
            if a and b:
                terms.append(Fraction(a) * Fraction(b))
                exponents.append(sum(max(exponent(Fraction(f)), -6) for f in (a, b)))
        if exponents:
            unit = Fraction(2) ** (max(exponents) - 13)
            total = sum((cut(term, unit) for term in terms), Fraction(0))
        if total:
            total = cut(total, Fraction(2) ** (exponent(total) - 13))
    return float(total)


@pytest.mark.parametrize("spread", [60.0, 0.02])
def test_the_sums_equal_those_in_fractions(spread: float) -> None:
    x, w = e4m3(3, 100, spread=spread), e4m3(4, 100, spread=spread, seed=1)
    x[0, ::3] = w[1, 40:80] = torch.zeros(()).to(E4M3)
    expected = [[in_fractions(a, b) for b in w.double().tolist()] for a in x.double().tolist()]
    assert hopper_product(x, w).tolist() == expected


def test_blocks_of_rows_change_nothing_and_no_row_is_no_row() -> None:
    x, w = e4m3(5, 70), e4m3(7, 70, seed=1)
    assert torch.equal(torch.cat([hopper_product(x[i : i + 1], w) for i in range(5)]), hopper_product(x, w))
    assert hopper_product(x[:0], w).shape == (0, 7)


def test_their_error_is_that_of_an_h100() -> None:
    x, w = e4m3(8, 1920), e4m3(32, 1920, seed=1)
    assert relative_error(hopper_product(x, w), x.double() @ w.double().t()) == pytest.approx(8.2e-4, rel=0.2)


def test_they_are_a_backend_on_any_device() -> None:
    x, weight = torch.randn(2, 3, 64), torch.randn(5, 64)
    scales = {"input_scale": torch.tensor(40.0), "weight_scale": torch.tensor(30.0)}
    got = ops.fp8_linear(x, weight, **scales, backend="hopper_sums")
    assert got.shape == (2, 3, 5)
    assert 0 < relative_error(got, ops.fp8_linear(x, weight, **scales)) < 2e-3
    with pytest.raises(ops.BackendUnavailable, match="dtype float64; its sums have 14 bits"):
        ops.fp8_linear(x.double(), weight.double(), **scales, backend="hopper_sums")
