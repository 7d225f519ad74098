"""CUDA kernels of linear_step."""
