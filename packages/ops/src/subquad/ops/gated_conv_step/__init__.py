"""One decode step of a gated convolution, and of the projection in front of it."""

from subquad.ops.gated_conv_step.gated_conv_step import gated_conv_step as gated_conv_step
from subquad.ops.gated_conv_step.step_projection import StepProjection as StepProjection
