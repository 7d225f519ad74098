"""gated_modal_step over the kernels of gated_conv_step."""

from subquad.ops.gated_conv_step.triton.launch import run_step as run

__all__ = ["run"]
