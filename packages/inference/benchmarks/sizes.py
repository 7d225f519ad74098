"""The networks that are measured, and the least time that any implementation needs for them."""

from dataclasses import dataclass

from subquad.modules import STRIPED_HYENA2_PRESETS, StripedHyena2Preset

# The floors assume a bfloat16 matrix product and a copy (bytes read and written) of an H100 at these rates.
FLOPS_PER_SECOND = 790e12
BYTES_PER_SECOND = 3.0e12
_ELEMENT = 2  # bytes

PRESETS: dict[str, StripedHyena2Preset] = {
    "1b": STRIPED_HYENA2_PRESETS["1b_base"],
    "7b": STRIPED_HYENA2_PRESETS["7b"],
    "cpu": StripedHyena2Preset("SDH*SDH*", 512, 8, 1408, 32, context_length=8192),
    "tiny": STRIPED_HYENA2_PRESETS["tiny"],
}


@dataclass(frozen=True)
class Floor:
    """What a call has to do at least.

    Attributes:
      flops: Floating-point operations of matrix products and attention.
      bytes: Bytes that cannot stay on the chip.
    """

    flops: float
    bytes: float

    @property
    def milliseconds(self) -> float:
        """The time at the assumed rates."""
        return (self.flops / FLOPS_PER_SECOND + self.bytes / BYTES_PER_SECOND) * 1e3


def linear_parameters(preset: StripedHyena2Preset) -> int:
    """Counts the weights of the matrix products in the blocks."""
    channels = preset.hidden_size
    return len(preset.pattern) * (4 * channels**2 + 3 * channels * preset.inner_size)


def reading_floor(preset: StripedHyena2Preset, batch: int, length: int) -> Floor:
    """The floor of reading whole sequences: products, causal attention, 8 bytes an element for mixers and for norms."""
    channels, layers, attention = preset.hidden_size, len(preset.pattern), preset.pattern.count("*")
    elements = batch * length * channels
    products = 2 * linear_parameters(preset) * batch * length
    scores = 2 * attention * channels * batch * length**2
    return Floor(products + scores, 4 * _ELEMENT * elements * (2 * layers - attention))


def decoding_floor(preset: StripedHyena2Preset, batch: int, context: int) -> Floor:
    """The floor of one decode step: all weights once, and keys, values and states of every row."""
    channels, pattern = preset.hidden_size, preset.pattern
    weights = _ELEMENT * (linear_parameters(preset) + 512 * channels)
    keys_values = 2 * _ELEMENT * batch * context * channels * pattern.count("*")
    states = batch * channels * (pattern.count("D") * 127 * _ELEMENT + pattern.count("H") * 16 * 8)
    return Floor(0, weights + keys_values + states)
