"""The definition of linear_step, row by row in float64."""

import torch
from torch import Tensor

from subquad.ops.linear_step.rounded_weight import RoundedWeight
from subquad.ops.linear_step.step_norm import StepNorm


def linear_step_reference(x: Tensor, weight: Tensor | RoundedWeight, norm: StepNorm | None = None) -> Tensor:
    """Returns ``weight @ norm(x)`` of each row, in float64."""
    matrix = weight.codes.double() / weight.scale.double()[:, None] if isinstance(weight, RoundedWeight) else weight
    rows = []
    for vector in x.double():
        if norm is not None:
            root = (vector @ vector / len(vector)).sqrt()
            length = root + norm.eps if norm.form == "vortex" else (root**2 + norm.eps).sqrt()
            vector = vector / length * norm.scale.double()
        rows.append(matrix.double() @ vector)
    return torch.stack(rows)
