"""Which versions are installed, and whether they are those that were tested together."""

from __future__ import annotations

import importlib.metadata
import platform
from contextlib import suppress
from functools import cache

from stilts_ds import __version__

VERSIONED = ("torch", "deepspeed", "transformers", "tokenizers", "datasets", "numpy", "triton", "mpi4py")
# Libraries whose inside is used here (ZeRO's streams and partitions, attention), in the versions tested together.
TESTED = {"torch": "2.13.0", "deepspeed": "0.19.8", "transformers": "5.23.0"}


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that decide a result, as they were when first asked."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    versions_of = {"python": platform.python_version(), "stilts-ds": __version__}
    for name in VERSIONED:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions_of[name] = importlib.metadata.version(name)
    return versions_of


def untested_versions() -> str:
    """A sentence on installed versions that were never tested together, and the remedy; empty where they were."""
    installed = versions()
    # What follows a plus names a build: 2.13.0+cpu and 2.13.0+cu130 are one version.
    others = [
        f"{name} {installed[name]} ({tested})"
        for name, tested in TESTED.items()
        if name in installed and installed[name].partition("+")[0] != tested
    ]
    if not others:
        return ""
    return (
        f"not the tested versions: {', '.join(others)}; `make check` tries them, constraints.txt pins the tested ones"
    )
