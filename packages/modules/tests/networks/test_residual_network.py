"""The residual network learns with every mixer, over one to three axes, from grids and to classes."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from packages.modules.tests.mixer_table import CASES, CHANNELS, Case
from packages.modules.tests.networks.small_configurations import (
    GRID_MIXERS,
    MLP_CFG,
    NORM,
    WIDTH,
    assert_falls,
    attention,
    bars,
    block,
    ckconv,
    hyena,
    losses,
)
from subquad.lazy_config import Config, LazyConfig, apply_overrides, instantiate
from subquad.modules import (
    MLP,
    AdaLNZeroBlock,
    ConfigurationError,
    InputMismatch,
    Patchify,
    PositionEmbedding,
    QKVSequenceMixer,
    ResidualBlock,
    ResidualClassifier,
    ResidualNetwork,
    RMSNorm,
    SinusoidalEmbedding,
    Unpatchify,
)


def regressor(mixer: Config[Any], data_dim: int, **options: Any) -> Config[ResidualNetwork]:
    return LazyConfig(ResidualNetwork)(
        in_proj_cfg=LazyConfig(Patchify)(in_channels=1, out_channels=WIDTH, patch_size=2, data_dim=data_dim),
        block_cfg=block(mixer),
        out_proj_cfg=LazyConfig(Unpatchify)(in_channels=WIDTH, out_channels=1, patch_size=2, data_dim=data_dim),
        num_blocks=2,
        norm_cfg=NORM,
        **options,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_loss_falls_with_every_mixer(case: Case) -> None:
    """The cases are those of the contract suite, which fails for an exported mixer that none of them has."""
    torch.manual_seed(0)
    norm = LazyConfig(RMSNorm)(channels=CHANNELS)
    cfg = LazyConfig(ResidualNetwork)(
        in_proj_cfg=LazyConfig(nn.Linear)(in_features=2, out_features=CHANNELS),
        block_cfg=LazyConfig(ResidualBlock)(
            sequence_mixer_cfg=LazyConfig(QKVSequenceMixer)(hidden_dim=CHANNELS, mixer_cfg=case.config),
            norm_cfg=norm,
            mlp_cfg=LazyConfig(MLP)(channels=CHANNELS),
        ),
        out_proj_cfg=LazyConfig(nn.Linear)(in_features=CHANNELS, out_features=1),
        num_blocks=2,
        norm_cfg=norm,
    )
    model = instantiate(cfg)
    x = torch.randn(2, *case.space, 2)
    target = torch.stack([x[..., 0], x[..., 1].roll(1, 1)]).mean(0).unsqueeze(-1)
    assert_falls(losses(model, lambda: functional.mse_loss(model(x), target), rate=1e-2))


@pytest.mark.parametrize("data_dim", [1, 2, 3])
@pytest.mark.parametrize("kind", GRID_MIXERS)
def test_grids_of_any_rank_are_mapped_to_grids(kind: type[nn.Module], data_dim: int) -> None:
    model = instantiate(regressor(GRID_MIXERS[kind](data_dim), data_dim))
    x = torch.randn(2, *(8, 6, 4)[:data_dim], 1)
    y = model(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("mixer", [attention(), ckconv(), hyena()], ids=["attention", "ckconv", "hyena"])
def test_a_classifier_learns_by_the_mean_of_its_stream(mixer: Config[Any]) -> None:
    torch.manual_seed(0)
    cfg = LazyConfig(ResidualClassifier)(
        in_proj_cfg=LazyConfig(Patchify)(in_channels=1, out_channels=WIDTH, patch_size=2, data_dim=2),
        block_cfg=block(mixer),
        num_blocks=2,
        hidden_dim=WIDTH,
        num_classes=2,
        norm_cfg=NORM,
        position_cfg=LazyConfig(SinusoidalEmbedding)(channels=WIDTH, data_dim=2),
    )
    model = instantiate(cfg)
    images, labels = bars(32)
    assert_falls(losses(model, lambda: functional.cross_entropy(model(images), labels)))
    features = model.network.features(images)
    assert torch.allclose(model(images), model.head(features.mean((1, 2))), atol=1e-6)


def test_a_network_of_ids_and_conditions_is_a_matter_of_its_configuration() -> None:
    conditioned = LazyConfig(AdaLNZeroBlock)(
        hidden_dim=WIDTH,
        sequence_mixer_cfg=LazyConfig(QKVSequenceMixer)(hidden_dim=WIDTH, mixer_cfg=hyena(1)),
        norm_cfg=NORM,
        mlp_cfg=MLP_CFG,
    )
    cfg = LazyConfig(ResidualNetwork)(
        in_proj_cfg=LazyConfig(nn.Embedding)(num_embeddings=5, embedding_dim=WIDTH),
        block_cfg=conditioned,
        out_proj_cfg=LazyConfig(nn.Linear)(in_features=WIDTH, out_features=5),
        num_blocks=1,
        position_cfg=LazyConfig(PositionEmbedding)(channels=WIDTH, max_size=20),
        condition_proj_cfg=LazyConfig(nn.Linear)(in_features=3, out_features=WIDTH),
    )
    model = instantiate(apply_overrides(cfg, ["num_blocks=3"])).double()
    assert len(model.stack.blocks) == 3
    for one in model.stack.blocks:
        one.condition_proj.weight.data.normal_()
    ids, condition = torch.randint(0, 5, (2, 20)), torch.randn(2, 3, dtype=torch.float64)
    y = model(ids, condition=condition)
    assert y.shape == (2, 20, 5)
    assert not torch.allclose(y, model(ids, condition=-condition))


def test_what_does_not_fit_is_refused() -> None:
    cfg = regressor(ckconv(1), 1)
    with pytest.raises(ConfigurationError, match="num_blocks is 0"):
        instantiate(apply_overrides(cfg, ["num_blocks=0"]))
    with pytest.raises(ConfigurationError, match="block_cfg makes a ResidualBlock of 24 channels; accepted are 7"):
        ResidualClassifier(cfg.in_proj_cfg, cfg.block_cfg, num_blocks=1, hidden_dim=7, num_classes=2)
    silent = LazyConfig(nn.Identity)()  # says nothing of channels
    small = ResidualClassifier(cfg.in_proj_cfg, silent, num_blocks=1, hidden_dim=7, num_classes=2)
    with pytest.raises(InputMismatch, match="the stream has 24 channels, hidden_dim is 7"):
        small(torch.zeros(1, 4, 1))
    with pytest.raises(ConfigurationError, match="num_classes is 0"):
        ResidualClassifier(cfg.in_proj_cfg, cfg.block_cfg, num_blocks=1, hidden_dim=WIDTH, num_classes=0)
