"""gated_product over the CUDA library."""
