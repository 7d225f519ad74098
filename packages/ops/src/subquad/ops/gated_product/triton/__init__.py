"""Triton kernels of gated_product; the only place, with its like, where triton is imported."""
