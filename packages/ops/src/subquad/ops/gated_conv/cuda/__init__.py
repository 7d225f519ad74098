"""gated_conv over the CUDA library."""
