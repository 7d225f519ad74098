"""The network against the numbers of the reference engine."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from packages.modules.tests.support import golden_model, golden_run
from subquad.modules import HyenaBlock, StripedHyena2
from subquad.modules.mixers.fir import FIRState
from subquad.modules.mixers.modal import ModalState
from subquad.modules.mixers.paged_key_values import PagedKeyValueState
from subquad.ops import history_from_ring
from tools.testing.oracle import assert_close, relative_error

BF16_ALLOWANCE = 1.2  # times what the reference engine itself is off its float64 equations in bfloat16


def block_outputs(model: StripedHyena2, ids: Tensor) -> list[Tensor]:
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, y: outputs.append(y)) for block in model.blocks]
    with torch.inference_mode():
        model(ids)
    for hook in hooks:
        hook.remove()
    return outputs


@torch.inference_mode()
def decoded(model: StripedHyena2, ids: Tensor, prefill: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Reads a prompt, then token by token; returns all logits and the states after both, under the golden names."""
    state = model.init_state(ids.shape[0], max_length=ids.shape[1])
    logits = [model.unembed(model.encode(ids[:, :prefill], state))]
    after_prefill = named_states(state.layers)
    logits += [model.step(ids[:, t], state).unsqueeze(1) for t in range(prefill, ids.shape[1])]
    return torch.cat(logits, 1), after_prefill, named_states(state.layers)


def named_states(layers: list) -> dict[str, Tensor]:
    named = {}
    for index, layer in enumerate(layers):
        if isinstance(layer, PagedKeyValueState):
            rows = [torch.stack(layer.read(row, layer.pages.size), dim=1) for row in range(len(layer.position))]
            named[f"{index}.kv"] = torch.stack(rows)
        else:
            assert isinstance(layer, FIRState | ModalState)
            assert layer.projection is not None
            named[f"{index}.fir"] = history_from_ring(layer.projection, layer.position)
            if isinstance(layer, FIRState):
                named[f"{index}.inner_fir"] = history_from_ring(layer.taps, layer.position)
            else:
                named[f"{index}.iir"] = layer.modal.clone()
    return named


@pytest.mark.parametrize(("name", "scale"), [("fp32", 1.0), ("fp32_rope128", 128.0)])
def test_float32_logits_equal_the_reference(name: str, scale: float) -> None:
    run, model = golden_run(name), golden_model(rotary_scale=scale)
    with torch.inference_mode():
        logits = model(run["ids"])
    assert_close(logits[:, run["positions"]], run["logits"], relative=5e-6)


def test_every_block_output_equals_the_reference() -> None:
    run = golden_run("fp32")
    for index, output in enumerate(block_outputs(golden_model(), run["ids"])):
        assert_close(output[:, run["positions"]], run[f"block_outputs/{index}"], relative=5e-6)


def _spoiled_order(model: StripedHyena2) -> None:
    """Swaps the rows of the postgate and the pregate of every channel."""
    for block in model.blocks:
        if isinstance(block, HyenaBlock):
            order = torch.arange(block.projections.weight.shape[0]).unflatten(0, (-1, 3))[:, [1, 0, 2]].flatten()
            block.projections.weight.copy_(block.projections.weight[order].clone())
            block.projection_taps.copy_(block.projection_taps[order].clone())


def _spoiled_activation(model: StripedHyena2) -> None:
    """Gives the second block the gate of the first."""
    model.blocks[1].mlp.activation = "gelu"


@pytest.mark.parametrize("spoil", [_spoiled_order, _spoiled_activation])
@torch.inference_mode()
def test_another_order_of_gates_or_another_gelu_would_show(spoil: Callable[[StripedHyena2], None]) -> None:
    run, model = golden_run("fp32"), golden_model()
    assert relative_error(model(run["ids"])[:, run["positions"]], run["logits"]) < 5e-6
    spoil(model)
    assert relative_error(model(run["ids"])[:, run["positions"]], run["logits"]) > 1e-2


def test_states_and_cached_logits_equal_the_reference() -> None:
    run = golden_run("fp32")
    logits, after_prefill, after_decode = decoded(golden_model(), run["ids"], int(run["prefill"]))
    assert_close(logits[:, run["positions"]], run["cached_logits"], relative=5e-6)
    compared = 0
    for key, expected in run.items():
        moment, _, name = key.partition("/")
        if moment in ("state_after_prefill", "state_after_decode"):
            got = (after_prefill if moment == "state_after_prefill" else after_decode)[name]
            assert_close(got[:, run["positions"]] if name.endswith("kv") else got, expected, relative=5e-6)
            compared += 1
    assert compared == 26


def test_keys_of_scaled_positions_equal_the_reference() -> None:
    run = golden_run("fp32_rope128")
    _, _, after = decoded(golden_model(rotary_scale=128.0), run["ids"], int(run["prefill"]))
    for name in ("3.kv", "7.kv"):
        assert_close(after[name][:, run["positions"]], run[f"state_after_decode/{name}"], relative=5e-6)


def test_float64_equals_the_equations() -> None:
    run = golden_run("fp32")
    with torch.inference_mode():
        logits = golden_model(torch.float64)(run["ids"])
    assert_close(logits[:, run["positions"]], run["spec_logits_fp64"], relative=1e-12)


@pytest.mark.parametrize("chunks", [[64, 1, 135], [1, 1, 1, 5, 120, 72], [127, 2, 71]])
def test_float64_in_chunks_equals_the_equations(chunks: list[int]) -> None:
    run, model = golden_run("fp32"), golden_model(torch.float64)
    state = model.init_state(2, max_length=200)
    with torch.inference_mode():
        logits = torch.cat(
            [model.unembed(model.encode(part, state)) for part in run["ids"].split(chunks, dim=1)], dim=1
        )
    assert_close(logits[:, run["positions"]], run["spec_logits_fp64"], relative=1e-12)


def test_bfloat16_is_about_as_exact_as_the_reference() -> None:
    run, model = golden_run("bf16"), golden_model(torch.bfloat16)
    with torch.inference_mode():
        logits = model(run["ids"])
    assert logits.dtype == torch.bfloat16
    error, reference = (
        relative_error(each, run["spec_logits_fp64"]) for each in (logits[:, run["positions"]], run["logits"])
    )
    assert error < BF16_ALLOWANCE * reference, f"{error:.2e}, the reference {reference:.2e}"
    decoded_logits, _, _ = decoded(model, run["ids"], int(run["prefill"]))
    error = relative_error(decoded_logits[:, run["positions"]], run["spec_logits_fp64"])
    assert error < 8e-2, f"{error:.2e}"


@pytest.mark.parametrize("name", ["fp32", "fp32_rope128"])
@torch.inference_mode()
def test_greedy_ids_equal_the_reference(name: str) -> None:
    run = golden_run(name)
    model = golden_model(rotary_scale=128.0 if "rope" in name else 1.0)
    prompt, wanted = run["ids"][:, : int(run["prefill"])], run["greedy_ids"]
    state = model.init_state(2, max_length=prompt.shape[1] + wanted.shape[1])
    chosen = [model.unembed(model.encode(prompt, state))[:, -1].argmax(-1)]
    while len(chosen) < wanted.shape[1]:
        chosen.append(model.step(chosen[-1], state).argmax(-1))
    assert torch.stack(chosen, 1).tolist() == wanted.tolist()
