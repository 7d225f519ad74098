"""The definition of gated_product."""

import math

import torch
from torch import Tensor


def gated_product_reference(gate: Tensor, value: Tensor, activation: str | None = None) -> Tensor:
    """``gate * value``, or ``gate * (1 + erf(gate / sqrt(2))) / 2 * value``."""
    if activation == "gelu":
        gate = gate * (1 + torch.erf(gate / math.sqrt(2))) / 2
    return gate * value
