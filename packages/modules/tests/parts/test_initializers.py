"""Initial values: the deviations that the rules name, on the right layers, the same from the same seed."""

import pytest
import torch
from torch import nn

from packages.modules.tests.networks.small_configurations import block, hyena
from subquad.lazy_config import instantiate
from subquad.modules import ConfigurationError, Initializer, SmallInit, TruncatedNormal, WangInit, initialize_linears


@pytest.mark.parametrize(
    ("rule", "deviation"),
    [
        (TruncatedNormal(0.5), 0.5 * 0.8796),  # cutting at two deviations takes 12 % of the deviation
        (SmallInit(40), 0.1),
        (WangInit(25, num_layers=4), 0.1),
    ],
)
def test_draws_have_the_deviation_of_their_rule(rule: Initializer, deviation: float) -> None:
    parameter = torch.empty(400, 400)
    rule(parameter, torch.Generator().manual_seed(0))
    assert isinstance(rule, Initializer)
    assert abs(float(parameter.std()) / deviation - 1) < 0.01
    assert abs(float(parameter.mean())) < 0.01 * deviation
    if isinstance(rule, TruncatedNormal):
        assert float(parameter.abs().max()) <= 1.0


def test_layers_that_end_a_branch_have_a_rule_of_their_own_and_filters_keep_theirs() -> None:
    model = instantiate(block(hyena(1)))
    taps = model.sequence_mixer.mixer.short_conv.taps.clone()
    for _ in range(2):
        initialize_linears(
            model, TruncatedNormal(0.02), output_weight=WangInit(24, 12), generator=torch.Generator().manual_seed(3)
        )
        drawn = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert float(drawn["sequence_mixer.qkv_proj.weight"].std()) < 0.02
    assert abs(float(drawn["sequence_mixer.out_proj.weight"].std()) / (2 / (12 * 24**0.5)) - 1) < 0.1
    assert torch.equal(model.sequence_mixer.mixer.short_conv.taps, taps)
    initialize_linears(
        model, TruncatedNormal(0.02), output_weight=WangInit(24, 12), generator=torch.Generator().manual_seed(3)
    )
    assert all(torch.equal(parameter, drawn[name]) for name, parameter in model.named_parameters())


def test_biases_become_zero_and_a_name_that_nothing_has_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    initialize_linears(model, SmallInit(4))
    assert not any(bool(layer.bias.any()) for layer in model)
    with pytest.raises(ConfigurationError, match="no linear layer is named 'out_proj'"):
        initialize_linears(model, SmallInit(4), output_weight=WangInit(4, 2))
