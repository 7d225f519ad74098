"""Triton kernels of attention_step; the only place, with its like, where triton is imported."""
