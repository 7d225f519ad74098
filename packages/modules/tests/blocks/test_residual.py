"""What residual and conditioned blocks compute around a mixer, and what they refuse."""

from typing import Any

import pytest
import torch
from torch import nn

from subquad.lazy_config import Config, LazyConfig, instantiate
from subquad.modules import (
    MLP,
    AdaLNZeroBlock,
    Attention,
    CKConv,
    ConfigurationError,
    FilterFiLM,
    GatedMLP,
    Hyena,
    HyenaLong,
    HyenaMedium,
    HyenaShort,
    InputMismatch,
    MultiHeadAttention,
    QKVConditionMixer,
    QKVSequenceMixer,
    ResidualBlock,
    RMSNorm,
    ShortConvolution,
    SIRENFilter,
    StateUnsupported,
)
from tools.testing.oracle import assert_close

LONG: dict[str, Any] = {"trained_size": 40, "filter_cfg": LazyConfig(SIRENFilter)(hidden_dim=8)}
SHORT = LazyConfig(ShortConvolution)(causal=True)
MIXERS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (HyenaShort, {"groups": 4}),
    (HyenaShort, {"groups": 4, "projection_filter_length": 3}),
    (HyenaMedium, {"groups": 4, "projection_filter_length": 3}),
    (HyenaLong, {}),
    (HyenaLong, {"projection_filter_length": 4, "filter_parameters": "p_gamma"}),
    (Attention, {"num_heads": 2}),
    (MultiHeadAttention, {"num_heads": 4, "num_key_value_heads": 2, "causal": True}),
    (CKConv, {**LONG, "causal": True}),
    (Hyena, {"global_conv_cfg": LazyConfig(CKConv)(causal=True, **LONG), "short_conv_cfg": SHORT}),
]
ANY_RANK: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (MultiHeadAttention, {"num_heads": 2, "rotary_base": None}),
    (CKConv, LONG),
    (Hyena, {"global_conv_cfg": LazyConfig(CKConv)(**LONG)}),
]


def mixing(kind: type[nn.Module], options: dict[str, Any]) -> Config[QKVSequenceMixer]:
    return LazyConfig(QKVSequenceMixer)(
        hidden_dim=16, mixer_cfg=LazyConfig(kind)(channels=16, **options), out_proj_bias=True
    )


def block(kind: type[nn.Module], options: dict[str, Any], mlp: bool = True, **more: Any) -> Config[ResidualBlock]:
    return LazyConfig(ResidualBlock)(
        sequence_mixer_cfg=mixing(kind, options),
        norm_cfg=LazyConfig(RMSNorm)(channels=16),
        mlp_cfg=LazyConfig(GatedMLP)(channels=16, inner_size=24, activation="gelu") if mlp else None,
        **more,
    )


def test_both_forms_of_the_mixer_count_their_operations() -> None:
    plain = instantiate(block(HyenaShort, {"groups": 4})).sequence_mixer
    short = instantiate(block(HyenaShort, {"groups": 4, "projection_filter_length": 3})).sequence_mixer
    assert plain.flop_count(10) == 10 * (8 * 16 * 16 + 16 * (2 * 7 + 2))
    assert short.flop_count(10) - plain.flop_count(10) == 10 * 2 * 48 * 3


def test_a_module_that_is_no_mixer_is_refused() -> None:
    with pytest.raises(Exception, match="mixer_cfg makes a Linear, which is no Mixer") as caught:
        QKVSequenceMixer(16, LazyConfig(nn.Linear)(in_features=16, out_features=16))
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize(("kind", "options"), [*MIXERS, *ANY_RANK])
@pytest.mark.parametrize("condition_shape", [(2, 16), (2, 3, 16)])
def test_a_new_conditioned_block_is_the_identity_and_then_heeds_its_condition(
    kind: type[nn.Module], options: dict[str, Any], condition_shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = AdaLNZeroBlock(
        16, mixing(kind, options), LazyConfig(RMSNorm)(channels=16), LazyConfig(MLP)(channels=16)
    ).double()
    x, condition = torch.randn(2, 40, 16, dtype=torch.float64), torch.randn(condition_shape, dtype=torch.float64)
    assert torch.equal(model(x, condition), x)
    model.condition_proj.weight.data.normal_()
    y = model(x, condition)
    assert not torch.allclose(model(x, condition + 1), y)
    mean = condition if condition.dim() == 2 else condition.mean(1)
    a, b, c, d, e, f = model.condition_proj(torch.nn.functional.silu(mean)).unsqueeze(1).chunk(6, -1)
    u = x + c * model.sequence_mixer(model.sequence_mixer_norm(x) * (1 + b) + a)
    assert_close(y, u + f * model.mlp(model.mlp_norm(u) * (1 + e) + d), relative=1e-13)


def test_a_filter_with_film_gets_the_condition_of_its_block() -> None:
    torch.manual_seed(0)
    film = LazyConfig(SIRENFilter)(hidden_dim=8, film_cfg=LazyConfig(FilterFiLM)(condition_dim=16))
    long = LazyConfig(CKConv)(trained_size=40, filter_cfg=film)
    model = AdaLNZeroBlock(
        16,
        mixing(Hyena, {"global_conv_cfg": long}),
        LazyConfig(RMSNorm)(channels=16),
        LazyConfig(MLP)(channels=16),
    )
    model.condition_proj.bias.data.fill_(1.0)
    model.sequence_mixer.mixer.global_conv.filter.film.out_proj.weight.data.normal_()
    x, condition = torch.randn(2, 40, 16), torch.randn(2, 16)
    assert not torch.allclose(model(x, condition), model(x, condition.flip(0)))
    with pytest.raises(InputMismatch, match="CKConv takes none"):
        instantiate(mixing(CKConv, LONG))(x, condition=condition)


def test_a_vision_block_scales_its_branches_and_drops_them_in_training() -> None:
    torch.manual_seed(0)
    model = instantiate(block(CKConv, LONG, layer_scale=0.25, drop_path=0.5))
    x = torch.randn(64, 7, 16)
    model.eval()
    u = x + 0.25 * model.sequence_mixer(model.sequence_mixer_norm(x))
    assert_close(model(x), u + 0.25 * model.mlp(model.mlp_norm(u)), relative=1e-6)
    model.train()
    kept = (model(x) - x).flatten(1).abs().sum(1) > 0
    assert 0.5 < float(kept.float().mean()) < 1


CROSS: list[tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = [
    (MultiHeadAttention, {"num_heads": 2, "rotary_base": None}, (2, 5, 16)),
    (MultiHeadAttention, {"num_heads": 4, "num_key_value_heads": 1}, (2, 9, 16)),
    (Hyena, {"global_conv_cfg": LazyConfig(CKConv)(**LONG)}, (2, 16)),
    (HyenaLong, {}, (2, 16)),
]


@pytest.mark.parametrize(("kind", "options", "shape"), CROSS)
def test_a_condition_is_mixed_in_and_gets_a_gradient(
    kind: type[nn.Module], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    cross = LazyConfig(QKVConditionMixer)(hidden_dim=16, mixer_cfg=LazyConfig(kind)(channels=16, **options))
    model = instantiate(block(CKConv, LONG, condition_mixer_cfg=cross))
    x, condition = torch.randn(2, 9, 16), torch.randn(shape, requires_grad=True)
    y = model(x, condition=condition)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert condition.grad is not None
    assert float(condition.grad.abs().min()) > 0
    with pytest.raises(InputMismatch, match="condition is missing"):
        model(x)
    with pytest.raises(StateUnsupported, match="it mixes a condition in"):
        model.init_state(1, max_length=3)


def test_conditions_that_nothing_can_use_are_refused() -> None:
    with pytest.raises(InputMismatch, match="has no condition_mixer"):
        instantiate(block(CKConv, LONG))(torch.zeros(1, 4, 16), condition=torch.zeros(1, 16))
    with pytest.raises(ConfigurationError, match="CKConv; accepted is a Mixer that takes queries"):
        QKVConditionMixer(16, LazyConfig(CKConv)(channels=16, **LONG))
    model = QKVConditionMixer(16, LazyConfig(MultiHeadAttention)(channels=16, num_heads=2))
    with pytest.raises(InputMismatch, match="attention over two sizes"):
        model(torch.zeros(1, 4, 16), torch.zeros(1, 5, 16))
    with pytest.raises(InputMismatch, match="the condition has 4 axes"):
        model(torch.zeros(1, 4, 16), torch.zeros(1, 2, 2, 16))


def test_mixers_that_take_fewer_streams_have_smaller_projections() -> None:
    for kind, options, rows in (
        (CKConv, LONG, 16),
        (MultiHeadAttention, {"num_heads": 4, "num_key_value_heads": 1}, 24),
        (HyenaLong, {}, 48),
    ):
        mixer = instantiate(mixing(kind, options))
        assert mixer.qkv_proj.weight.shape == (rows, 16)
        assert mixer.flop_count(10) - mixer.mixer.flop_count(10) == 2 * 10 * 16 * (rows + 16)
