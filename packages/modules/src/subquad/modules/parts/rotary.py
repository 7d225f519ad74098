"""Rotary position embedding in the half-split (GPT-NeoX) form."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subquad.modules.errors import ConfigurationError
from subquad.modules.parts.full_precision import FullPrecisionModule, full_precision_dtype
from subquad.modules.parts.registered import registered
from subquad.ops import rotary, rotary_into


class RotaryEmbedding(FullPrecisionModule):
    """Rotates queries and keys by an angle proportional to their position.

    Pair ``(j, j + size / 2)`` of a head turns by ``position / scale * inv_freq[j]`` with ``inv_freq[j] = base ** (-2
    * j / size)``. Tables and rotation are float32 whatever the type of the input (float64 for float64). ``inv_freq``
    is a stored buffer: that of a checkpoint wins over ``base``.

    Args:
      head_size: Channels per head; even.
      base: Slowest wavelength, in units of ``2 * pi`` positions.
      scale: Positions are divided by it, to stretch a model to longer sequences.

    Raises:
      ConfigurationError: ``head_size`` is odd, or ``base`` or ``scale`` is not positive or not finite.
    """

    full_precision_names = frozenset({"inv_freq"})
    inv_freq: Tensor = registered("buffer")

    def __init__(
        self,
        head_size: int,
        *,
        base: float = 1e4,
        scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if head_size % 2 or head_size < 2:
            raise ConfigurationError(f"head_size is {head_size}; rotary embedding needs a positive even number")
        if not (0 < base < math.inf and 0 < scale < math.inf):
            raise ConfigurationError(f"rotary base {base} and scale {scale} must be positive")
        self.base = base
        self.scale = scale
        frequencies = torch.empty(head_size // 2, device=device, dtype=full_precision_dtype(dtype))
        self.register_buffer("inv_freq", frequencies)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Recomputes ``inv_freq`` from ``base``, rounded to float32 as checkpoints store it."""
        if not self.inv_freq.is_meta:
            exponents = torch.arange(0, 2 * len(self.inv_freq), 2, dtype=torch.float32) / (2 * len(self.inv_freq))
            self.inv_freq.copy_(1.0 / (float(self.base) ** exponents))

    def forward(
        self,
        x: Float[Tensor, "batch length head size"],
        position: Int[Tensor, "batch length"] | Int[Tensor, "1 length"],
    ) -> Float[Tensor, "batch length head size"]:
        """Rotates every head of ``x`` to the given positions, counted from 0 at the sequence start."""
        return rotary(x, position, self.inv_freq, scale=self.scale)

    def into(
        self,
        qkv: Float[Tensor, "batch length head 3 size"],
        position: Int[Tensor, "batch length"] | Int[Tensor, "1 length"],
        keys: Float[Tensor, "batch length head size"],
        values: Float[Tensor, "batch length head size"],
    ) -> Float[Tensor, "batch length head size"]:
        """Returns the rotated queries and fills ``keys`` and ``values``, parts of a cache; see ``rotary_into``."""
        return rotary_into(qkv, position, self.inv_freq, keys, values, scale=self.scale)
