"""One decode step's choice of the most likely token."""

from subquad.ops.greedy_step.greedy_step import greedy_step as greedy_step
