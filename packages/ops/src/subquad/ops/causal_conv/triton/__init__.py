"""Triton kernels of causal_conv; the only place, with its like, where triton is imported."""
