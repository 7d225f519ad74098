"""CUDA kernels of attention_step."""
