"""The state-space mixer against the direct sum over its separable filter."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.modules import ConfigurationError, InputMismatch, StateSpace
from tools.testing.oracle import assert_close

SIZES = {1: (9,), 2: (5, 6), 3: (4, 3, 5)}


def make(data_dim: int = 1, **options: Any) -> StateSpace:
    torch.manual_seed(0)
    return StateSpace(3, data_dim=data_dim, state_size=4, longest=8.0, **options).double()


def taps(model: StateSpace, axis: int, reach: int) -> Tensor:
    """Returns one axis's filter at offsets ``1 - reach`` to ``reach - 1``."""
    t, sides = torch.arange(reach), []
    for poles, residues in zip(model.poles()[axis], model.residues[axis], strict=True):
        sides.append((residues[..., None] * torch.exp(poles[..., None] * t)).sum(1))
    after = torch.nn.functional.pad(sides[0], (reach - 1, 0))
    return after if len(sides) == 1 else after + torch.nn.functional.pad(sides[1].flip(-1), (0, reach - 1))


def direct(model: StateSpace, x: Tensor) -> Tensor:
    """Sums over all pairs of points; x is channels last."""
    size = x.shape[1:-1]
    filters = [taps(model, axis, n) for axis, n in enumerate(size)]
    y = torch.zeros_like(x)
    points = list(itertools.product(*map(range, size)))
    for to, source in itertools.product(points, points):
        weight = torch.ones(3, dtype=torch.float64)
        for h, i, j, n in zip(filters, to, source, size, strict=True):
            weight = weight * h[:, i - j + n - 1]
        y[(slice(None), *to)] += weight * x[(slice(None), *source)]
    return y


@pytest.mark.parametrize(("data_dim", "causal"), [(1, True), (1, False), (2, False), (3, False)])
def test_it_convolves_with_the_product_of_its_filters(data_dim: int, causal: bool) -> None:
    model = make(data_dim, causal=causal)
    q, k, v = torch.randn(3, 2, *SIZES[data_dim], 3, dtype=torch.float64)
    expected = q * (direct(model, k * v) + model.D * k * v)
    assert_close(model(q, k, v), expected, relative=1e-12)


def test_each_side_starts_with_a_square_sum_near_one() -> None:
    torch.manual_seed(0)
    model = StateSpace(2000, state_size=16, causal=True)
    energy = taps(model, 0, 4000).square().sum(-1)
    assert 0.5 < float(energy.mean()) < 2


def test_a_low_precision_model_keeps_its_poles() -> None:
    model = StateSpace(3).bfloat16()
    assert model.log_rate.dtype == model.residues.dtype == torch.float32
    assert model.D.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_dim": 2, "causal": True}, "data_dim is 2, causal True"),
        ({"data_dim": 4}, "data_dim is 4"),
        ({"state_size": 0}, "state_size 0"),
        ({"longest": 0.5}, "longest 0.5"),
    ],
)
def test_arguments_out_of_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        StateSpace(3, **options)


def test_another_number_of_axes_is_refused() -> None:
    with pytest.raises(InputMismatch, match=r"q has 2 axes of space, .*; accepted are 1"):
        make()(*torch.zeros(3, 1, 4, 4, 3, dtype=torch.float64))
