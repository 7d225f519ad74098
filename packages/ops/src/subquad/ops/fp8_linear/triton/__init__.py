"""The Triton kernel of fp8_linear; the only place, with its like, where triton is imported."""
