"""Inputs and parts of the wrong width are refused by name, by every mixer, block and network, before any work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from packages.modules.tests.mixer_table import BATCH, CASES, CAUSAL, CHANNELS, MAMBA_2, Case, long
from packages.modules.tests.network_table import (
    CLASSIFIER,
    GRIDS_OF,
    HEADS,
    LINEAR,
    MLP_CFG,
    NORM,
    PYRAMID,
    RESIDUAL,
    VIT,
    mixing,
)
from packages.modules.tests.support import TINY
from subquad.lazy_config import LazyConfig, instantiate
from subquad.modules import (
    MLP,
    AdaLNZeroBlock,
    Attention,
    AttentionBlock,
    BlockOptions,
    CKConv,
    ConfigurationError,
    ConvNeXtBlock,
    FilterFiLM,
    GatedMLP,
    GlobalResponseNorm,
    GridMixer,
    HierarchicalViT,
    Hyena,
    HyenaBlock,
    HyenaLong,
    HyenaMedium,
    HyenaShort,
    InputMismatch,
    LayerScale,
    Mamba,
    ModulesError,
    MultiHeadAttention,
    ProjectedAttention,
    QKVConditionMixer,
    QKVSequenceMixer,
    RegisterAttention,
    ResidualBlock,
    ResidualClassifier,
    ResidualNetwork,
    RMSNorm,
    SIRENFilter,
    StateSpace,
    StripedHyena2,
    UNetConvNeXt,
    ViT5,
)

every_mixer = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def without_the_checker_of_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own errors meet what the checker would."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class NoWork(TorchDispatchMode):
    """Fails at the first operation of PyTorch."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} ran before the input was refused")


@contextmanager
def refused(text: str, error: type[ModulesError] = InputMismatch) -> Iterator[None]:
    with pytest.raises(error, match=text), NoWork():
        yield


def changed(streams: list[Tensor], index: int, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
    return [change(x) if position == index else x for position, x in enumerate(streams)]


def wider(x: Tensor) -> Tensor:
    return torch.cat([x, x[..., :1]], dim=-1)


@every_mixer
def test_a_mixer_refuses_streams_of_another_width_or_rank(case: Case) -> None:
    mixer = case.make()
    qkv = case.streams(mixer)
    for index, name in enumerate("qkv"):
        width = qkv[index].shape[-1]
        if width == 0:  # a convolution does not look at q and k
            continue
        bad = changed(qkv, index, wider)
        with refused(f"{name} has {width + 1} channels, .*; accepted are {width} channels"):
            mixer.forward(*bad)
        bad = changed(qkv, index, lambda x: x.unsqueeze(1))
        with refused(f"has {len(case.space) + 1} axes of space|the input has axes"):
            mixer.forward(*bad)


@every_mixer
def test_a_mixer_refuses_streams_that_do_not_go_together(case: Case) -> None:
    mixer = case.make()
    qkv = case.streams(mixer)
    if case.kind is CKConv:  # it looks at v alone
        return
    for index in (1, 2):
        bad = changed(qkv, index, lambda x: x[:, 1:])
        with refused("samples and points differ: q .*; accepted are the same|keys over"):
            mixer.forward(*bad)
    bad = changed(qkv, 0, lambda x: x[:1])
    with refused(r"samples and points differ: q \(1, "):
        mixer.forward(*bad)


@pytest.mark.parametrize("case", CAUSAL, ids=lambda case: case.name)
def test_a_step_or_chunk_that_does_not_fit_leaves_the_state_alone(case: Case) -> None:
    mixer = case.make()
    qkv = case.streams(mixer, length=6)
    state = mixer.init_state(BATCH, max_length=8)
    mixer.forward(*(x[:, :4] for x in qkv), state=state)
    state.advance(4)
    before = {name: value.clone() for name, value in state.tensors().items()}
    wide, token = [x[:, 4:] for x in changed(qkv, 2, wider)], [x[:, 4] for x in qkv]
    with refused("v has"):
        mixer.forward(*wide, state=state)
    more = [torch.cat([x, x[:1]]) for x in token]
    bad = changed(token, 2, wider)
    with refused("v has"):
        mixer.step(*bad, state)
    with refused(f"the input has {BATCH + 1} rows, the state {BATCH}"):
        mixer.step(*more, state)
    many = [x.unsqueeze(1) for x in more]
    with refused(f"the input has {BATCH + 1} rows, the state {BATCH}"):
        mixer.forward(*many, state=state)
    assert all(torch.equal(state.tensors()[name], value) for name, value in before.items())


@every_mixer
def test_every_block_refuses_another_width(case: Case) -> None:
    residual = instantiate(LazyConfig(ResidualBlock)(sequence_mixer_cfg=mixing(case), norm_cfg=NORM, mlp_cfg=MLP_CFG))
    adaptive = instantiate(
        LazyConfig(AdaLNZeroBlock)(
            hidden_dim=CHANNELS, sequence_mixer_cfg=mixing(case), norm_cfg=NORM, mlp_cfg=MLP_CFG, condition_dim=5
        )
    )
    x, condition = torch.randn(BATCH, *case.space, CHANNELS), torch.randn(BATCH, 5)
    wide, flat, narrow, single = wider(x), x[0, ..., 0].flatten(), condition[:, 1:], condition[:1]
    text = f"x has {CHANNELS + 1} channels, .*; accepted are {CHANNELS} channels"
    for block in (residual, residual.sequence_mixer):
        with refused(text):
            block(wide)
        with refused("x has 0 axes of space, .*; accepted are any number"):
            block(flat)
    with refused(text):
        adaptive(wide, condition)
    with refused("the condition has 4 channels, .*; accepted are 5 channels"):
        adaptive(x, narrow)
    with refused(f"the condition has 1 rows, x has {BATCH}"):
        adaptive(x, single)
    if case.causal:
        state, token, row = residual.init_state(BATCH, max_length=2), wide[:, 0], x[:1, 0]
        for block in (residual, residual.sequence_mixer):
            with refused(text):
                block.step(token, state)
        with refused(text):
            adaptive.step(token, condition, state)
        with refused(f"the input has 1 rows, the state {BATCH}"):
            residual.sequence_mixer.step(row, state)


def test_a_condition_mixer_refuses_another_width() -> None:
    heads = LazyConfig(MultiHeadAttention)(channels=CHANNELS, num_heads=2)
    mixer = QKVConditionMixer(CHANNELS, heads, condition_dim=5)
    x, condition = torch.randn(2, 7, CHANNELS), torch.randn(2, 5)
    wide, narrow, single = wider(x), condition[:, 1:], condition[:1]
    with refused("x has 17 channels, .*; accepted are 16"):
        mixer(wide, condition)
    with refused("the condition has 4 channels, .*; accepted are 5"):
        mixer(x, narrow)
    with refused("the condition has 1 rows, x has 2"):
        mixer(x, single)


def test_a_conditioned_filter_refuses_another_width() -> None:
    film = LazyConfig(FilterFiLM)(condition_dim=5)
    mixer = instantiate(long(filter_cfg=LazyConfig(SIRENFilter)(hidden_dim=8, film_cfg=film)))
    x = torch.randn(2, 7, CHANNELS)
    none = x[..., :0]
    with pytest.raises(InputMismatch, match=r"the condition has 4 channels, .*\(2, 4\); accepted are 5"):
        mixer(none, none, x, condition=torch.randn(2, 4))


@pytest.mark.parametrize("name", GRIDS_OF)
def test_networks_and_parts_of_grids_refuse_another_width_or_rank(name: str) -> None:
    kind, options, space = GRIDS_OF[name]
    model: Any = kind(**options)
    x = torch.randn(2, *space, 3)
    model(x)
    wide, flat = wider(x), x[0, ..., 0].flatten()
    with refused("the input has 4 channels, .*; accepted are 3"):
        model(wide)
    with refused("the input has 0 axes of space"):
        model(flat)
    if len(space) == 2:
        row = x[:, 0]
        with refused("the input has 1 axes of space, .*; accepted are 2"):
            model(row)


@pytest.mark.parametrize(("kind", "options"), [(LayerScale, {}), (MLP, {}), (MLP, {"activation": "swiglu"})])
def test_parts_of_any_rank_refuse_another_width(kind: type[nn.Module], options: dict[str, Any]) -> None:
    """One channel too, which would be multiplied by all factors."""
    model, x = kind(3, **options), torch.randn(2, 3)
    for bad, width in ((wider(x), 4), (x[:, :1], 1), (x[0, 0], 0)):
        with refused(f"the input has {width} channels, .*; accepted are 3"):
            model(bad)


def test_a_projected_condition_of_another_width_is_refused() -> None:
    adaptive = LazyConfig(AdaLNZeroBlock)(
        hidden_dim=CHANNELS, sequence_mixer_cfg=mixing(CASES[0]), norm_cfg=NORM, mlp_cfg=MLP_CFG
    )
    projection = LazyConfig(nn.Linear)(in_features=5, out_features=CHANNELS)
    model = ResidualNetwork(**{**RESIDUAL, "block_cfg": adaptive, "condition_proj_cfg": projection})
    x, narrow = torch.randn(2, 9, 3), torch.randn(2, 4)
    with refused("the condition has 4 channels, .*; accepted are 5"):
        model(x, condition=narrow)


def test_tokens_beside_a_grid_of_another_width_are_refused() -> None:
    mixer = GridMixer(CHANNELS, LazyConfig(MultiHeadAttention)(num_heads=2, data_dim=2), grid=(2, 3))
    qkv = [torch.randn(2, 8, CHANNELS) for _ in range(3)]
    for index, name in enumerate("qkv"):
        bad = changed(qkv, index, wider)
        with refused(f"{name} has 17 channels, .*; accepted are 16"):
            mixer(*bad)


def test_the_language_model_refuses_what_are_no_tokens() -> None:
    model = StripedHyena2(**{**TINY, "pattern": "S*"})
    ids, state = torch.zeros(2, 5, dtype=torch.int64), model.init_state(2, max_length=8)
    row, column, real = ids[0], ids[:, 0], torch.zeros(2, 5)
    with refused(r"ids are torch.int64 of shape \(5,\); accepted are integers \[batch, length\]"):
        model(row)
    with refused(r"ids are torch.float32 of shape \(2, 5\)"):
        model(real)
    with refused(r"accepted are integers \[batch\]"):
        model.step(ids, state)
    with refused(r"accepted are integers \[batch, length\]"):
        model.encode_blocks(column, 1)
    with refused(r"accepted are integers \[batch, length\]"):
        model.encode_last(column, state)
    x = torch.randn(2, 5, 65)
    token = x[:, 0]
    for block, layer in zip(model.blocks, state.layers, strict=True):
        with refused("x has 65 channels, .*; accepted are 64"):
            block(x)
        with refused("x has 65 channels, .*; accepted are 64"):
            block.step(token, layer)


@pytest.mark.parametrize("mixer", [HyenaShort, HyenaMedium, HyenaLong])
def test_projected_streams_of_another_width_are_refused(mixer: type[nn.Module]) -> None:
    options = {} if mixer is HyenaLong else {"groups": 4}
    model: Any = mixer(CHANNELS, projection_filter_length=3, **options)
    z = torch.randn(2, 3 * CHANNELS + 1, 9)
    with refused("z has 49 rows, .*; accepted are 48"):
        model.forward_projected(z, model.projection_taps)
    flat = z[0]
    with refused(r"z has 9 rows, its shape is \(49, 9\)"):
        model.forward_projected(flat, model.projection_taps)


WRONG: list[tuple[type[nn.Module], dict[str, Any], str]] = [
    (HyenaShort, {"channels": 10, "groups": 4}, "10 channels cannot share 4 filters evenly"),
    (HyenaMedium, {"channels": 0, "groups": 1}, "0 channels"),
    (HyenaLong, {"channels": -1}, "-1 channels"),
    (Attention, {"channels": 10, "num_heads": 4}, "10 channels cannot be shared by 4 heads"),
    (MultiHeadAttention, {"channels": 10, "num_heads": 4}, "10 channels, 4 heads"),
    (MultiHeadAttention, {"channels": 12, "num_heads": 4, "num_key_value_heads": 3}, "4 heads, 3 key and value heads"),
    (MultiHeadAttention, {"channels": 12, "num_heads": 2, "data_dim": 2}, "head_size 6 .* multiples of 4"),
    (RegisterAttention, {"channels": 10, "num_heads": 4, "grid_size": 3}, "10 channels, 4 heads"),
    (Mamba, {"channels": 0}, "channels is 0"),
    (Mamba, {**MAMBA_2, "channels": 6, "head_size": 8}, "12 scanned channels, head_size 8"),
    (StateSpace, {"channels": 0}, "channels is 0"),
    (CKConv, {"channels": 0, "filter_cfg": LazyConfig(SIRENFilter)(), "trained_size": 8}, "channels is 0"),
    (Hyena, {"channels": 0, "global_conv_cfg": long()}, "channels is 0"),
    (Hyena, {"channels": 8, "global_conv_cfg": long(), "qk_norm_cfg": NORM}, "qk_norm_cfg makes a RMSNorm of 16 .* 8"),
    (
        Hyena,
        {"channels": 8, "global_conv_cfg": long(), "pixel_norm_cfg": LazyConfig(nn.LayerNorm)(normalized_shape=16)},
        "pixel_norm_cfg makes a LayerNorm of 16 channels; accepted are 8",
    ),
    (GridMixer, {"channels": 0, "mixer_cfg": HEADS[2], "grid": (2, 2)}, "channels is 0"),
    (QKVSequenceMixer, {"hidden_dim": 0, "mixer_cfg": HEADS[1]}, "hidden_dim is 0"),
    (
        QKVSequenceMixer,
        {"hidden_dim": 8, "mixer_cfg": CASES[0].config},
        "mixer_cfg makes a HyenaShort of 16 channels; accepted are 8",
    ),
    (
        QKVConditionMixer,
        {"hidden_dim": 8, "mixer_cfg": LazyConfig(MultiHeadAttention)(channels=16, num_heads=2)},
        "mixer_cfg makes a MultiHeadAttention of 16 channels; accepted are 8",
    ),
    (
        QKVConditionMixer,
        {"hidden_dim": 16, "condition_dim": 0, "mixer_cfg": LazyConfig(StateSpace)(channels=16)},
        "condition_dim is 0",
    ),
    (
        ResidualBlock,
        {"sequence_mixer_cfg": mixing(CASES[0]), "norm_cfg": LazyConfig(RMSNorm)(channels=8)},
        "norm_cfg makes a RMSNorm of 8 channels; accepted are 16",
    ),
    (
        ResidualBlock,
        {"sequence_mixer_cfg": mixing(CASES[0]), "norm_cfg": NORM, "mlp_cfg": LazyConfig(MLP)(channels=8)},
        "mlp_cfg makes a MLP of 8 channels; accepted are 16",
    ),
    (
        AdaLNZeroBlock,
        {"hidden_dim": 8, "sequence_mixer_cfg": mixing(CASES[0]), "norm_cfg": NORM, "mlp_cfg": MLP_CFG},
        "norm_cfg makes a RMSNorm of 16 channels; accepted are 8",
    ),
    (
        AdaLNZeroBlock,
        {
            "hidden_dim": CHANNELS,
            "sequence_mixer_cfg": mixing(CASES[0]),
            "norm_cfg": NORM,
            "mlp_cfg": MLP_CFG,
            "condition_dim": 0,
        },
        "condition_dim is 0",
    ),
    (
        ResidualNetwork,
        {**RESIDUAL, "out_proj_cfg": LINEAR},
        "out_proj_cfg makes a Linear of 3 channels; accepted are 16",
    ),
    (
        ResidualNetwork,
        {**RESIDUAL, "norm_cfg": LazyConfig(RMSNorm)(channels=8)},
        "norm_cfg makes a RMSNorm of 8 channels; accepted are 16",
    ),
    (ResidualClassifier, {**CLASSIFIER, "hidden_dim": 8}, "block_cfg makes a ResidualBlock of 16 .* 8"),
    (ViT5, {**VIT, "hidden_dim": 9}, "9 channels, 2 heads"),
    (ViT5, {**VIT, "hidden_dim": 0}, "hidden_dim is 0"),
    (ViT5, {**VIT, "num_classes": 0}, "num_classes is 0"),
    (HierarchicalViT, {**PYRAMID, "widths": (8, 0)}, r"widths\[1\] is 0"),
    (HierarchicalViT, {**PYRAMID, "widths": (8, 12)}, "head_size 6 .* multiples of 4"),
    (UNetConvNeXt, {"in_channels": 0, "out_channels": 1}, "in_channels is 0"),
    (ConvNeXtBlock, {"channels": 0}, "channels is 0"),
    (StripedHyena2, {**TINY, "hidden_size": 0}, "0 channels"),
    (StripedHyena2, {**TINY, "hidden_size": 66}, "66 channels cannot"),
    (StripedHyena2, {**TINY, "filter_groups": 0}, "0 filter groups"),
    (RMSNorm, {"channels": 0}, "channels is 0"),
    (LayerScale, {"channels": 0}, "channels is 0"),
    (GlobalResponseNorm, {"channels": 0}, "channels is 0"),
    (GatedMLP, {"channels": 4, "inner_size": 0, "activation": "gelu"}, "inner_size is 0"),
    (
        MLP,
        {"channels": 4, "inner_size": 8, "norm_cfg": NORM},
        "norm_cfg makes a RMSNorm of 16 channels; accepted are 8",
    ),
    (FilterFiLM, {"condition_dim": 0, "hidden_dim": 4, "num_layers": 1}, "condition_dim is 0"),
]


@pytest.mark.parametrize(("kind", "options", "text"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_a_constructor_refuses_widths_that_do_not_fit(
    kind: type[nn.Module], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        kind(**options)


def test_blocks_of_the_language_model_are_made_of_public_parts() -> None:
    place: Any = {"device": None, "dtype": torch.float64}
    options = BlockOptions(inner_size=48, activation="gelu", eps=1e-6, norm_form="vortex", **place)
    model = StripedHyena2(**{**TINY, "pattern": "S*", "inner_size": 48}, dtype=torch.float64)
    made = (
        HyenaBlock(64, HyenaShort(64, groups=8, projection_filter_length=3, dtype=torch.float64), options),
        AttentionBlock(
            64, ProjectedAttention(64, num_heads=4, dtype=torch.float64), {**options, "activation": "identity"}
        ),
    )
    x = torch.randn(2, 9, 64, dtype=torch.float64)
    for block, twin in zip(made, model.blocks, strict=True):
        block.load_state_dict(twin.state_dict())
        assert torch.equal(block(x), twin(x))


def test_blocks_of_the_language_model_refuse_a_mixer_of_another_width() -> None:
    model = StripedHyena2(**{**TINY, "pattern": "S*"})
    options: Any = {
        "inner_size": 8, "activation": "gelu", "eps": 1e-6, "norm_form": "vortex", "device": None, "dtype": None
    }  # fmt: skip
    for kind, block in ((HyenaBlock, model.blocks[0]), (AttentionBlock, model.blocks[1])):
        with pytest.raises(ConfigurationError, match=r"mixer makes a .* of 64 channels; accepted are 32"):
            kind(32, block.mixer, options)
