"""Triton kernels of gated_conv_step; the only place, with its like, where triton is imported."""
