"""Benchmarks of this project, the tuner and the compile check of its kernels: no search, no training imports them."""
