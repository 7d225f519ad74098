"""Envelopes of filters against their formulas and the attenuation that was asked for."""

import math
from typing import Any

import pytest
import torch

from subquad.modules import ConfigurationError, ExponentialModulation, GaussianModulation
from tools.testing.oracle import assert_close


def around(*sizes: int) -> tuple[range, ...]:
    return tuple(range(1 - size, size) for size in sizes)


def test_the_exponential_envelope_follows_its_formula_over_three_axes() -> None:
    made = ExponentialModulation(5, data_dim=3, trained_reach=(3, 4, 5)).double()
    made.rate.data.normal_()
    axes = (torch.arange(-2, 3) / 2, torch.arange(-3, 4) / 3, torch.arange(-4, 5) / 4)
    factors = [torch.exp(-(made.rate[:, a].abs()[:, None] * axes[a].double().abs())) for a in range(3)]
    assert_close(made(around(3, 4, 5)), torch.einsum("ci,cj,ck->cijk", *factors), relative=1e-7)


def test_the_exponential_envelope_decays_as_asked_at_the_trained_reach() -> None:
    left = ExponentialModulation(4, trained_reach=20, slow_decay=1.0, fast_decay=6.0)((range(20),))
    assert abs(float(left[0, -1]) - math.exp(-1)) < 1e-3
    assert abs(float(left[-1, -1]) - math.exp(-6)) < 1e-3
    assert torch.equal(left[:, 0], torch.ones(4))


@pytest.mark.parametrize("parametrization", ["direct", "log", "softplus"])
@pytest.mark.parametrize("data_dim", [1, 2, 3])
def test_the_gaussian_envelope_follows_its_formula_and_the_attenuation_asked_for(
    parametrization: Any, data_dim: int
) -> None:
    made = GaussianModulation(
        6,
        data_dim=data_dim,
        trained_reach=11,
        least_at_step=0.2,
        greatest_at_limit=0.9,
        parametrization=parametrization,
    )
    envelope = made((range(11),) * data_dim)
    along = envelope[(slice(None), slice(None), *[0] * (data_dim - 1))]
    assert abs(float(along[0, 1]) - 0.2) < 1e-3
    assert abs(float(along[-1, -1]) - 0.1) < 1e-3

    made.parameter.data.fill_(50.0)  # wider than allowed, so that the bound acts
    along = made((range(11),) * data_dim)[(slice(None), slice(None), *[0] * (data_dim - 1))]
    assert torch.allclose(along[:, -1], torch.tensor(0.9), atol=1e-3)

    made = made.double()
    made.parameter.data.copy_(made.parameter.data.normal_(0.6, 0.05) if parametrization == "direct" else made.parameter)
    p = torch.arange(11, dtype=torch.float64) / 10
    factors = [torch.exp(-0.5 * (p / made.deviations()[:, a : a + 1]) ** 2) for a in range(data_dim)]
    expected = factors[0]
    for factor in factors[1:]:
        expected = expected.unsqueeze(-1) * factor.reshape(6, *[1] * (expected.dim() - 1), 11)
    assert_close(made((range(11),) * data_dim), expected, relative=1e-13)


def test_a_deviation_outside_its_bounds_still_gets_a_gradient() -> None:
    made = GaussianModulation(3, trained_reach=9)
    made.parameter.data.fill_(1e3)
    made(around(9)).sum().backward()
    assert made.parameter.grad.abs().min() > 0


@pytest.mark.parametrize("kind", [ExponentialModulation, GaussianModulation])
def test_a_low_precision_cast_leaves_envelopes_alone(kind: Any) -> None:
    made = kind(4, trained_reach=600)
    before = made(around(700)).detach()
    assert torch.equal(made.bfloat16()(around(700)), before)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ExponentialModulation, {"slow_decay": 3.0, "fast_decay": 2.0}, "slow_decay 3.0"),
        (GaussianModulation, {"least_at_step": 0.0}, "least_at_step 0.0"),
        (GaussianModulation, {"init_extent": (1.0, 2.0)}, "init_extent"),
        (GaussianModulation, {"greatest_at_limit": 0.01, "least_at_step": 0.99}, "the bounds of deviations"),
    ],
)
def test_values_out_of_range_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(4, trained_reach=4, **options)
