"""The definition of rms_norm, row by row."""

import torch
from torch import Tensor


def rms_norm_reference(x: Tensor, scale: Tensor, eps: float = 1e-6, form: str = "standard") -> Tensor:
    """``scale * x / sqrt(mean(x ** 2) + eps)``, or with ``eps`` added to the root."""
    rows = []
    for row in x.reshape(-1, x.shape[-1]).unbind(0):
        mean_square = (row * row).sum() / row.numel()
        divisor = torch.sqrt(mean_square) + eps if form == "vortex" else torch.sqrt(mean_square + eps)
        rows.append(scale * row / divisor)
    return torch.stack(rows).reshape(x.shape)
