"""Triton kernels of rms_norm; the only place, with its like, where triton is imported."""
