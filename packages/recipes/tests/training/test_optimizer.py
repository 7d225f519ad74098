"""Weight decay spares what it must, and the schedule has the shape it says."""

import pytest
import torch
from torch import nn

from subquad.modules import StripedHyena2
from subquad.recipes.training import OptimizerSettings, build_optimizer, build_schedule
from subquad.recipes.training.optimizer import exempt_parameters, learning_rate_at


def small_model() -> StripedHyena2:
    return StripedHyena2(
        pattern="SDH*", hidden_size=16, num_heads=2, inner_size=16, filter_groups=4, filter_parameters="p_gamma"
    )


def test_filters_short_convolutions_and_vectors_do_not_decay():
    exempt = exempt_parameters(small_model())
    for name in ("filter.projection_taps", "filter.taps"):
        assert f"blocks.0.{name}" in exempt
    for name in ("p", "gamma", "residues", "D"):
        assert f"blocks.2.filter.{name}" in exempt
    assert "norm.scale" in exempt


def test_linears_and_embeddings_decay():
    exempt = exempt_parameters(small_model())
    assert "embedding_layer.weight" not in exempt
    assert "blocks.3.inner_mha_cls.Wqkv.weight" not in exempt
    assert not any(name.startswith("blocks.0.mlp") for name in exempt)


def test_every_parameter_is_in_one_group():
    model = small_model()
    optimizer = build_optimizer(model, OptimizerSettings(weight_decay=0.3))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))


def test_the_schedule_warms_up_and_follows_a_cosine():
    settings = OptimizerSettings(learning_rate=1.0, final_learning_rate=0.1, warmup_steps=4)
    rates = [learning_rate_at(step, settings, 24) for step in range(25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[14] == pytest.approx(0.55)
    assert rates[24] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_the_optimizer_follows_the_schedule():
    settings = OptimizerSettings(learning_rate=0.5, final_learning_rate=0.05, warmup_steps=2)
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=settings.learning_rate)
    schedule = build_schedule(optimizer, settings, 10)
    for step in range(10):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(learning_rate_at(step, settings, 10))
        optimizer.step()
        schedule.step()


def test_a_warm_up_longer_than_the_run_is_cut():
    settings = OptimizerSettings(learning_rate=1.0, final_learning_rate=0.0, warmup_steps=2500)
    assert learning_rate_at(9, settings, 10) == 1.0
