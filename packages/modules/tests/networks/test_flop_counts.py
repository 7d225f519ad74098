"""The operations of whole networks, against PyTorch's profiler, a counter of all arithmetic, and sums by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from packages.modules.tests.mixer_table import CASES, CHANNELS, Case
from packages.modules.tests.networks.small_configurations import (
    MLP_CFG,
    NORM,
    WIDTH,
    attention,
    block,
    ckconv,
    hyena,
)
from packages.modules.tests.operation_counter import by_definition, count
from packages.modules.tests.support import TINY
from subquad.lazy_config import Config, LazyConfig, instantiate
from subquad.modules import (
    MLP,
    AdaLNZeroBlock,
    GridMixer,
    HierarchicalViT,
    InputMismatch,
    Mamba,
    MultiHeadAttention,
    Patchify,
    QKVConditionMixer,
    QKVSequenceMixer,
    ResidualBlock,
    ResidualClassifier,
    ResidualNetwork,
    RMSNorm,
    StateSpace,
    StripedHyena2,
    UNetConvNeXt,
    ViT5,
    flop_counts,
    round_linears,
)
from subquad.ops import dispatch

PARTS: dict[str, Any] = {"norm_cfg": LazyConfig(RMSNorm)(), "mlp_cfg": LazyConfig(MLP)(activation="swiglu")}


def residual(block_cfg: Config[Any]) -> Config[Any]:
    return LazyConfig(ResidualNetwork)(
        in_proj_cfg=LazyConfig(Patchify)(in_channels=1, out_channels=WIDTH, patch_size=2, data_dim=2),
        block_cfg=block_cfg,
        out_proj_cfg=LazyConfig(nn.Linear)(in_features=WIDTH, out_features=3),
        num_blocks=3,
        norm_cfg=NORM,
    )


def adaptive(mixer: Config[Any]) -> Config[Any]:
    return LazyConfig(AdaLNZeroBlock)(
        hidden_dim=WIDTH,
        sequence_mixer_cfg=LazyConfig(QKVSequenceMixer)(hidden_dim=WIDTH, mixer_cfg=mixer),
        norm_cfg=NORM,
        mlp_cfg=MLP_CFG,
    )


CROSS = LazyConfig(QKVConditionMixer)(
    hidden_dim=WIDTH, mixer_cfg=LazyConfig(MultiHeadAttention)(channels=WIDTH, num_heads=2, data_dim=2)
)
IMAGE, VECTOR, GRID = (2, 16, 16, 1), (2, WIDTH), (2, 8, 8, WIDTH)
NETWORKS: dict[str, tuple[Config[Any], tuple[tuple[int, ...], ...]]] = {
    "attention": (residual(block(attention(2))), (IMAGE,)),
    "adaptive": (residual(adaptive(attention(2))), (IMAGE, VECTOR)),
    "conditioned": (residual(block(attention(2), condition_mixer_cfg=CROSS)), (IMAGE, GRID)),
    "vit": (
        LazyConfig(ViT5)(
            in_channels=1, num_classes=2, hidden_dim=WIDTH, pattern="AA", mixer_cfg={"A": attention(1)},
            image_size=16, patch_size=2, **PARTS,
        ),
        (IMAGE,),
    ),
    "pyramid": (
        LazyConfig(HierarchicalViT)(
            in_channels=1, num_classes=2, widths=(WIDTH, 2 * WIDTH, 4 * WIDTH), patterns=("A", "AA", "A"),
            mixer_cfg={"A": attention(2)}, patch_size=2, **PARTS,
        ),
        (IMAGE,),
    ),
    "unet": (LazyConfig(UNetConvNeXt)(in_channels=1, out_channels=1, stages=2, init_features=8), (IMAGE,)),
}  # fmt: skip


def inputs(shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    first, *others = (torch.randn(shape) for shape in shapes)
    return (first,), {"condition": others[0]} if others else {}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_agree_with_a_profiler(name: str) -> None:
    cfg, shapes = NETWORKS[name]
    model = instantiate(cfg)
    given, named = inputs(shapes)
    with FlopCounterMode(display=False) as profiler, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(*given, **named)  # some fused attention kernels are unknown to the profiler
    profiled = profiler.get_total_flops()
    assert abs(sum(flop_counts(model, *given, **named).values()) - profiled) <= 0.05 * profiled


SCANS = {
    "state_space": LazyConfig(StateSpace)(channels=WIDTH, data_dim=2, state_size=4),
    "mamba": LazyConfig(Mamba)(channels=WIDTH, data_dim=2, state_size=4),
}
MIXERS_2D: dict[str, Config[Any]] = {"attention": attention(2), "hyena": hyena(2), "ckconv": ckconv(2), **SCANS}


def classifier(mixer: Config[Any]) -> Config[Any]:
    return LazyConfig(ResidualClassifier)(
        in_proj_cfg=LazyConfig(Patchify)(in_channels=1, out_channels=WIDTH, patch_size=2, data_dim=2),
        block_cfg=block(mixer),
        num_blocks=2,
        hidden_dim=WIDTH,
        num_classes=3,
        norm_cfg=NORM,
    )


def hybrid_vit(mixer: Config[Any]) -> Config[Any]:
    grid_mixer = LazyConfig(GridMixer)(mixer_cfg=mixer, grid=(8, 8))
    return LazyConfig(ViT5)(
        in_channels=1, num_classes=2, hidden_dim=WIDTH, pattern="AGA", mixer_cfg={"A": attention(1), "G": grid_mixer},
        image_size=16, patch_size=2, **PARTS,
    )  # fmt: skip


def hybrid_pyramid(mixer: Config[Any]) -> Config[Any]:
    return LazyConfig(HierarchicalViT)(
        in_channels=1, num_classes=2, widths=(WIDTH, 2 * WIDTH), patterns=("M", "MA"),
        mixer_cfg={"A": attention(2), "M": mixer}, patch_size=2, **PARTS,
    )  # fmt: skip


KINDS = {"residual": lambda mixer: residual(block(mixer)), "adaptive": lambda mixer: residual(adaptive(mixer))}
KINDS |= {"classifier": classifier, "vit": hybrid_vit, "pyramid": hybrid_pyramid}


def assert_counts(model: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
    """Holds the counts to a counter of everything that PyTorch computes, norms and sums too, on one sample."""
    counted = count(lambda: model(*given, **named))
    stated = sum(flop_counts(model, *given, **named).values())
    assert abs(stated - counted) <= 0.05 * counted, f"stated {stated}, counted {counted:.0f}"


@pytest.mark.parametrize("mixer", MIXERS_2D)
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind_and_mixer_agree_with_a_counter(
    kind: str, mixer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = instantiate(KINDS[kind](MIXERS_2D[mixer]))
    monkeypatch.setattr(dispatch, "choose", by_definition)
    named = {"condition": torch.randn(1, WIDTH)} if kind == "adaptive" else {}
    assert_counts(model, (torch.randn(1, *IMAGE[1:]),), named)


def test_the_baseline_agrees_with_a_counter() -> None:
    assert_counts(instantiate(NETWORKS["unet"][0]), (torch.randn(1, *IMAGE[1:]),), {})


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("pattern", ["S", "D", "H", "*", "SDH*"])
def test_the_language_model_agrees_with_a_counter(
    pattern: str, fused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few logits, so that an error in a layer of any kind shows."""
    sizes = {**TINY, "pattern": pattern, "vocab_size": 16, "use_subquadratic_ops": fused}
    model = StripedHyena2(**sizes)
    monkeypatch.setattr(dispatch, "choose", by_definition)
    assert_counts(model, (torch.zeros(1, 150, dtype=torch.int64),), {})


def test_parts_are_counted_by_name_and_add_up() -> None:
    model = instantiate(residual(block(hyena(2))))
    counts = flop_counts(model, torch.randn(IMAGE))
    one = model.stack.blocks[0].sequence_mixer.flop_count((8, 8))
    assert counts["stack.blocks.1.sequence_mixer"] == 2 * one
    assert counts["stack.blocks.1.mlp"] == 2 * model.stack.blocks[0].mlp.flop_count(64)
    assert counts["in_proj.linear"] == 2 * 2 * 64 * 4 * WIDTH
    assert len(counts) == 2 + 3 * 2
    assert sum(flop_counts(model, torch.randn(1, 16, 16, 1)).values()) * 2 == sum(counts.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_mixer_counts_in_a_network(case: Case) -> None:
    mixing = LazyConfig(QKVSequenceMixer)(hidden_dim=CHANNELS, mixer_cfg=case.config)
    model = instantiate(
        LazyConfig(ResidualBlock)(
            sequence_mixer_cfg=mixing,
            norm_cfg=LazyConfig(RMSNorm)(channels=CHANNELS),
            mlp_cfg=LazyConfig(MLP)(channels=CHANNELS),
        )
    )
    size = case.space[0] if len(case.space) == 1 else case.space
    expected = model.sequence_mixer.flop_count(size) + model.mlp.flop_count(size)
    assert sum(flop_counts(model, torch.randn(1, *case.space, CHANNELS)).values()) == expected


def test_tokens_behind_a_grid_count_as_rows() -> None:
    mixer = LazyConfig(GridMixer)(channels=WIDTH, mixer_cfg=ckconv(2), grid=(8, 8))
    model = instantiate(block(mixer))
    counts = flop_counts(model, torch.randn(1, 69, WIDTH))
    inner = model.sequence_mixer.mixer.mixer
    projections = 2 * 69 * 2 * WIDTH * WIDTH
    assert counts["sequence_mixer"] == projections + inner.flop_count((9, 8))


def test_the_language_model_counts_its_blocks_and_its_logits() -> None:
    model = StripedHyena2(**{**TINY, "pattern": "S*"})
    counts = flop_counts(model, torch.zeros(2, 50, dtype=torch.int64))
    width, inner = TINY["hidden_size"], TINY["inner_size"]
    assert counts[""] == 2 * 50 * 2 * width * 512
    linear = 2 * 50 * (4 * width * width + 3 * width * inner)
    assert counts["blocks.1"] == 2 * (linear + model.blocks[1].mixer.flop_count(50))
    assert counts["blocks.0"] == 2 * (linear + 2 * 50 * 3 * 3 * width + model.blocks[0].mixer.flop_count(50))
    assert set(counts) == {"", "blocks.0", "blocks.1"}
    round_linears(model)
    assert flop_counts(model, torch.zeros(2, 50, dtype=torch.int64)) == counts


def test_a_mixer_that_the_pass_goes_round_is_an_error_and_not_a_zero() -> None:
    class Round(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = instantiate(ckconv(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.mixer.convolve(x)

    with pytest.raises(InputMismatch, match="the pass did not call mixer, whose operations the count would lack"):
        flop_counts(Round(), torch.randn(1, 9, WIDTH))
