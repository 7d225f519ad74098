"""gated_modal_conv over the CUDA library."""
