"""One decode step of a gated modal convolution, and of the projection in front of it."""

from subquad.ops.gated_modal_step.gated_modal_step import gated_modal_step as gated_modal_step
