"""rotary over the CUDA library."""
