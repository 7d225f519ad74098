"""The convolutional baseline over one to three axes."""

import pytest
import torch
from torch.nn import functional

from packages.modules.tests.networks.small_configurations import assert_falls, losses
from subquad.lazy_config import LazyConfig, apply_overrides, instantiate
from subquad.modules import ConfigurationError, ConvNeXtBlock, InputMismatch, UNetConvNeXt
from tools.testing.oracle import assert_close


@pytest.mark.parametrize("data_dim", [1, 2, 3])
def test_the_loss_falls(data_dim: int) -> None:
    torch.manual_seed(0)
    cfg = LazyConfig(UNetConvNeXt)(in_channels=1, out_channels=1, init_features=8, stages=2, filter_size=3)
    model = instantiate(apply_overrides(cfg, [f"data_dim={data_dim}", "layer_scale=0.1"]))
    x = torch.randn(4, *(16, 8, 4)[:data_dim], 1)
    target = x.roll(1, 1).cumsum(1) / 4
    history = losses(model, lambda: functional.mse_loss(model(x), target))
    assert_falls(history)
    assert model(x).shape == x.shape


def test_a_block_follows_its_formula() -> None:
    block = ConvNeXtBlock(5, data_dim=2, filter_size=3, layer_scale=0.5, dtype=torch.float64)
    block.convolution.bias.data.normal_()
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    taps = block.convolution.taps.flip(1, 2).unsqueeze(1)
    mixed = functional.conv2d(x.movedim(-1, 1), taps, block.convolution.bias, padding=1, groups=5).movedim(1, -1)
    normed = functional.layer_norm(mixed, (5,), eps=1e-6)
    inner = functional.gelu(normed @ block.mlp.in_proj.weight.T + block.mlp.in_proj.bias)
    expected = x + 0.5 * (inner @ block.mlp.out_proj.weight.T + block.mlp.out_proj.bias)
    assert_close(block(x), expected, relative=1e-13)


def test_periodic_networks_commute_with_shifts_of_whole_patches() -> None:
    torch.manual_seed(0)
    model = UNetConvNeXt(1, 1, data_dim=1, stages=2, init_features=4, boundary="circular", layer_scale=0.5).double()
    x = torch.randn(2, 32, 1, dtype=torch.float64)
    assert_close(model(x.roll(4, 1)), model(x).roll(4, 1), relative=1e-12)


def test_each_stage_reads_the_grid_of_its_own_size_from_the_way_down() -> None:
    model = UNetConvNeXt(1, 1, data_dim=2, stages=3, init_features=4)
    assert [merge.in_features for merge in model.merge] == [8, 16, 32]
    for up in model.up:
        torch.nn.init.zeros_(up.linear.weight)
    x = torch.randn(1, 16, 16, 1)
    changed = x.clone()
    changed[0, 0, 0] += 1
    model.eval()
    assert not torch.allclose(model(x), model(changed))  # by the connections alone: nothing comes up from below


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="stages is 0"):
        UNetConvNeXt(1, 1, stages=0)
    with pytest.raises(InputMismatch, match=r"a grid of \(12, 16\) points; .*16"):
        UNetConvNeXt(1, 1, init_features=2)(torch.zeros(1, 12, 16, 1))
