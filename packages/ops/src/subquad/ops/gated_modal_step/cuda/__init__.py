"""CUDA kernels of gated_modal_step."""
