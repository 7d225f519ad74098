"""CUDA kernels of gated_linear_step."""
