"""fft_conv of images over the CUDA library."""
