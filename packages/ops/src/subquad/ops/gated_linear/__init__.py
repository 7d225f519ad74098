"""Two linear layers of the same rows, multiplied with each other."""

from subquad.ops.gated_linear.gated_linear import gated_linear as gated_linear
