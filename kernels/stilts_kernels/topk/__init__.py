"""Exact top-k: a plain torch reference, the CPU and the CUDA path, and the bounds that prove them."""
