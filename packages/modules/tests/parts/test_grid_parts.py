"""Parts that work over one, two or three axes, against their formulas in float64."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from subquad.lazy_config import LazyConfig
from subquad.modules import (
    MLP,
    ConfigurationError,
    DropPath,
    GlobalResponseNorm,
    InputMismatch,
    L2Norm,
    LayerScale,
    Patchify,
    PatchMerging,
    PositionEmbedding,
    RMSNorm,
    SinusoidalEmbedding,
    Unpatchify,
    parameter_tags,
)
from tools.testing.oracle import assert_close

SIZES = {1: (12,), 2: (4, 6), 3: (4, 6, 2)}
PATCHES = {1: (3,), 2: (2, 3), 3: (2, 3, 1)}
every_rank = pytest.mark.parametrize("data_dim", [1, 2, 3])
CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def grid(data_dim: int, channels: int) -> torch.Tensor:
    return torch.randn(2, *SIZES[data_dim], channels, dtype=torch.float64)


@every_rank
def test_patchify_is_a_strided_convolution(data_dim: int) -> None:
    model, x = Patchify(3, 5, patch_size=PATCHES[data_dim], data_dim=data_dim).double(), grid(data_dim, 3)
    model.linear.bias.data.normal_()
    weight = model.linear.weight.view(5, *PATCHES[data_dim], 3).movedim(-1, 1)
    y = CONVOLVE[data_dim](x.movedim(-1, 1), weight, model.linear.bias, stride=PATCHES[data_dim])
    assert_close(model(x), y.movedim(1, -1), relative=1e-13)


@every_rank
def test_unpatchify_undoes_patchify(data_dim: int) -> None:
    volume = 3 * torch.Size(PATCHES[data_dim]).numel()
    there = Patchify(3, volume, patch_size=PATCHES[data_dim], data_dim=data_dim, bias=False).double()
    back = Unpatchify(volume, 3, patch_size=PATCHES[data_dim], data_dim=data_dim, bias=False).double()
    x = grid(data_dim, 3)
    back.linear.weight.data = torch.linalg.inv(there.linear.weight.data)
    assert_close(back(there(x)), x, relative=1e-10)


@every_rank
def test_position_embeddings_are_added_axis_by_axis(data_dim: int) -> None:
    model, x = PositionEmbedding(6, max_size=12, data_dim=data_dim).double(), grid(data_dim, 6)
    y = model(x)
    width = 6 // data_dim
    for axis, table in enumerate(model.tables):
        added = (y - x)[..., axis * width : (axis + 1) * width].movedim(axis + 1, -2)
        assert_close(added, table[: SIZES[data_dim][axis]].expand_as(added), relative=1e-13)
    assert not any(tags.weight_decay for tags in parameter_tags(model).values())
    with pytest.raises(InputMismatch, match="up to"):
        model(torch.zeros(1, *[13] * data_dim, 6, dtype=torch.float64))


@every_rank
def test_the_response_norm_starts_as_the_identity_and_follows_its_formula(data_dim: int) -> None:
    model, x = GlobalResponseNorm(5).double(), grid(data_dim, 5)
    assert torch.equal(model(x), x)
    model.scale.data.normal_()
    model.shift.data.normal_()
    energy = x.square().flatten(1, -2).sum(1).sqrt()
    share = (energy / (energy.mean(-1, keepdim=True) + 1e-6)).view(2, *[1] * data_dim, 5)
    assert_close(model(x), x + model.scale * x * share + model.shift, relative=1e-13)


@every_rank
def test_layer_scale_and_unit_length(data_dim: int) -> None:
    x = grid(data_dim, 5)
    assert_close(LayerScale(5, init=0.5).double()(x), 0.5 * x, relative=1e-14)
    assert_close(L2Norm()(x).norm(dim=-1), torch.ones_like(x[..., 0]), relative=1e-14)
    assert torch.equal(L2Norm()(0 * x), 0 * x)


@every_rank
def test_drop_path_drops_whole_samples_and_keeps_the_mean(data_dim: int) -> None:
    torch.manual_seed(0)
    model, x = DropPath(0.25), torch.ones(4000, *[2] * data_dim, 1)
    y = model(x).flatten(1)
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert torch.equal(y.amin(1), y.amax(1))
    assert abs(float(y.mean()) - 1) < 0.05
    assert torch.equal(model.eval()(x), x)


PLAIN = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}
GATES = {"glu": torch.sigmoid, "geglu": functional.gelu, "swiglu": functional.silu}


@pytest.mark.parametrize("activation", [*PLAIN, *GATES])
def test_mlps_follow_their_formula(activation: Any) -> None:
    model = MLP(4, 6, activation=activation, bias=True, norm_cfg=LazyConfig(nn.LayerNorm)(normalized_shape=6)).double()
    x = grid(2, 4)
    inner = x @ model.in_proj.weight.T + model.in_proj.bias
    inner = inner[..., :6] * GATES[activation](inner[..., 6:]) if activation in GATES else PLAIN[activation](inner)
    expected = functional.layer_norm(inner, (6,)) @ model.out_proj.weight.T + model.out_proj.bias
    assert_close(model(x), expected, relative=1e-13)
    assert model.flop_count(3) == 2 * 3 * 4 * 6 * (3 if activation in GATES else 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DropPath(1.0), "drop-path rate is 1.0"),
        (lambda: Patchify(0, 3, patch_size=2), "a patch layer of 0 inputs"),
        (lambda: Unpatchify(3, 3, patch_size=(2, 2)), "patch_size is"),
        (lambda: PositionEmbedding(5, max_size=4, data_dim=2), "5 channels cannot be shared by 2 axes"),
        (lambda: MLP(0), "channels is 0"),
        (lambda: PatchMerging(0, 3), "merging 0 to 3 channels"),
        (lambda: PatchMerging(3, 3, factor=(2, 2)), "factor is"),
        (lambda: SinusoidalEmbedding(6, data_dim=2), "channels is 6, data_dim 2"),
    ],
)
def test_values_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_grids_that_patches_do_not_fill_are_refused() -> None:
    with pytest.raises(InputMismatch, match="does not divide into patches"):
        Patchify(1, 1, patch_size=4)(torch.zeros(1, 6, 1))
    with pytest.raises(InputMismatch, match=r"2 axes of space, .*; accepted are 1"):
        Unpatchify(1, 1, patch_size=4)(torch.zeros(1, 6, 6, 1))
    with pytest.raises(InputMismatch, match=r"2 axes of space, .*; accepted are 1"):
        PatchMerging(1, 1)(torch.zeros(1, 6, 6, 1))
    with pytest.raises(InputMismatch, match="2 axes of space, the embedding 1"):
        SinusoidalEmbedding(2)(torch.zeros(1, 6, 6, 2))


@every_rank
def test_merging_reads_each_patch_once_and_fills_the_last_with_zeros(data_dim: int) -> None:
    x = grid(data_dim, 5)
    model = PatchMerging(5, 7, factor=(5, 4, 2)[:data_dim], data_dim=data_dim).double()
    full = tuple(-(-n // f) * f for n, f in zip(SIZES[data_dim], model.factor, strict=True))
    padded = x.new_zeros(2, *full, 5)
    padded[(slice(None), *(slice(n) for n in SIZES[data_dim]))] = x
    weight = model.linear.weight.view(7, *model.factor, 5).movedim(-1, 1)
    y = CONVOLVE[data_dim](padded.movedim(-1, 1), weight, stride=model.factor)
    assert_close(model(x), y.movedim(1, -1), relative=1e-13)
    normed = PatchMerging(5, 7, data_dim=data_dim, norm_cfg=LazyConfig(RMSNorm)(form="standard")).double()
    assert normed.norm.scale.shape == (5 * 2**data_dim,)
    assert normed(x).shape == (2, *(-(-n // 2) for n in SIZES[data_dim]), 7)


@every_rank
def test_sinusoids_are_added_axis_by_axis_for_grids_of_any_size(data_dim: int) -> None:
    model = SinusoidalEmbedding(12, data_dim=data_dim, base=100.0)
    x = torch.zeros(1, *(9, 7, 5)[:data_dim], 12, dtype=torch.float64)
    y, half = model(x)[0], 6 // data_dim
    for axis in range(data_dim):
        for at in range(x.shape[axis + 1]):
            waves = [math.sin(at * 100 ** (-n / half)) for n in range(half)]
            waves += [math.cos(at * 100 ** (-n / half)) for n in range(half)]
            part = y.select(axis, at)[..., axis * 2 * half : (axis + 1) * 2 * half]
            assert_close(part, torch.tensor(waves, dtype=torch.float64).expand_as(part), relative=1e-14)
    assert_close(model(x[:, :4])[0], y[:4], relative=1e-15)
    assert not list(model.parameters())


@every_rank
@pytest.mark.parametrize("norm", [RMSNorm, GlobalResponseNorm], ids=lambda kind: kind.__name__)
def test_norms_keep_the_shape_and_type_of_any_grid(norm: Any, data_dim: int) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        model, x = norm(5).to(dtype), grid(data_dim, 5).to(dtype)
        assert model(x).shape == x.shape
        assert model(x).dtype == dtype
