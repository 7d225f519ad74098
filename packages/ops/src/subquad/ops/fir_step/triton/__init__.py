"""Triton kernels of fir_step; the only place, with its like, where triton is imported."""
