"""Triton kernel of modal_conv; the only place, with its like, where triton is imported."""
