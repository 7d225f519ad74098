"""Every mixer works in the residual block, by a change of one line of its configuration."""

from typing import Any

import pytest
import torch
from torch import nn

from subquad.lazy_config import Config, LazyConfig, instantiate
from subquad.modules import (
    Attention,
    ConfigurationError,
    GatedMLP,
    HyenaLong,
    HyenaMedium,
    HyenaShort,
    QKVSequenceMixer,
    ResidualBlock,
    RMSNorm,
)
from tools.testing.oracle import assert_close

MIXERS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (HyenaShort, {"groups": 4}),
    (HyenaShort, {"groups": 4, "projection_filter_length": 3}),
    (HyenaMedium, {"groups": 4, "projection_filter_length": 3}),
    (HyenaLong, {}),
    (HyenaLong, {"projection_filter_length": 4, "filter_parameters": "p_gamma"}),
    (Attention, {"num_heads": 2}),
]


def block(kind: type[nn.Module], options: dict[str, Any], mlp: bool = True) -> Config[ResidualBlock]:
    return LazyConfig(ResidualBlock)(
        sequence_mixer_cfg=LazyConfig(QKVSequenceMixer)(
            hidden_dim=16, mixer_cfg=LazyConfig(kind)(channels=16, **options), out_proj_bias=True
        ),
        norm_cfg=LazyConfig(RMSNorm)(channels=16),
        mlp_cfg=LazyConfig(GatedMLP)(channels=16, inner_size=24, activation="gelu") if mlp else None,
    )


@pytest.mark.parametrize(("kind", "options"), MIXERS)
@pytest.mark.parametrize("mlp", [True, False])
def test_chunks_and_steps_equal_forward_with_every_mixer(
    kind: type[nn.Module], options: dict[str, Any], mlp: bool
) -> None:
    torch.manual_seed(0)
    model = instantiate(block(kind, options, mlp)).double()
    x = torch.randn(2, 40, 16, dtype=torch.float64)
    state = model.init_state(2, max_length=40)
    pieces = []
    with torch.inference_mode():
        for part in x.split([1, 20, 1, 1, 17], dim=1):
            one = part.shape[1] == 1
            pieces.append(model.step(part[:, 0], state).unsqueeze(1) if one else model(part, state))
            state.advance(part.shape[1])
        assert_close(torch.cat(pieces, 1), model(x), relative=1e-12)


@pytest.mark.parametrize(("kind", "options"), MIXERS)
def test_gradients_reach_every_parameter(kind: type[nn.Module], options: dict[str, Any]) -> None:
    model = instantiate(block(kind, options))
    model(torch.randn(2, 30, 16)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_both_forms_of_the_mixer_count_their_operations() -> None:
    plain = instantiate(block(HyenaShort, {"groups": 4})).sequence_mixer
    short = instantiate(block(HyenaShort, {"groups": 4, "projection_filter_length": 3})).sequence_mixer
    assert plain.flop_count(10) == 10 * (8 * 16 * 16 + 16 * (2 * 7 + 2))
    assert short.flop_count(10) - plain.flop_count(10) == 10 * 2 * 48 * 3


def test_a_module_that_is_no_mixer_is_refused() -> None:
    with pytest.raises(Exception, match="mixer_cfg makes a Linear, which is no Mixer") as caught:
        QKVSequenceMixer(16, LazyConfig(nn.Linear)(in_features=16, out_features=16))
    assert isinstance(caught.value, ConfigurationError)
