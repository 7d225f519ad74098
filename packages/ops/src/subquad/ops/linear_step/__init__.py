"""One decode step of a linear layer, with the norm in front of it and the residual behind."""

from subquad.ops.linear_step.linear_step import linear_step as linear_step
from subquad.ops.linear_step.rounded_weight import RoundedWeight as RoundedWeight
from subquad.ops.linear_step.step_norm import StepNorm as StepNorm
