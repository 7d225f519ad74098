"""causal_conv over the CUDA library."""
