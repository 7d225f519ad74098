"""Triton kernels of rotary; the only place, with its like, where triton is imported."""
