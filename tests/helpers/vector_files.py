"""Two small files of vectors to mine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

DIM = 8


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def write_sides(folder: Path) -> tuple[Path, Path]:
    """40 source vectors; 30 targets, of which the first 20 are the sources' with noise."""
    source, noise = vectors(40, 1), vectors(30, 2)
    target = noise.copy()
    target[:20] = source[:20] + 0.2 * noise[:20]
    paths = folder / "x.npy", folder / "y.npy"
    for path, rows in zip(paths, (source, target)):
        np.save(path, rows)
    return paths
