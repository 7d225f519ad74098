"""fir_step and its ring over the CUDA library."""
