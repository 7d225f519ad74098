"""The definition of gated_linear_step, row by row in float64."""

from torch import Tensor
from torch.nn import functional

from subquad.ops.linear_step.reference import linear_step_reference
from subquad.ops.linear_step.rounded_weight import RoundedWeight
from subquad.ops.linear_step.step_norm import StepNorm


def gated_linear_step_reference(
    x: Tensor,
    gate_weight: Tensor | RoundedWeight,
    value_weight: Tensor | RoundedWeight,
    norm: StepNorm | None = None,
    activation: str | None = None,
) -> Tensor:
    """Returns ``activation(gate) * value`` in float64."""
    gate, value = (linear_step_reference(x, weight, norm) for weight in (gate_weight, value_weight))
    return (functional.gelu(gate) if activation == "gelu" else gate) * value
