"""Dropout whose masks are a function of counters: the hash, a plain torch reference, the CPU and the CUDA path."""
