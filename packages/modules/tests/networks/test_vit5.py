"""The vision transformer: hybrids by a string, class token and registers, every read-out; and the pyramid."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from packages.modules.tests.networks.small_configurations import (
    SEQUENCE_MIXERS,
    WIDTH,
    assert_falls,
    attention,
    bars,
    ckconv,
    hyena,
    losses,
)
from subquad.lazy_config import Config, LazyConfig, apply_overrides, derive, instantiate
from subquad.modules import (
    MLP,
    CKConv,
    ConfigurationError,
    GridMixer,
    HierarchicalViT,
    HyenaLong,
    InputMismatch,
    Mamba,
    PositionEmbedding,
    RegisterAttention,
    RMSNorm,
    StateSpace,
    StateUnsupported,
    ViT5,
    parameter_tags,
)
from tools.testing.oracle import assert_close

MIXERS: dict[str, Config[Any]] = {
    "A": attention(1),
    "H": LazyConfig(GridMixer)(mixer_cfg=hyena(2), grid=(8, 8)),
    "C": LazyConfig(GridMixer)(mixer_cfg=ckconv(2), grid=(8, 8)),
    "L": SEQUENCE_MIXERS[HyenaLong],
    "R": LazyConfig(RegisterAttention)(num_heads=2, grid_size=(8, 8)),
    "M": LazyConfig(Mamba)(bidirectional=True),
    "S": LazyConfig(GridMixer)(mixer_cfg=LazyConfig(StateSpace)(data_dim=2), grid=(8, 8)),
}
PARTS: dict[str, Any] = {"norm_cfg": LazyConfig(RMSNorm)(), "mlp_cfg": LazyConfig(MLP)(activation="swiglu")}


def vit(**options: Any) -> Config[ViT5]:
    given = {"hidden_dim": WIDTH, "pattern": "HA", "image_size": 16, "patch_size": 2, "layer_scale": 0.5, **options}
    return LazyConfig(ViT5)(in_channels=1, num_classes=2, mixer_cfg=MIXERS, **PARTS, **given)


@pytest.mark.parametrize("pattern", ["AA", "HH", "HR", "MR", "CSLA"])
def test_the_loss_falls_with_every_pattern(pattern: str) -> None:
    torch.manual_seed(0)
    model = instantiate(vit(pattern=pattern, position_cfg=LazyConfig(PositionEmbedding)(max_size=8)))
    images, labels = bars(32)
    assert_falls(losses(model, lambda: functional.cross_entropy(model(images), labels)))


@pytest.mark.parametrize("readout", ["class", "mean", "registers"])
@pytest.mark.parametrize("num_registers", [0, 3, 7])
def test_every_readout_reads_what_it_says(readout: str, num_registers: int) -> None:
    model = instantiate(vit(readout=readout, num_registers=num_registers)).double()
    images = bars(3)[0].double()
    tokens = model.encode(images)
    assert tokens.shape == (3, 64 + 1 + num_registers, WIDTH)
    read = {"class": tokens[:, 64], "mean": tokens[:, :64].mean(1), "registers": tokens[:, 64:].flatten(1)}[readout]
    assert_close(model(images), model.head(read), relative=1e-14)


@pytest.mark.parametrize("data_dim", [1, 2, 3])
def test_tokens_lie_over_one_to_three_axes(data_dim: int) -> None:
    grid = (4, 3, 2)[:data_dim]
    mixers = {"A": attention(1), "H": LazyConfig(GridMixer)(mixer_cfg=hyena(data_dim), grid=grid)}
    size = tuple(2 * n for n in grid)
    cfg = vit(data_dim=data_dim, image_size=size)
    model = instantiate(derive(cfg, {"mixer_cfg": mixers}))
    y = model(torch.randn(2, *size, 1))
    y.square().sum().backward()
    assert y.shape == (2, 2)
    assert all(p.grad is not None for p in model.parameters())


def test_a_new_width_is_one_field() -> None:
    model = instantiate(apply_overrides(vit(pattern="HAC"), ["hidden_dim=48"]))
    assert model(bars(2)[0]).shape == (2, 2)
    assert model.stack.blocks[0].sequence_mixer.mixer.channels == 48


def test_depth_of_drop_path_and_tags() -> None:
    model = instantiate(vit(pattern="AAAAA", drop_path=0.2))
    assert [round(block.drop_path.rate, 3) for block in model.stack.blocks] == [0, 0.05, 0.1, 0.15, 0.2]
    assert not parameter_tags(model)["extra_tokens"].weight_decay


def test_others_lie_in_rows_behind_the_grid() -> None:
    """A convolution over the grid with its further row equals one by hand."""
    torch.manual_seed(0)
    mixer = GridMixer(WIDTH, ckconv(2), grid=(4, 5), dtype=torch.float64)
    v = torch.randn(2, 23, WIDTH, dtype=torch.float64)
    rows = torch.cat([v, v.new_zeros(2, 2, WIDTH)], 1).view(2, 5, 5, WIDTH)
    assert isinstance(mixer.mixer, CKConv)
    assert_close(mixer(v[..., :0], v[..., :0], v), mixer.mixer.convolve(rows).flatten(1, 2)[:, :23], relative=1e-14)
    assert mixer.flop_count(23) == mixer.mixer.flop_count((5, 5))
    with pytest.raises(InputMismatch, match="19 tokens do not hold a grid of"):
        mixer(v[:, :19, :0], v[:, :19, :0], v[:, :19])
    with pytest.raises(StateUnsupported):
        mixer.init_state(1, max_length=4)


@pytest.mark.parametrize("data_dim", [1, 2, 3])
def test_the_pyramid_halves_its_grid_and_learns(data_dim: int) -> None:
    torch.manual_seed(0)
    cfg = LazyConfig(HierarchicalViT)(
        in_channels=1,
        num_classes=2,
        widths=(WIDTH, 2 * WIDTH),
        patterns=("H", "HA"),
        mixer_cfg={"H": hyena(data_dim), "A": attention(data_dim)},
        patch_size=2,
        data_dim=data_dim,
        layer_scale=0.5,
        **PARTS,
    )
    model = instantiate(cfg)
    images, labels = bars(32)
    if data_dim == 1:
        images = images[:, :, 0]
        labels = (images.diff(dim=1).abs().mean((1, 2)) > 0.6).long()
    elif data_dim == 3:
        images = images[:, ::2, ::2, None].expand(-1, -1, -1, 2, -1)
    shapes = [tuple(stage.shape[1:-1]) for stage in model.stage_outputs(images)]
    fine = tuple(size // 2 for size in images.shape[1:-1])
    assert shapes == [fine, tuple((size + 1) // 2 for size in fine)]
    assert_falls(losses(model, lambda: functional.cross_entropy(model(images), labels)), share=0.85)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "HX"}, "pattern is 'HX'; it takes one or more of the letters of mixer_cfg: A, H, C, L, R, M, S"),
        ({"pattern": ""}, "pattern is ''"),
        ({"patch_size": 3}, "image_size is \\(16, 16\\), patch_size \\(3, 3\\)"),
        ({"class_token": False}, "readout is 'class' with class_token False"),
        ({"num_registers": -1}, "num_registers is -1"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        instantiate(vit(**options))
    assert isinstance(caught.value, ConfigurationError)


def test_inputs_of_another_size_are_refused() -> None:
    with pytest.raises(InputMismatch, match="the input has"):
        instantiate(vit())(torch.zeros(1, 18, 16, 1))
    with pytest.raises(ConfigurationError, match="1 widths and 2 patterns"):
        HierarchicalViT(1, 2, widths=[4], patterns=["A", "A"], mixer_cfg=MIXERS, **PARTS)
    with pytest.raises(ConfigurationError, match="grid is"):
        GridMixer(4, ckconv(2), grid=(0, 3))
