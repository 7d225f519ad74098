"""The one table of mixers: every exported one, in the forms whose code differs, with inputs that fit."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from subquad.lazy_config import Config, LazyConfig, fields_of
from subquad.modules import (
    Attention,
    CKConv,
    ExponentialModulation,
    GaussianModulation,
    Hyena,
    HyenaLong,
    HyenaMedium,
    HyenaShort,
    Mamba,
    MultiHeadAttention,
    RandomFourierFilter,
    RegisterAttention,
    RMSNorm,
    ShortConvolution,
    SIRENFilter,
    StateSpace,
)

CHANNELS, BATCH, LENGTH = 16, 2, 150
GRIDS = {1: (LENGTH,), 2: (6, 9), 3: (3, 4, 5)}


@dataclasses.dataclass(frozen=True)
class Case:
    """One form of a mixer.

    Attributes:
      name: What is special about it.
      kind: The class.
      options: Arguments beside ``channels``.
      space: Size of the inputs that it is tried on.
      causal: Whether it has a state; then ``space`` is a length that may be any other.
      fused: Whether it has ``forward_projected``.
    """

    name: str
    kind: type[nn.Module]
    options: dict[str, Any]
    space: tuple[int, ...] = (LENGTH,)
    causal: bool = False
    fused: bool = False

    @property
    def config(self) -> Config[nn.Module]:
        """The configuration of the mixer, as a block takes it."""
        return LazyConfig(self.kind)(channels=CHANNELS, **self.options)

    def make(self, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
        """Makes a mixer whose filters matter (a medium filter is almost zero at its initial values)."""
        torch.manual_seed(0)
        mixer = self.kind(**{"channels": CHANNELS, **self.options, **more})
        for name, value in mixer.named_parameters():
            if name == "taps" and not value.is_meta:
                value.data = 0.3 * torch.randn(value.shape)
        return mixer.to(dtype)

    def streams(self, mixer: Any, dtype: torch.dtype = torch.float32, length: int | None = None) -> list[Tensor]:
        """Returns q, k and v of as many channels as the mixer takes."""
        space = self.space if length is None else (length,)
        generator = torch.Generator().manual_seed(1)
        widths = getattr(mixer, "stream_channels", (CHANNELS,) * 3)
        drawn = [torch.randn(BATCH, *space, width, dtype=torch.float64, generator=generator) for width in widths]
        return [x.to(dtype) for x in drawn]


def long(data_dim: int = 1, **options: Any) -> Config[CKConv]:
    """The configuration of a convolution with an implicit filter."""
    given = {
        "trained_size": 100 if data_dim == 1 else GRIDS[data_dim],
        "filter_cfg": LazyConfig(SIRENFilter)(hidden_dim=8),
        "modulation_cfg": LazyConfig(GaussianModulation)(),
    }
    return LazyConfig(CKConv)(channels=CHANNELS, data_dim=data_dim, **{**given, **options})


def _ckconv(data_dim: int = 1, **options: Any) -> dict[str, Any]:
    return {name: value for name, value in fields_of(long(data_dim, **options)).items() if name != "channels"}


FOURIER = LazyConfig(RandomFourierFilter)(hidden_dim=8, embedding_dim=8)
NORM = LazyConfig(RMSNorm)(channels=CHANNELS)
SHORT = LazyConfig(ShortConvolution)(filter_size=4, causal=True, bias=True)
GROUPED = {"groups": 4, "projection_filter_length": 3}
HYENA = {"global_conv_cfg": long(causal=True), "short_conv_cfg": SHORT}
MAMBA_2 = {"version": 2, "head_size": 8, "num_groups": 2, "state_size": 8}

CASES = (
    Case("short", HyenaShort, GROUPED, causal=True, fused=True),
    Case("medium", HyenaMedium, GROUPED, causal=True, fused=True),
    Case("medium_trained", HyenaMedium, {**GROUPED, "filter_parameters": "p_gamma"}, causal=True, fused=True),
    Case("long", HyenaLong, {"projection_filter_length": 3}, causal=True, fused=True),
    Case(
        "long_trained",
        HyenaLong,
        {"projection_filter_length": 3, "filter_parameters": "p_gamma"},
        causal=True,
        fused=True,
    ),
    Case("attention", Attention, {"num_heads": 4}, causal=True),
    Case("heads_causal", MultiHeadAttention, {"num_heads": 4, "causal": True}, causal=True),
    Case(
        "heads_shared_window",
        MultiHeadAttention,
        {"num_heads": 4, "causal": True, "num_key_value_heads": 2, "qk_norm": "rms", "window": 150},
        causal=True,
    ),
    Case(
        "heads_narrow_window",
        MultiHeadAttention,
        {"num_heads": 4, "causal": True, "num_key_value_heads": 1, "window": 70},
        causal=True,
    ),
    Case(
        "heads_unrotated",
        MultiHeadAttention,
        {"num_heads": 4, "causal": True, "num_key_value_heads": 1, "qk_norm": "l2", "rotary_base": None},
        causal=True,
    ),
    Case("heads_2d", MultiHeadAttention, {"num_heads": 4, "data_dim": 2, "qk_norm": "l2"}, GRIDS[2]),
    Case(
        "heads_3d_window",
        MultiHeadAttention,
        {"num_heads": 2, "data_dim": 3, "rotary_base": None, "window": 2},
        GRIDS[3],
    ),
    Case("registers", RegisterAttention, {"num_heads": 4, "grid_size": (6, 9), "num_registers": 4}, (59,)),
    Case(
        "registers_shared",
        RegisterAttention,
        {"num_heads": 4, "grid_size": 20, "num_registers": 3, "class_token": False, "num_key_value_heads": 2},
        (23,),
    ),
    Case("ckconv_causal", CKConv, _ckconv(causal=True), causal=True),
    Case("ckconv_fourier", CKConv, _ckconv(causal=True, filter_cfg=FOURIER, modulation_cfg=None), causal=True),
    Case("ckconv_zero", CKConv, _ckconv()),
    Case("ckconv_2d_circular", CKConv, _ckconv(2, boundary="circular"), GRIDS[2]),
    Case("ckconv_3d_mixed", CKConv, _ckconv(3, boundary=("zero", "circular", "zero")), GRIDS[3]),
    Case("hyena_causal", Hyena, HYENA, causal=True),
    Case("hyena_gates", Hyena, {**HYENA, "gate_cfg": LazyConfig(nn.SiLU)(), "pixel_norm_cfg": NORM}, causal=True),
    Case("hyena_norms", Hyena, {**HYENA, "qk_norm_cfg": NORM}, causal=True),
    Case(
        "hyena_2d",
        Hyena,
        {
            "global_conv_cfg": long(2, modulation_cfg=LazyConfig(ExponentialModulation)()),
            "short_conv_cfg": LazyConfig(ShortConvolution)(data_dim=2),
        },
        GRIDS[2],
    ),
    Case("state_space_causal", StateSpace, {"causal": True}, causal=True),
    Case("state_space", StateSpace, {}),
    Case("state_space_2d", StateSpace, {"data_dim": 2, "state_size": 4}, GRIDS[2]),
    Case("state_space_3d", StateSpace, {"data_dim": 3, "state_size": 4, "chunk_size": 4}, GRIDS[3]),
    Case("mamba", Mamba, {"state_size": 8}, causal=True),
    Case("mamba_2", Mamba, MAMBA_2, causal=True),
    Case("mamba_bidirectional", Mamba, {"bidirectional": True, "expansion": 1}),
    Case("mamba_2d_raster", Mamba, {"data_dim": 2, "state_size": 4}, GRIDS[2]),
    Case("mamba_2_2d_axes", Mamba, {**MAMBA_2, "data_dim": 2, "scan_order": "axes", "bidirectional": True}, GRIDS[2]),
    Case("mamba_3d_axes", Mamba, {"data_dim": 3, "scan_order": "axes", "state_size": 4}, GRIDS[3]),
)
CAUSAL = tuple(case for case in CASES if case.causal)
