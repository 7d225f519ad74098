"""Triton kernels of rounded_rows; the only place, with its like, where triton is imported."""
