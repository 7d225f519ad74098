"""Triton kernels of greedy_step; the only place, with its like, where triton is imported."""
