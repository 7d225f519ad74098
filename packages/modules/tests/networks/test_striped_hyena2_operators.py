"""The network with fused operators, with their parts one by one, and with the choice left open."""

from collections import Counter

import jaxtyping
import pytest
import torch

from packages.modules.tests.operator_calls import FUSED, counted_operators
from packages.modules.tests.support import golden_model, golden_run, lively_model, random_ids
from subquad.modules import ConfigurationError, StripedHyena2
from subquad.modules.errors import FusedOperatorsUnavailable
from tools.testing.oracle import assert_close

CHOICES = (None, True, False)
STATE_LENGTHS = (1, 2, 6, 7, 8, 127, 128, 129, 130, 131, 4096)


@torch.inference_mode()
@pytest.mark.parametrize("choice", CHOICES)
def test_float32_logits_equal_the_reference_on_the_chosen_path(choice, monkeypatch):
    run, model = golden_run("fp32"), golden_model(use_subquadratic_ops=choice)
    calls = counted_operators(monkeypatch)
    assert_close(model(run["ids"])[:, run["positions"]], run["logits"], relative=5e-6)
    fused = {name: calls[name] for name in FUSED if calls[name]}
    assert fused == ({} if choice is False else {"gated_conv": 4, "gated_modal_conv": 2})


@torch.inference_mode()
@pytest.mark.parametrize("length", STATE_LENGTHS)
def test_states_after_a_prompt_and_the_next_logits_are_equal(length):
    model = lively_model(dtype=torch.float32 if length > 1000 else torch.float64)
    tolerance = 5e-6 if length > 1000 else 1e-12
    ids, found = random_ids(1, length + 1, seed=1), []
    for choice in (True, False):
        model.use_subquadratic_ops = choice
        state = model.init_state(1, max_length=length + 1)
        hidden = model.encode(ids[:, :length], state)
        tensors = {
            f"{i}.{name}": value.clone() for i, s in enumerate(state.layers) for name, value in s.tensors().items()
        }
        found.append((hidden[:, -1], tensors, model.step(ids[:, length], state)))
    assert_close(found[0][0], found[1][0], relative=tolerance)
    assert_close(found[0][2], found[1][2], relative=tolerance)
    for name, value in found[0][1].items():
        assert_close(value, found[1][1][name], relative=tolerance)


@torch.inference_mode()
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("chunks", [[1, 5, 129, 2], [64, 64, 9], [3, 134]])
def test_chunks_then_steps_equal_the_whole_and_take_the_chosen_path(choice, chunks, monkeypatch):
    model, ids = lively_model(), random_ids(2, 140, seed=2)
    model.use_subquadratic_ops = False
    whole = model(ids)
    model.use_subquadratic_ops = choice
    state = model.init_state(2, max_length=140)
    calls = counted_operators(monkeypatch)
    parts = list(ids[:, :137].split(chunks, dim=1))
    logits = [model.unembed(model.encode(part, state)) for part in parts]
    fused = Counter({name: calls[name] for name in FUSED if calls[name]})
    names = {"gated_conv_with_state": 4, "gated_modal_conv_with_state": 2}
    assert fused == ({} if choice is False else {name: len(parts) * count for name, count in names.items()})
    calls.clear()
    logits += [model.step(ids[:, t], state)[:, None] for t in range(137, 140)]
    assert set(calls) == {"gated_conv_step", "gated_modal_step"}, "a step is the same whatever is chosen"
    assert_close(torch.cat(logits, 1), whole, relative=1e-12)


@pytest.mark.parametrize("pregate", [True, False])
@pytest.mark.parametrize("postgate", [True, False])
@torch.inference_mode()
def test_prompts_and_steps_agree_for_every_combination_of_gates(pregate, postgate):
    model, ids = lively_model(), random_ids(1, 140, seed=3)
    for block in model.blocks:
        if hasattr(block, "filter"):
            block.filter.pregate, block.filter.postgate = pregate, postgate
    whole = {}
    for choice in (True, False):
        model.use_subquadratic_ops = choice
        whole[choice] = model(ids)
        for prompt in (1, 6, 7, 130):
            state = model.init_state(1, max_length=140)
            model.encode(ids[:, :prompt], state)
            steps = [model.step(ids[:, t], state) for t in range(prompt, prompt + 3)]
            assert_close(torch.stack(steps, 1), whole[choice][:, prompt : prompt + 3], relative=1e-11)
    assert_close(whole[True], whole[False], relative=1e-12)


def test_gradients_are_equal():
    model, found = lively_model(filter_parameters="p_gamma"), []
    for choice in (True, False):
        model.use_subquadratic_ops = choice
        model.zero_grad(set_to_none=True)
        model(random_ids(2, 150)).square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        assert_close(gradient, found[1][name], relative=1e-11)


def test_the_choice_reaches_every_hyena_layer_and_can_change():
    model = lively_model(use_subquadratic_ops=True)
    hyena = [block for block in model.blocks if hasattr(block, "filter")]
    assert [block.use_subquadratic_ops for block in hyena] == [True] * 6
    model.use_subquadratic_ops = None
    assert [block.use_subquadratic_ops for block in hyena] == [None] * 6
    model.require_subquadratic_ops()


def test_another_value_is_refused():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(
            ConfigurationError, match="use_subquadratic_ops is 'yes'; accepted are None, True and False"
        ):
            lively_model().use_subquadratic_ops = "yes"
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_demanded_fused_operators_that_do_not_run_are_an_error_with_the_reason(monkeypatch):
    model = lively_model(use_subquadratic_ops=True)
    refusal = "no fused kernel takes it on cuda:0: triton: dtype float64"
    monkeypatch.setattr("subquad.modules.blocks.striped_hyena2.fused_refusal", lambda *_: refusal)
    with pytest.raises(FusedOperatorsUnavailable, match=f"HyenaShort cannot run fused: {refusal}"):
        model(random_ids(1, 8))
    with pytest.raises(FusedOperatorsUnavailable, match=r"blocks\.0: use_subquadratic_ops is True"):
        model.require_subquadratic_ops()
    model.use_subquadratic_ops = None
    model(random_ids(1, 8))


def test_the_checkpoint_does_not_change():
    assert list(StripedHyena2.state_dict(lively_model(use_subquadratic_ops=True))) == list(lively_model().state_dict())
