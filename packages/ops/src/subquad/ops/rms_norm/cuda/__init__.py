"""rms_norm over the CUDA library."""
