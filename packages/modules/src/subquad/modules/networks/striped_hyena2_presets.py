"""The sizes of StripedHyena 2: all published ones of Evo 2, and two for a CPU."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from subquad.lazy_config import Config, LazyConfig
from subquad.modules.errors import ConfigurationError
from subquad.modules.networks.striped_hyena2 import StripedHyena2

_PATTERN_1B = "SDH*SDHSDH*SDHSDH*SDHSDH*"
_PATTERN_7B = "SDH*SDHSDH*SDHSDH*SDHSDH*SDHSDH*"
_PATTERN_20B = "SDH*SDHSDH*SDHSDH*SDHSDH"
_PATTERN_40B = "SDH*SDHSDH*SDHSDH*SDHSDH*SDHSDH*SDH*SDHSDH*SDHSDH*"


@dataclasses.dataclass(frozen=True)
class StripedHyena2Preset:
    """One size of the network, and what is known of the checkpoints published in it.

    Attributes:
      pattern: Layer letters; see ``StripedHyena2`` for this and the next seven.
      hidden_size: Channels.
      num_heads: Attention heads.
      inner_size: MLP branches.
      filter_groups: Filters per short or medium layer.
      rotary_base: Base of the rotary frequencies.
      rotary_scale: Divides positions.
      filter_parameters: Stored form of the filters.
      context_length: Tokens per sequence that the checkpoint was trained on.
      published_name: Name of the checkpoint, or None where there is none.
      needs_fp8: Whether the published weights were trained with FP8 input projections and lose quality without.
    """

    pattern: str
    hidden_size: int
    num_heads: int
    inner_size: int
    filter_groups: int
    rotary_base: float = 1e4
    rotary_scale: float = 1.0
    filter_parameters: str = "poles"
    context_length: int = 8192
    published_name: str | None = None
    needs_fp8: bool = False


_SEVEN = StripedHyena2Preset(_PATTERN_7B, 4096, 32, 11008, 256, published_name="evo2_7b_base")
_FORTY = StripedHyena2Preset(
    _PATTERN_40B, 8192, 64, 21888, 512, rotary_base=1e6, published_name="evo2_40b_base", needs_fp8=True
)

STRIPED_HYENA2_PRESETS: Mapping[str, StripedHyena2Preset] = MappingProxyType(
    {
        "tiny": StripedHyena2Preset("SDH*SDH*", 64, 4, 96, 8, context_length=2048),
        "small": StripedHyena2Preset("SDH*SDH", 112, 4, 304, 16, filter_parameters="p_gamma", context_length=1024),
        "1b_base": StripedHyena2Preset(_PATTERN_1B, 1920, 15, 5120, 128, published_name="evo2_1b_base", needs_fp8=True),
        "7b_base": _SEVEN,
        "7b_262k": dataclasses.replace(_SEVEN, rotary_scale=32.0, context_length=2**18, published_name="evo2_7b_262k"),
        "7b": dataclasses.replace(
            _SEVEN, inner_size=11264, rotary_scale=128.0, context_length=2**20, published_name="evo2_7b"
        ),
        "7b_microviridae": dataclasses.replace(_SEVEN, published_name="evo2_7b_microviridae"),
        "20b": StripedHyena2Preset(
            _PATTERN_20B, 8192, 64, 22528, 512, 1e6, 128.0, "poles", 2**20, published_name="evo2_20b", needs_fp8=True
        ),
        "40b_base": _FORTY,
        "40b": dataclasses.replace(
            _FORTY, inner_size=22528, rotary_scale=128.0, context_length=2**20, published_name="evo2_40b"
        ),
    }
)


def striped_hyena2_preset(name: str) -> Config[StripedHyena2]:
    """Returns the configuration of a size by its name, to be changed and instantiated.

    Args:
      name: One of ``STRIPED_HYENA2_PRESETS``.

    Raises:
      ConfigurationError: There is no such size; the text lists those there are.
    """
    preset = STRIPED_HYENA2_PRESETS.get(name)
    if preset is None:
        raise ConfigurationError(f"preset is {name!r}; accepted are {', '.join(STRIPED_HYENA2_PRESETS)}")
    return LazyConfig(StripedHyena2)(
        pattern=preset.pattern,
        hidden_size=preset.hidden_size,
        num_heads=preset.num_heads,
        inner_size=preset.inner_size,
        filter_groups=preset.filter_groups,
        rotary_base=preset.rotary_base,
        rotary_scale=preset.rotary_scale,
        filter_parameters=preset.filter_parameters,
    )
