"""rounded_rows over the CUDA library."""
