"""Triton kernels of gated_modal_step; the only place, with its like, where triton is imported."""
