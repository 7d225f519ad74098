"""A linear layer of 8-bit products under stored scales, for checkpoints that were trained with them."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.filters.tap_cache import TapCache
from subquad.modules.parts.full_precision import FullPrecisionModule
from subquad.modules.parts.placement import Placement
from subquad.ops import fp8_linear, round_to_e4m3

_LARGEST = 448.0
_DEVIATIONS = 8.0  # of a normal number, for which the initial scales leave room


class FP8Scales(FullPrecisionModule):
    """What input and weight are multiplied by before they are rounded to E4M3: float32 numbers, stored as buffers.

    Initially they leave room for inputs of deviation 1 and for weights drawn as StripedHyena 2 draws them.
    """

    full_precision_names = frozenset({"input_scale", "weight_scale"})
    input_scale: Tensor
    weight_scale: Tensor

    def __init__(self, channels: int, *, device: torch.device | str | None) -> None:
        super().__init__()
        spread = math.sqrt(2 / (5 * channels))
        for name, deviation in (("input_scale", 1.0), ("weight_scale", spread)):
            scale = _LARGEST / (_DEVIATIONS * deviation)
            self.register_buffer(name, torch.full((), scale, device=device, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FP8Scales":
        super()._apply(fn, recurse)
        for scale in (self.input_scale, self.weight_scale):  # float32 in a float64 network too
            scale.data = scale.data.float()
        return self


class FP8Linear(nn.Linear):
    """``y = e4m3(x * input_scale) @ e4m3(weight * weight_scale).T / (input_scale * weight_scale)``; see ``fp8_linear``.

    The weight is stored as it was trained; in eval mode its rounded form is kept until it changes, one byte a number.

    Args:
      in_features: Channels of the input.
      out_features: Channels of the output; there is no bias.

    Attributes:
      backend: That of ``fp8_linear``; ``"torch"`` keeps float32 sums on every device.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=False, device=device, dtype=dtype)
        self.fp8 = FP8Scales(in_features, device=device)
        self.backend = "auto"
        self._rounded = TapCache()

    def forward(self, input: Float[Tensor, "... channel"]) -> Float[Tensor, "... row"]:
        """Multiplies rows of input, each by itself."""
        weight = self.weight
        if not (self.training or torch.is_grad_enabled()):
            weight = self._rounded.get(self, "weight", lambda: round_to_e4m3(self.weight, self.fp8.weight_scale))
        scales = self.fp8
        return fp8_linear(
            input, weight, input_scale=scales.input_scale, weight_scale=scales.weight_scale, backend=self.backend
        )


def linear_without_bias(in_features: int, out_features: int, *, fp8: bool, place: Placement) -> nn.Linear:
    """Returns an ``FP8Linear``, or a plain linear without bias."""
    if fp8:
        return FP8Linear(in_features, out_features, **place)
    return nn.Linear(in_features, out_features, bias=False, **place)
