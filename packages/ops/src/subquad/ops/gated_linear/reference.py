"""The definition of gated_linear."""

from torch import Tensor

from subquad.ops.gated_product.reference import gated_product_reference


def gated_linear_reference(
    x: Tensor, gate_weight: Tensor, value_weight: Tensor, activation: str | None = None
) -> Tensor:
    """``activation(x @ gate_weight.T) * (x @ value_weight.T)``."""
    gate, value = ((x.unsqueeze(-2) * weight).sum(-1) for weight in (gate_weight, value_weight))
    return gated_product_reference(gate, value, activation)
