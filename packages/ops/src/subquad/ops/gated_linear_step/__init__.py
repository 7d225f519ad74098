"""One decode step of a gated pair of linear layers."""

from subquad.ops.gated_linear_step.gated_linear_step import gated_linear_step as gated_linear_step
