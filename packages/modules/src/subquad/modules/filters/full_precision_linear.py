"""The linear layer of filter networks, whose weights stay in full precision."""

import torch
from torch import nn

from subquad.modules.parts.full_precision import FullPrecisionModule, full_precision_dtype


class FullPrecisionLinear(FullPrecisionModule, nn.Linear):
    """``nn.Linear`` that is float32 also in a 16-bit model: rounded positions and frequencies would merge taps."""

    full_precision_names = frozenset({"weight", "bias"})

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=full_precision_dtype(dtype))
        self.learning_rate_scales: dict[str, float] = {}  # see ``parameter_tags``
