"""The definition of attention_step on whole sequences, of which only the last token's output is kept."""

import torch
from torch import Tensor


def attention_step_reference(sequence: Tensor, inv_freq: Tensor, *, position_scale: float = 1.0) -> Tensor:
    """Returns the output ``[head, size]`` of the last token of ``sequence`` ``[length, head, 3, size]``, unrotated."""
    length, _, _, size = sequence.shape
    x = sequence.double()
    angle = torch.arange(length, device=x.device, dtype=torch.float64)[:, None] / position_scale * inv_freq.double()
    turn = torch.polar(torch.ones_like(angle), angle)[:, None, None]
    pairs = torch.complex(x[:, :, :2, : size // 2], x[:, :, :2, size // 2 :]) * turn
    q, k = torch.cat([pairs.real, pairs.imag], dim=-1).unbind(2)
    weight = torch.softmax(torch.einsum("hd,thd->ht", q[-1], k) / size**0.5, dim=-1)
    return torch.einsum("ht,thd->hd", weight, x[:, :, 2])
