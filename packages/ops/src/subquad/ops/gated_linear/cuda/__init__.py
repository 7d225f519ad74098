"""gated_linear over the CUDA library."""
