"""The definition of rotary, pair by pair."""

import torch
from torch import Tensor


def rotary_reference(x: Tensor, position: Tensor, inv_freq: Tensor, scale: float = 1.0) -> Tensor:
    """Multiplies pair ``(j, j + size / 2)``, as a complex number, by ``exp(i * position / scale * inv_freq[j])``."""
    half = x.shape[-1] // 2
    turns = []
    for j in range(half):
        angle = (position.to(inv_freq.dtype) / scale * inv_freq[j])[..., None]
        number = torch.complex(x[..., j], x[..., j + half])
        turns.append(number * torch.polar(torch.ones_like(angle), angle))
    return torch.cat([torch.stack([t.real for t in turns], -1), torch.stack([t.imag for t in turns], -1)], dim=-1)
