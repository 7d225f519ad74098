"""Triton kernels of gated_linear_step; the only place, with its like, where triton is imported."""
