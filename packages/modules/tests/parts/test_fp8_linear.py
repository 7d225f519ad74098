"""Tests of the linear layer of 8-bit products, and of a network that projects with it."""

import copy

import pytest
import torch

from packages.modules.tests.support import TINY, golden_model, lively_model, random_ids
from subquad.modules import FP8Linear, StripedHyena2
from subquad.ops import fp8_linear
from tools.testing.oracle import assert_close, relative_error


@pytest.fixture
def layer() -> FP8Linear:
    torch.manual_seed(0)
    return FP8Linear(48, 32, dtype=torch.bfloat16).eval()


@torch.inference_mode()
def test_it_computes_the_operator_under_its_scales(layer: FP8Linear) -> None:
    layer.fp8.input_scale.fill_(19.0)
    layer.fp8.weight_scale.fill_(700.0)
    x = torch.randn(2, 5, 48).bfloat16()
    scales = {"input_scale": torch.tensor(19.0), "weight_scale": torch.tensor(700.0)}
    assert torch.equal(layer(x), fp8_linear(x, layer.weight, **scales))


def test_a_changed_weight_or_scale_is_seen(layer: FP8Linear) -> None:
    x = torch.randn(3, 48).bfloat16()
    with torch.no_grad():
        before = layer(x)
        layer.weight.mul_(2)
        twice = layer(x)
        layer.fp8.weight_scale.div_(2)
        assert torch.equal(layer(x), 2 * before)
        assert not torch.equal(twice, before)


def test_scales_stay_float32_in_every_network(layer: FP8Linear) -> None:
    for dtype in (torch.bfloat16, torch.float64, torch.float16):
        moved = copy.deepcopy(layer).to(dtype)
        assert moved.weight.dtype == dtype
        assert {name: t.dtype for name, t in moved.fp8.state_dict().items()} == {
            "input_scale": torch.float32,
            "weight_scale": torch.float32,
        }


def test_gradients_reach_input_and_weight(layer: FP8Linear) -> None:
    x = torch.randn(3, 48).bfloat16().requires_grad_()
    layer.train()(x).float().square().sum().backward()
    for tensor in (x, layer.weight):
        assert tensor.grad is not None
        assert bool(torch.isfinite(tensor.grad).all())


def test_only_input_projections_of_hyena_layers_use_it() -> None:
    network = StripedHyena2(**TINY, fp8_projections=True)
    names = [name for name, module in network.named_modules() if isinstance(module, FP8Linear)]
    assert names == [f"blocks.{i}.projections" for i, letter in enumerate(TINY["pattern"]) if letter != "*"]
    added = set(network.state_dict()) - set(StripedHyena2(**TINY).state_dict())
    assert added == {f"{name}.fp8.{end}" for name in names for end in ("input_scale", "weight_scale")}


@torch.inference_mode()
def test_decoding_and_chunks_equal_the_whole_with_8_bit_projections() -> None:
    model = lively_model(fp8_projections=True)
    ids = random_ids(2, 60)
    whole = model(ids)
    for cuts in ((60,), (1, 7, 52), (33, 27)):
        state = model.init_state(2, max_length=64)
        parts = [model.unembed(model.encode(part, state)) for part in ids.split(cuts, dim=1)]
        assert_close(torch.cat(parts, dim=1), whole, 1e-12)
    state = model.init_state(2, max_length=64)
    model.encode(ids[:, :50], state)
    for t in range(50, 60):
        assert_close(model.step(ids[:, t], state), whole[:, t], 1e-12)


@torch.inference_mode()
def test_8_bit_projections_move_the_golden_model_by_their_rounding_and_no_more() -> None:
    plain, rounded = golden_model(), golden_model_in_fp8()
    ids = random_ids(1, 100)
    assert 1e-3 < relative_error(rounded(ids), plain(ids)) < 0.3


def golden_model_in_fp8() -> StripedHyena2:
    plain = golden_model()
    model = StripedHyena2(**TINY, fp8_projections=True)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert all(".fp8." in name for name in missing)
    assert not unexpected
    return model.eval()
