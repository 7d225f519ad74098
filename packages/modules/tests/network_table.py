"""Blocks, networks and parts of grids that the tests of their inputs share, and the channels that they take."""

from torch import nn

from packages.modules.tests.mixer_table import CASES, CHANNELS, Case
from subquad.lazy_config import Config, LazyConfig
from subquad.modules import (
    MLP,
    ConvNeXtBlock,
    GlobalResponseNorm,
    HierarchicalViT,
    MultiHeadAttention,
    Patchify,
    PatchMerging,
    PositionEmbedding,
    QKVSequenceMixer,
    ResidualBlock,
    ResidualClassifier,
    ResidualNetwork,
    RMSNorm,
    ShortConvolution,
    UNetConvNeXt,
    Unpatchify,
    ViT5,
)

NORM, MLP_CFG = LazyConfig(RMSNorm)(channels=CHANNELS), LazyConfig(MLP)(channels=CHANNELS)


def mixing(case: Case) -> Config[QKVSequenceMixer]:
    """Returns the mixer of a case between projections."""
    return LazyConfig(QKVSequenceMixer)(hidden_dim=CHANNELS, mixer_cfg=case.config)


HEADS = {1: LazyConfig(MultiHeadAttention)(num_heads=2), 2: LazyConfig(MultiHeadAttention)(num_heads=2, data_dim=2)}
FREE = {"norm_cfg": LazyConfig(RMSNorm)(), "mlp_cfg": LazyConfig(MLP)()}
VIT = {
    "in_channels": 3, "num_classes": 2, "hidden_dim": 8, "pattern": "A", "mixer_cfg": {"A": HEADS[1]}, "image_size": 8,
    "patch_size": 2, **FREE,
}  # fmt: skip
PYRAMID = {
    "in_channels": 3, "num_classes": 2, "widths": (8, 16), "patterns": ("A", "A"), "mixer_cfg": {"A": HEADS[2]},
    "patch_size": 2, **FREE,
}  # fmt: skip
BLOCK = LazyConfig(ResidualBlock)(sequence_mixer_cfg=mixing(CASES[0]), norm_cfg=NORM)
LINEAR = LazyConfig(nn.Linear)(in_features=3, out_features=CHANNELS)
RESIDUAL = {
    "in_proj_cfg": LINEAR, "block_cfg": BLOCK, "num_blocks": 1, "norm_cfg": NORM,
    "out_proj_cfg": LazyConfig(nn.Linear)(in_features=CHANNELS, out_features=2),
}  # fmt: skip
CLASSIFIER = {
    "in_proj_cfg": LINEAR, "block_cfg": BLOCK, "num_blocks": 1, "norm_cfg": NORM, "num_classes": 2,
    "hidden_dim": CHANNELS,
}  # fmt: skip
GRIDS_OF = {
    "vit": (ViT5, VIT, (8, 8)),
    "pyramid": (HierarchicalViT, PYRAMID, (8, 8)),
    "unet": (UNetConvNeXt, {"in_channels": 3, "out_channels": 1, "stages": 1, "init_features": 4}, (8, 8)),
    "residual": (ResidualNetwork, RESIDUAL, (9,)),
    "patches": (
        ResidualNetwork,
        {**RESIDUAL, "in_proj_cfg": LazyConfig(Patchify)(in_channels=3, out_channels=CHANNELS, patch_size=2)},
        (8,),
    ),
    "classifier": (ResidualClassifier, CLASSIFIER, (9,)),
    "convnext": (ConvNeXtBlock, {"channels": 3}, (8, 8)),
    "short": (ShortConvolution, {"channels": 3, "data_dim": 2}, (8, 8)),
    "patchify": (Patchify, {"in_channels": 3, "out_channels": 5, "patch_size": 2, "data_dim": 2}, (8, 8)),
    "unpatchify": (Unpatchify, {"in_channels": 3, "out_channels": 5, "patch_size": 2, "data_dim": 2}, (8, 8)),
    "merging": (PatchMerging, {"in_channels": 3, "out_channels": 5, "data_dim": 2}, (8, 8)),
    "positions": (PositionEmbedding, {"channels": 3, "max_size": 9}, (8,)),
    "response norm": (GlobalResponseNorm, {"channels": 3}, (8,)),
}
