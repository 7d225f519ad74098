"""modal_conv over the CUDA library."""
