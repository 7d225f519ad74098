"""Triton kernels of linear_step, and the pieces that other decode kernels share."""
