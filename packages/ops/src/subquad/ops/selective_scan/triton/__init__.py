"""selective_scan in Triton."""
