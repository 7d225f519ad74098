"""Triton kernels of gated_conv; the only place, with its like, where triton is imported."""
