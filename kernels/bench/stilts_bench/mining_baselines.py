"""What the mining tool is compared with, written anew from the published descriptions: LASER's mining step and the use
of sentence-transformers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from stilts_ds.errors import UserError


def laser_mine(texts: Sequence[Path], vectors: Sequence[Path], output: Path, k: int) -> dict[str, float]:
    """LASER's bitext mining on a CPU (margin ratio, retrieval max): a flat FAISS index each way, margins one candidate
    at a time in Python, the union sorted and walked through. Returns CPU seconds of its stages."""
    import faiss

    # FAISS starts a thread for each core whatever torch is told.
    faiss.omp_set_num_threads(torch.get_num_threads())
    began = time.process_time()
    source_texts, target_texts = (path.read_text(encoding="utf-8").splitlines() for path in texts)
    x, y = (np.load(path) for path in vectors)
    for side in (x, y):
        faiss.normalize_L2(side)
    to_target, to_source = flat_neighbours(x, y, k), flat_neighbours(y, x, k)
    searched = time.process_time()
    means = to_target[0].mean(axis=1), to_source[0].mean(axis=1)
    forward = margins(x, y, to_target[1], means[0], means[1])
    backward = margins(y, x, to_source[1], means[1], means[0])
    best_target = to_target[1][np.arange(len(x)), forward.argmax(axis=1)]
    best_source = to_source[1][np.arange(len(y)), backward.argmax(axis=1)]
    source = np.concatenate([np.arange(len(x)), best_source])
    target = np.concatenate([best_target, np.arange(len(y))])
    score = np.concatenate([forward.max(axis=1), backward.max(axis=1)])
    used_source: set[int] = set()
    used_target: set[int] = set()
    with output.open("w", encoding="utf-8") as file:
        # Best first; a sentence that is taken is passed over, as in LASER's retrieval "max".
        for position in np.argsort(-score):
            i, j = int(source[position]), int(target[position])
            if i not in used_source and j not in used_target:
                used_source.add(i)
                used_target.add(j)
                file.write(f"{score[position]}\t{source_texts[i]}\t{target_texts[j]}\n")
    return {"search": searched - began, "margins": time.process_time() - searched}


def flat_neighbours(queries: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities and rows [n, k]."""
    import faiss

    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank)
    return index.search(queries, k)


def margins(
    x: np.ndarray, y: np.ndarray, candidates: np.ndarray, own_mean: np.ndarray, other_mean: np.ndarray
) -> np.ndarray:
    """Ratio margins of the candidates [n, k], a pair at a time as LASER computes them."""
    scores = np.zeros(candidates.shape)
    count, k = candidates.shape
    for i in range(count):
        for j in range(k):
            neighbour = candidates[i, j]
            scores[i, j] = x[i].dot(y[neighbour]) / ((own_mean[i] + other_mean[neighbour]) / 2)
    return scores


def encode_with_sentence_transformers(model: str) -> Callable[[Sequence[str]], np.ndarray]:
    """Its `encode`, with mean pooling and its defaults: batches of 32, float32, sorted by length. Raises UserError
    where it is not installed."""
    if find_spec("sentence_transformers") is None:
        raise UserError("case embed needs sentence-transformers: pip install sentence-transformers")
    from sentence_transformers import SentenceTransformer, models

    network = models.Transformer(model, max_seq_length=512)
    pooling = models.Pooling(network.get_embedding_dimension(), pooling_mode="mean")
    encoder = SentenceTransformer(modules=[network, pooling], device="cpu")
    # Its own defaults: what its users get without asking.
    return lambda lines: encoder.encode(list(lines), batch_size=32, show_progress_bar=False)
