"""CKConv and Hyena against direct sums in float64, over one, two and three axes and every boundary."""

import copy
import itertools
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subquad.lazy_config import LazyConfig
from subquad.modules import (
    CKConv,
    ConfigurationError,
    ExponentialModulation,
    FilterFiLM,
    GaussianModulation,
    GlobalResponseNorm,
    Hyena,
    InputMismatch,
    L2Norm,
    RMSNorm,
    ShortConvolution,
    SIRENFilter,
    StateUnsupported,
)
from tools.testing.oracle import assert_close

SIZES = {1: (9,), 2: (5, 6), 3: (4, 3, 5)}


def ckconv(data_dim: int = 1, channels: int = 3, **options: Any) -> CKConv:
    torch.manual_seed(0)
    options = {"trained_size": SIZES[data_dim], "modulation_cfg": LazyConfig(GaussianModulation)(), **options}
    return CKConv(channels, LazyConfig(SIRENFilter)(omega_0=2.0), data_dim=data_dim, **options)


def direct(x: Tensor, taps: Tensor, boundary: tuple[str, ...], centre: tuple[int, ...], skip: Tensor) -> Tensor:
    """Sums over all taps, one shifted input at a time; x is channels last, taps channels first."""
    y = skip * x
    for index in itertools.product(*(range(n) for n in taps.shape[2:])):
        shifted = x
        for axis, (at, middle, kind) in enumerate(zip(index, centre, boundary, strict=True)):
            shift, size = at - middle, x.shape[axis + 1]
            source = torch.arange(size) - shift
            inside = torch.ones(size, dtype=torch.bool) if kind == "circular" else (source >= 0) & (source < size)
            shape = [1] * x.dim()
            shape[axis + 1] = size
            shifted = shifted.index_select(axis + 1, source % size) * inside.view(shape)
        y = y + shifted * taps[(slice(None), slice(None), *index)].reshape(-1, *[1] * (x.dim() - 2), x.shape[-1])
    return y


BOUNDARIES = [flags for d in (1, 2, 3) for flags in itertools.product(("zero", "circular"), repeat=d)]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_it_convolves_with_its_own_filter(boundary: Any) -> None:
    data_dim = len(boundary)
    model = ckconv(data_dim, boundary=boundary).double()
    x = torch.randn(2, *SIZES[data_dim], 3, dtype=torch.float64)
    taps = model.taps(SIZES[data_dim])
    reach = [n if kind == "zero" else (n + 1) // 2 for n, kind in zip(SIZES[data_dim], boundary, strict=True)]
    assert taps.shape[2:] == tuple(2 * r - 1 for r in reach)
    expected = direct(x, taps, boundary, tuple(r - 1 for r in reach), model.skip)
    none = x[..., :0]
    assert_close(model(none, none, x), expected, relative=1e-12)


def test_a_causal_one_uses_the_taps_that_look_back() -> None:
    two_sided, model = ckconv().double(), ckconv(causal=True).double()
    model.load_state_dict(two_sided.state_dict())
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    assert_close(model.taps((9,)), two_sided.taps((9,))[..., 8:], relative=1e-14)
    assert_close(model.convolve(x), direct(x, model.taps((9,)), ("zero",), (0,), model.skip), relative=1e-12)


def test_a_filter_of_another_size_is_the_same_filter_whatever_came_before() -> None:
    model = ckconv(trained_size=10)
    first = model.taps((10,))
    model.taps((20,)), model.taps((40,))
    assert torch.equal(model.taps((10,)), first)


def test_each_sample_can_have_a_filter_of_its_own() -> None:
    torch.manual_seed(0)
    cfg = LazyConfig(SIRENFilter)(film_cfg=LazyConfig(FilterFiLM)(condition_dim=4))
    model = CKConv(3, cfg, trained_size=8, data_dim=2).double()
    assert model.takes_condition
    model.filter.film.out_proj.weight.data.normal_(0, 0.3)
    x, condition = torch.randn(3, 8, 8, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    singles = [model.convolve(x[i : i + 1], condition[i : i + 1]) for i in range(3)]
    assert_close(model.convolve(x, condition), torch.cat(singles), relative=1e-12)
    with pytest.raises(InputMismatch, match="no film_cfg"):
        ckconv(2).double().convolve(x[:, :5, :6], condition)


def test_channel_chunks_change_nothing() -> None:
    x = torch.randn(2, 5, 6, 3, dtype=torch.float64)
    assert_close(ckconv(2, chunk_size=2).double().convolve(x), ckconv(2).double().convolve(x), relative=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_low_precision_model_is_close_to_float64(dtype: torch.dtype) -> None:
    model = ckconv(2, channels=8).to(dtype)
    x = torch.randn(2, 5, 6, 8).to(dtype)
    y = model.convolve(x)
    assert y.dtype == dtype
    assert_close(y, copy.deepcopy(model).double().convolve(x.double()), relative=2e-2)


def test_taps_are_kept_in_eval_until_something_changes() -> None:
    model, x = ckconv().eval(), torch.randn(1, 9, 3)
    calls: list[int] = []
    model.filter.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first = model.convolve(x)
        assert torch.equal(model.convolve(x), first)
        assert len(calls) == 1
        model.filter.out.weight.mul_(2)
        assert not torch.equal(model.convolve(x), first)
        model.load_state_dict(ckconv().state_dict())
        assert torch.equal(model.convolve(x), first)
        assert len(calls) == 3
        assert_close(copy.deepcopy(model).double().convolve(x.double()), first, relative=1e-5)
    model.convolve(x)
    assert len(calls) >= 4  # gradients are recorded, so that nothing is kept
    with torch.inference_mode():
        model.convolve(x), model.convolve(x)
    assert len(calls) <= 6


def test_an_optimiser_step_makes_the_taps_anew() -> None:
    model, x = ckconv().eval(), torch.randn(1, 9, 3)
    with torch.no_grad():
        before = model.convolve(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.convolve(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = model.convolve(x)
    assert not torch.equal(before, after)
    assert_close(after, model.convolve(x), relative=1e-6)


def test_the_second_call_in_eval_is_faster() -> None:
    model = ckconv(channels=64, trained_size=4096).eval()
    x = torch.randn(1, 4096, 64)

    def seconds(forget: bool) -> float:
        if forget:
            model.clear_tap_cache()
        start = time.process_time()
        model.convolve(x)
        return time.process_time() - start

    with torch.inference_mode():
        seconds(True)
        ratio = min(seconds(True) for _ in range(5)) / min(seconds(False) for _ in range(5))
    assert ratio >= 1.15, f"the second call is only {ratio:.2f} times as fast"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": True, "boundary": "circular"}, "accepted is one axis"),
        ({"causal": True, "extent": "single"}, "accepted is one axis"),
        ({"causal": True, "data_dim": 2}, "accepted is one axis"),
        ({"boundary": "circular", "extent": "double"}, "a circular axis takes 'single'"),
        ({"boundary": ("zero", "zero")}, "boundary is"),
        ({"trained_size": 1}, "trained_size is 1"),
    ],
)
def test_misconfigured_convolutions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ckconv(**options)


def test_what_sees_the_future_has_no_state_and_other_ranks_are_refused() -> None:
    with pytest.raises(StateUnsupported, match="CKConv cannot continue"):
        ckconv().init_state(1, max_length=4)
    with pytest.raises(InputMismatch, match=r"2 axes of space, .*; accepted are 1"):
        ckconv().convolve(torch.zeros(1, 3, 3, 3))


HYENA_OPTIONS: list[dict[str, Any]] = [
    {},
    {"qk_norm_cfg": LazyConfig(L2Norm)()},
    {"gate_cfg": LazyConfig(nn.SiLU)(), "qk_norm_cfg": LazyConfig(RMSNorm)(channels=3)},
    {"gate_cfg": LazyConfig(nn.Sigmoid)(), "output_gate_cfg": LazyConfig(nn.SiLU)()},
    {"pixel_norm_cfg": LazyConfig(RMSNorm)(channels=3), "output_norm_cfg": LazyConfig(RMSNorm)(channels=3)},
    {"short_conv_cfg": None},
]


@pytest.mark.parametrize("data_dim", [1, 2, 3])
@pytest.mark.parametrize("options", HYENA_OPTIONS)
def test_hyena_follows_its_formula(data_dim: int, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    long = LazyConfig(CKConv)(
        channels=3,
        data_dim=data_dim,
        trained_size=SIZES[data_dim],
        filter_cfg=LazyConfig(SIRENFilter)(),
        modulation_cfg=LazyConfig(ExponentialModulation)(),
    )
    short = LazyConfig(ShortConvolution)(data_dim=data_dim, bias=True)
    model = Hyena(3, long, **{"short_conv_cfg": short, **options}).double()
    q, k, v = x = torch.randn(3, 2, *SIZES[data_dim], 3, dtype=torch.float64)
    y = model(*x)

    if model.short_conv is not None:
        z, centre = torch.cat([q, k, v], -1), (1,) * data_dim
        model.short_conv.bias.data.normal_()
        y = model(*x)
        z = direct(z, model.short_conv.taps[None], ("zero",) * data_dim, centre, torch.zeros(9).double())
        q, k, v = (z + model.short_conv.bias).chunk(3, -1)
    gate = model.gate
    z = model.pixel_norm(model.q_norm(q) * gate(model.k_norm(k) if isinstance(gate, nn.Identity) else k))
    centre = tuple(n - 1 for n in SIZES[data_dim])
    h = direct(z, model.global_conv.taps(SIZES[data_dim]), ("zero",) * data_dim, centre, model.global_conv.skip)
    out = model.output_gate if "output_gate_cfg" in options else gate
    assert_close(y, model.output_norm(h * out(v)), relative=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("filter_size", [2, 3, 4])
def test_the_short_convolution_has_the_centre_and_boundary_of_the_long_one(boundary: Any, filter_size: int) -> None:
    torch.manual_seed(0)
    size = SIZES[len(boundary)]
    model = ShortConvolution(3, filter_size=filter_size, data_dim=len(boundary), boundary=boundary).double()
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    centre = (filter_size // 2,) * len(boundary)
    assert_close(model(x), direct(x, model.taps[None], boundary, centre, torch.zeros(3).double()), relative=1e-13)


LONG = LazyConfig(CKConv)(channels=4, trained_size=16, causal=True, filter_cfg=LazyConfig(SIRENFilter)())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_conv_cfg": LazyConfig(ShortConvolution)()}, "set causal=True in short_conv_cfg"),
        ({"short_conv_cfg": LazyConfig(nn.Conv1d)(in_channels=12, out_channels=12, kernel_size=3)}, "Conv1d"),
        ({"short_conv_cfg": LazyConfig(ShortConvolution)(data_dim=2)}, "short_conv_cfg has 2 axes"),
        ({"output_norm_cfg": LazyConfig(GlobalResponseNorm)(channels=4)}, "output_norm .GlobalResponseNorm. sees all"),
    ],
)
def test_a_causal_hyena_with_a_part_that_sees_the_future_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Hyena(4, LONG, **options)


def test_cached_operations_leave_out_the_filter_and_one_transform() -> None:
    model = ckconv(trained_size=64)
    saved = model.flop_count(64) - model.flop_count(64, cached=True)
    points = 64 + 127 // 2
    expected = 3 * 2.5 * points * math.log2(points) + model.filter.flop_count(127)
    assert abs(saved / expected - 1) < 0.05
