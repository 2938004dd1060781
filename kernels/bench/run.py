"""Benchmarks of the search kernels from a checkout, nothing installed: `python kernels/bench/run.py --help`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # stilts_kernels; stilts_bench lies beside this file

from stilts_bench.kernels import main

if __name__ == "__main__":
    sys.exit(main())
