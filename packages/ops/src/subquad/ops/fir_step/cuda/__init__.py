"""The ring of fir_step over the CUDA library."""
