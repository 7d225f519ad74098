"""fft_conv over the CUDA library."""
