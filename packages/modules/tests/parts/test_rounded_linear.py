"""Tests of linear layers with weights of one byte."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from packages.modules.tests.support import lively_model, random_ids
from subquad.modules import FP8Linear, RoundedLinear, round_linears
from subquad.ops import _scaled_mm_backend, dispatch
from tools.testing.oracle import assert_close, relative_error


@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_rounded_layer_is_close_to_the_layer_and_takes_a_byte_a_weight(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 32, bias=bias)
    rounded = RoundedLinear(layer)
    x = torch.randn(2, 5, 48) * torch.tensor([1e-3, 1e3])[:, None, None]  # each row has a scale of its own
    for part in range(2):
        assert relative_error(rounded(x[part]), layer(x[part])) < 0.05
    assert rounded.weight.element_size() == 1
    assert not list(rounded.parameters())
    assert torch.equal(rounded(x[0]), rounded(x)[0])


@torch.inference_mode()
def test_every_linear_of_a_network_is_rounded_and_the_network_predicts_nearly_the_same() -> None:
    model = lively_model(dtype=torch.float32)
    ids = random_ids(2, 60)
    before = model(ids)
    count = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert round_linears(model) == count
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert 1e-3 < relative_error(model(ids), before) < 0.7
    assert round_linears(model) == 0


@torch.inference_mode()
def test_chunks_equal_the_whole_with_rounded_weights() -> None:
    model = lively_model()
    round_linears(model)
    ids = random_ids(2, 40)
    state = model.init_state(2, max_length=64)
    parts = [model.unembed(model.encode(part, state)) for part in ids.split([20, 1, 19], dim=1)]
    assert_close(torch.cat(parts, dim=1), model(ids), 1e-12)


@torch.inference_mode()
def test_decode_steps_round_the_weights_and_not_the_activations() -> None:
    model, rounded = lively_model(), lively_model()
    round_linears(rounded)
    for name, layer in rounded.named_modules():
        if isinstance(layer, RoundedLinear):
            model.get_submodule(name).weight.copy_(layer.weight.double() / layer.weight_scale.double()[:, None])
    ids = random_ids(2, 12)
    states = [network.init_state(2, max_length=64) for network in (model, rounded)]
    for token in ids.unbind(1):
        plain, got = (n.step(token, state) for n, state in zip((model, rounded), states, strict=True))
        assert_close(got, plain, 1e-12)
    assert relative_error(got, rounded(ids)[:, -1]) < 0.7  # whole sequences round the activations as well


@torch.inference_mode()
def test_chunks_of_any_length_multiply_on_the_8_bit_tensor_cores_of_a_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    (tensor_cores,), refusals = _scaled_mm_backend.implementations(), set()

    def choose(call: dispatch.Call, backend: str) -> tuple[None, dispatch.Explanation]:
        if call.operator == tensor_cores.operator:
            assert backend == "auto"
            refusals.add(tensor_cores.refusal(replace(call, device="cuda")))
        return None, dispatch.Explanation("torch", "there is no GPU here")

    model = lively_model(dtype=torch.bfloat16)
    round_linears(model)
    monkeypatch.setattr(dispatch, "choose", choose)
    state = model.init_state(1, max_length=2200)
    for part in random_ids(1, 2062).split([2048, 1, 13], dim=1):
        model.encode(part, state)
    assert refusals == {None}


def test_layers_with_stored_scales_stay() -> None:
    model = lively_model(fp8_projections=True)
    round_linears(model)
    kept = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert {type(module) for module in kept} == {FP8Linear}


CASTS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", CASTS, ids=str)
@torch.inference_mode()
def test_a_cast_keeps_codes_and_scales_and_casts_the_bias(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rounded = RoundedLinear(nn.Linear(48, 32))
    x, before = torch.randn(5, 48), {name: tensor.clone() for name, tensor in rounded.state_dict().items()}
    plain = rounded(x.to(dtype).float())
    rounded.to(dtype)
    after = rounded.state_dict()
    assert list(after) == list(before)
    for name in ("weight", "weight_scale"):
        assert after[name].dtype == before[name].dtype
        assert torch.equal(after[name].view(torch.uint8), before[name].view(torch.uint8)), name
    assert after["bias"].dtype == dtype
    assert relative_error(rounded(x.to(dtype)), plain) < (0.01 if dtype.itemsize == 2 else 1e-6)


@pytest.mark.parametrize("dtype", CASTS, ids=str)
@torch.inference_mode()
def test_a_network_whose_linears_are_rounded_can_be_cast_and_predicts_nearly_the_same(dtype: torch.dtype) -> None:
    model = lively_model(dtype=torch.float32)
    round_linears(model)
    ids = random_ids(2, 60)
    before = model(ids)
    assert relative_error(model.to(dtype)(ids), before) < (0.5 if dtype.itemsize == 2 else 1e-3)


def test_a_rounded_layer_goes_to_another_device_and_type_at_once() -> None:
    rounded = RoundedLinear(nn.Linear(48, 32)).to("meta", torch.bfloat16)
    found = {name: (tensor.device.type, tensor.dtype) for name, tensor in rounded.state_dict().items()}
    assert found == {
        "weight": ("meta", torch.float8_e4m3fn),
        "weight_scale": ("meta", torch.float32),
        "bias": ("meta", torch.bfloat16),
    }
    assert rounded.to_empty(device="cpu").weight.dtype == torch.float8_e4m3fn


@torch.inference_mode()
def test_what_is_kept_of_the_scales_follows_them_through_loading_and_casts() -> None:
    torch.manual_seed(0)
    rounded = RoundedLinear(nn.Linear(48, 32))
    x = torch.randn(5, 48)
    expected = rounded(x)
    for assign in (False, True):
        other = RoundedLinear(nn.Linear(48, 32))
        nn.Sequential(other).load_state_dict(nn.Sequential(rounded).state_dict(), assign=assign)
        assert torch.equal(other(x), expected)
    assert torch.equal(other.double().float()(x), expected)
    assert "weight_inverse" not in rounded.state_dict()
