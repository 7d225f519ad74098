"""The sums of Hopper's 8-bit tensor cores, reproduced in plain torch on any device.

Some checkpoints were trained with these sums and predict worse with exact ones. The tensor cores take 32 products at a
time. They line them up with the running sum at the largest exponent among all of them, cut every one off 13 binary
places below it, add, and keep 14 significant bits of the result. The exponent of a product is the sum of its factors'
exponents, those of their encoding.

Source: measured on an H100, whose results these are bit for bit with 32 to 1,920 channels; DeepSeek-AI, "DeepSeek-V3
  technical report", arXiv 2412.19437, section 3.5.2, describes the effect.
"""

import torch
from torch import Tensor

_GROUP = 32
_PLACES = 13
_NOTHING = -512  # exponent of a zero
_BLOCK = 1 << 25  # products held at once


def hopper_product(codes: Tensor, weights: Tensor) -> Tensor:
    """Computes ``codes @ weights.T`` with the sums of Hopper's tensor cores.

    Args:
      codes: ``[row, channel]`` in ``torch.float8_e4m3fn``.
      weights: ``[output, channel]`` in ``torch.float8_e4m3fn``.

    Returns:
      ``[row, output]`` in float32. A hundred times slower than a plain product.
    """
    rows = max(1, _BLOCK // (_GROUP * max(1, len(weights))))
    parts = [_product_of_block(block, weights) for block in codes.split(rows)]
    return torch.cat(parts) if parts else codes.new_empty((0, len(weights)), dtype=torch.float32)


def _product_of_block(codes: Tensor, weights: Tensor) -> Tensor:
    sums = torch.zeros(len(codes), len(weights), dtype=torch.float32, device=codes.device)
    x_values, w_values = (matrix.t().contiguous().float() for matrix in (codes, weights))
    x_exponents, w_exponents = (_encoded_exponent(matrix.t().contiguous()) for matrix in (codes, weights))
    for group in range(0, codes.shape[1], _GROUP):
        here = slice(group, group + _GROUP)
        exponents = x_exponents[here, :, None] + w_exponents[here, None]
        largest = torch.maximum(exponents.amax(dim=0), _exponent(sums)).clamp(min=-100).int()
        places = _power_of_two(_PLACES - largest)
        lined_up = (x_values[here, :, None] * w_values[here, None]).mul_(places).trunc_().sum(dim=0)
        lined_up += (sums * places).trunc_()
        sums = _kept(lined_up * _power_of_two(largest - _PLACES))
    return sums


def _encoded_exponent(codes: Tensor) -> Tensor:
    """Returns the exponents as the bits say them: numbers below the smallest normal one have its exponent, -6."""
    bits = codes.view(torch.uint8).to(torch.int16)
    return torch.where(bits & 127 == 0, _NOTHING, ((bits >> 3) & 15).clamp(min=1) - 7).to(torch.int16)


def _exponent(x: Tensor) -> Tensor:
    """Returns the exponents of float32 numbers, as their bits say them."""
    return torch.where(x == 0, _NOTHING, ((x.view(torch.int32) >> 23) & 255) - 127).to(torch.int16)


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent + 127) << 23).view(torch.float32)


def _kept(x: Tensor) -> Tensor:
    """Cuts normal float32 numbers off after 14 significant bits."""
    return (x.view(torch.int32) & -(1 << 10)).view(torch.float32)
