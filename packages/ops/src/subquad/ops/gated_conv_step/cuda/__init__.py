"""CUDA kernels of gated_conv_step."""
