"""Implicit filters: their formula, their initial values, and that taps depend on nothing but their offsets."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from subquad.lazy_config import LazyConfig
from subquad.modules import (
    ConfigurationError,
    FilterFiLM,
    InputMismatch,
    RandomFourierFilter,
    SIRENFilter,
    frequency_bands,
    parameter_tags,
)
from tools.testing.oracle import assert_close

FILTERS: list[tuple[type, dict[str, Any]]] = [
    (SIRENFilter, {}),
    (SIRENFilter, {"omega_0": (1.0, 4.0), "off_block_scale": 0.1}),
    (SIRENFilter, {"learnable_omega": True, "num_layers": 2}),
    (RandomFourierFilter, {}),
    (RandomFourierFilter, {"activation": "sine", "bias": False}),
]
every_filter = pytest.mark.parametrize(("kind", "options"), FILTERS)


def around(*sizes: int) -> tuple[range, ...]:
    return tuple(range(1 - size, size) for size in sizes)


def dense(x: Tensor, layer: Any) -> Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


@every_filter
def test_taps_follow_the_formula(kind: type, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = kind(6, data_dim=2, trained_reach=(5, 9), hidden_dim=16, **options).double()
    p = torch.stack(torch.meshgrid(torch.arange(-4, 5) / 4, torch.arange(-2, 3) / 8, indexing="ij"), -1).double()
    x = dense(p, made.first)
    if kind is SIRENFilter:
        x = (x * (made.omega if made.omega_scale is not None else 1)).sin()
    else:
        x = torch.cat([x.cos(), x.sin()], -1)
    for layer in made.hidden:
        x = dense(x, layer)
        x = torch.nn.functional.gelu(x) if kind is RandomFourierFilter and not options else x.sin()
    assert_close(made(around(5, 3))[0], dense(x, made.out).movedim(-1, 0), relative=1e-13)


@every_filter
def test_taps_do_not_depend_on_earlier_or_longer_calls(kind: type, options: dict[str, Any]) -> None:
    made = kind(4, trained_reach=10, **options)
    first, twenty, forty = made(around(10)), made(around(20)), made(around(40))
    assert torch.equal(made(around(10)), first)
    assert_close(twenty[..., 10:29], first, relative=1e-5)
    assert_close(forty[..., 20:59], twenty, relative=1e-5)
    assert_close(made((range(40),)), forty[..., 39:], relative=1e-5)


def test_pre_activations_start_as_wide_as_the_theory_says() -> None:
    torch.manual_seed(0)
    made = SIRENFilter(8, trained_reach=2000, omega_0=30.0, hidden_dim=512, hidden_omega_0=0.25)
    positions = torch.linspace(-1, 1, 3999).unsqueeze(-1)
    first = made.first(positions)
    assert abs(float(first.std()) / (2 * math.pi * 30 / 3) - 1) < 0.1
    hidden = made.hidden[0](first.sin())
    assert abs(float(hidden.std()) * 2 * math.pi * 0.25 - 1) < 0.1


def test_a_higher_frequency_moves_the_spectrum_up() -> None:
    def centroid(omega_0: float, learnable: bool) -> float:
        torch.manual_seed(0)
        made = SIRENFilter(32, trained_reach=256, omega_0=omega_0, learnable_omega=learnable)
        power = torch.fft.rfft(made(around(256))[0].detach()).abs().square().sum(0)
        return float((power * torch.arange(len(power))).sum() / power.sum())

    for learnable in (False, True):
        centroids = [centroid(omega_0, learnable) for omega_0 in (1.0, 5.0, 20.0)]
        assert centroids == sorted(centroids)
        assert centroids[2] > 2 * centroids[0]


def test_rows_have_the_frequencies_of_their_band_and_blocks_stay_apart() -> None:
    torch.manual_seed(0)
    made = SIRENFilter(8, trained_reach=16, omega_0=(1.0, 10.0), hidden_dim=64, off_block_scale=0.0)
    rows = made.first.weight.detach().abs()
    assert rows[:32].max() <= 2 * math.pi < rows[32:].max() <= 20 * math.pi
    assert torch.equal(made.hidden[0].weight[:32, 32:], torch.zeros(32, 32))
    assert made.out.weight[:4, :32].abs().min() > 0


def test_learnable_frequencies_act_within_their_bounds_and_come_back() -> None:
    made = SIRENFilter(4, trained_reach=8, learnable_omega=True, omega_0=2.0)
    optimizer = torch.optim.SGD([made.omega_scale], lr=1.0)
    for target in (100.0, -100.0, 1.0):
        for _ in range(300):
            optimizer.zero_grad()
            ((made.frequencies() / (4 * math.pi) - target).sign() * 0.05 * made.frequencies()).sum().backward()
            optimizer.step()
            factor = made.frequencies().detach() / (4 * math.pi)
            assert float(factor.min()) >= 0.01 * (1 - 1e-6)
            assert float(factor.max()) <= 2 * (1 + 1e-6)


def test_the_first_layer_learns_as_if_it_held_the_frequencies() -> None:
    cfg: dict[str, Any] = {"trained_reach": 8, "learnable_omega": True, "omega_0": (1.0, 4.0)}
    for scaled, factor in ((False, 1.0), (True, 1 / (8 * math.pi))):
        tags = parameter_tags(SIRENFilter(4, scale_learning_rate=scaled, **cfg))
        assert tags["first.weight"].learning_rate_scale == tags["first.bias"].learning_rate_scale == factor
        assert tags["hidden.0.weight"].learning_rate_scale == 1
    assert parameter_tags(SIRENFilter(4, trained_reach=8, scale_learning_rate=True))["first.weight"].weight_decay


@pytest.mark.parametrize(("spacing", "expected"), [("linear", (1.0, 3.0, 5.0)), ("log", (1.0, 5.0**0.5, 5.0))])
def test_bands_are_spaced_evenly(spacing: Any, expected: tuple[float, ...]) -> None:
    assert frequency_bands(3, greatest=5.0, spacing=spacing) == pytest.approx(expected, rel=1e-12)
    assert frequency_bands(1, greatest=5.0, spacing=spacing) == (1.0,)
    with pytest.raises(ConfigurationError, match=r"least 6\.0, greatest 5\.0"):
        frequency_bands(3, least=6.0, greatest=5.0, spacing=spacing)


@every_filter
def test_a_condition_may_act_on_the_embedding_too(kind: type, options: dict[str, Any]) -> None:
    film = LazyConfig(FilterFiLM)(condition_dim=3, init_deviation=0.1)
    cfg = {"trained_reach": 6, "film_cfg": film, "hidden_dim": 32, "embedding_dim": 32, **options}
    torch.manual_seed(0)
    plain, more = kind(4, **cfg), kind(4, film_on_embedding=True, **cfg)
    assert more.film.num_layers == plain.film.num_layers + 1
    assert 0.05 < float(more.film.out_proj.weight.detach().std()) < 0.2
    taps = more(around(6), torch.randn(2, 3))
    assert not torch.allclose(taps[0], taps[1])
    with pytest.raises(ConfigurationError, match="embedding_dim is 16 and hidden_dim 32"):
        kind(4, film_on_embedding=True, **{**cfg, "embedding_dim": 16})
    with pytest.raises(ConfigurationError, match="init_deviation is -1"):
        FilterFiLM(3, 8, num_layers=1, init_deviation=-1.0)


def test_frozen_features_need_no_gradient_and_others_do() -> None:
    assert not any(
        p.requires_grad for p in RandomFourierFilter(2, trained_reach=4, frozen_features=True).first.parameters()
    )
    assert all(p.requires_grad for p in RandomFourierFilter(2, trained_reach=4).first.parameters())


@every_filter
def test_a_condition_changes_nothing_at_first_and_then_makes_a_filter_a_sample(
    kind: type, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    made = kind(4, data_dim=2, trained_reach=6, film_cfg=LazyConfig(FilterFiLM)(condition_dim=3), **options)
    condition = torch.randn(5, 3)
    plain = made(around(6, 6))
    assert_close(made(around(6, 6), condition), plain.expand(5, -1, -1, -1), relative=1e-6)
    made.film.out_proj.weight.data.normal_(0, 0.5)
    whole = made(around(6, 6), condition)
    singles = torch.cat([made(around(6, 6), one) for one in condition.split(1)])
    assert_close(whole, singles, relative=1e-5)
    assert not torch.allclose(whole[0], whole[1])


@every_filter
def test_a_low_precision_cast_leaves_filters_alone(kind: type, options: dict[str, Any]) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        made = kind(4, trained_reach=600, **options)
        before = made(around(700)).detach()
        assert torch.equal(made.to(dtype)(around(700)), before)


@every_filter
def test_operations_of_a_filter_are_those_a_profiler_counts(kind: type, options: dict[str, Any]) -> None:
    made = kind(32, trained_reach=64, hidden_dim=64, embedding_dim=64, **options)
    with FlopCounterMode(display=False) as counter:
        made(around(64))
    assert abs(made.flop_count(127) / counter.get_total_flops() - 1) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trained_reach": 1}, "trained_reach is 1"),
        ({"trained_reach": (4, 4)}, "one or 1 of them"),
        ({"trained_reach": 4, "data_dim": 4}, "data_dim is 4"),
        ({"trained_reach": 4, "num_layers": 1}, "num_layers is 1"),
        ({"trained_reach": 4, "omega_0": -1.0}, "omega_0 is -1.0"),
        ({"trained_reach": 4, "omega_0": (1.0, 2.0, 3.0)}, "divide 32 rows"),
        ({"trained_reach": 4, "omega_0": (1.0, 2.0), "off_block_scale": 0.1}, "channels is 3"),
        ({"trained_reach": 4, "omega_bounds": (0.0, 2.0)}, "omega_bounds"),
    ],
)
def test_sizes_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SIRENFilter(3, **options)


def test_a_condition_without_film_and_ranges_of_another_rank_are_refused() -> None:
    made = SIRENFilter(3, trained_reach=4)
    with pytest.raises(InputMismatch, match="no film_cfg"):
        made(around(4), torch.zeros(1, 2))
    with pytest.raises(InputMismatch, match="over 1 axes was asked for 2"):
        made(around(4, 4))
