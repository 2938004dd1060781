"""Benchmark of the mining tool: against LASER's mining step, against sentence-transformers, over ranks, and what the
approximate index finds.

    stilts bench mining --model MODEL --texts TEXTS.txt [--case laser] [--out FILE.jsonl]

| case | what is compared |
|---|---|
| `laser` | `mine` from two text files and their vectors to pairs, with LASER's step on the same files |
| `embed` | `embed` with sentence-transformers' `encode`, lines of TEXTS of mixed lengths |
| `ranks` | the slowest of two and four ranks that mine as many times the sources of one rank |
| `approximate` | neighbours by FAISS IVF with those of the exact search |

Own CPU seconds, methods in turn in one run. Each case first checks that both sides found the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stilts_kernels.common.collectives import Collectives
from stilts_kernels.common.rows import Rows, normalize
from stilts_kernels.mining.margin import Neighbours
from stilts_kernels.mining.match import pairs_from
from stilts_kernels.mining.two_way import two_way
from stilts_kernels.topk.cpu import topk_float64

from stilts_bench.mining_baselines import encode_with_sentence_transformers, laser_mine
from stilts_bench.mining_ranks import rank_seconds
from stilts_bench.results import machine
from stilts_ds.errors import UserError, counted
from stilts_ds.mining import Encoder, MiningSettings, Texts, embed, mine
from stilts_ds.mining.candidates import CandidateSearch, IndexSettings, SideRows, build_index, neighbours_by_index
from stilts_ds.run_dir import provenance

Result = dict[str, Any]
K = 4
LASER_WIDTH, LASER_ROWS = 1024, 100_000
WHOLE_ROWS, PART_ROWS = 100_000, 20_000  # sides up to which the exact search is run whole; else so many queries of it


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Own CPU seconds of one call, and what it returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def bitext(count: int, width: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of two sides like those of a multilingual encoder: two levels of topics, a spectrum that falls, a
    common mean with an outlier (cosines of neighbours about 0.96). Target row `order[i]` translates source row i; the
    order is that of `translation`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int) -> torch.Tensor:
        return torch.randn(rows, width, generator=generator)

    spectrum = torch.arange(1, width + 1).float() ** -0.35
    subjects, topics = normal(max(1, count // 2000)), normal(max(1, count // 50))
    topic = torch.randint(0, len(topics), (count,), generator=generator)
    source = normal(count).add_(topics[topic], alpha=0.8).add_(subjects[topic % len(subjects)], alpha=0.8)
    target = (normal(count).mul_(0.7) + source).mul_(spectrum)
    source.mul_(spectrum)
    mean = torch.ones(width)
    mean[3] = 8.0
    order = torch.from_numpy(translation(count, seed))
    moved = torch.empty_like(target)
    moved[order] = target
    return normalize(source.add_(mean)).numpy(), normalize(moved.add_(mean)).numpy()


def translation(count: int, seed: int = 1) -> np.ndarray:
    """The target row of each source row."""
    return np.random.default_rng(seed).permutation(count)


# --- the approximate index -------------------------------------------------------------------------------------------


def approximate_case(count: int, width: int, nprobes: Sequence[int], folder: Path) -> list[Result]:
    """Both directions by the index, for each number of lists read, beside the exact search of the same rows."""
    source, target = bitext(count, width)
    left, right = Rows(torch.from_numpy(source), "source", True), Rows(torch.from_numpy(target), "target", True)
    whole = count <= WHOLE_ROWS
    queries = count if whole else PART_ROWS
    chosen = torch.linspace(0, count - 1, queries).long()
    if whole:
        exact_seconds, exact = seconds_of(lambda: two_way(left, right, K, K))
    else:
        # A part of the source against all targets, both ways as the whole would be; its time grows with the sources.
        sample = left.select(chosen)
        exact_seconds, (forward, _) = seconds_of(lambda: two_way(sample, right, K, K))
        exact_seconds *= count / queries
        backward = topk_float64(right.select(chosen), left, K)
        exact = (forward, Neighbours(*backward))
    rows = []
    for nprobe in nprobes:
        neighbours, seconds = by_index(source, target, nprobe, folder)
        approximate_seconds = sum(seconds.values())
        ahead, back = neighbours[0].indices, neighbours[1].indices
        translations = torch.from_numpy(translation(count))[:, None]
        rows.append(
            {
                "case": f"approximate-{count}",
                "rows": count,
                "dim": width,
                "k": K,
                "nprobe": nprobe,
                "data": "two levels of topics, falling spectrum, common mean",
                "exact_queries": queries,
                "exact_seconds": exact_seconds,
                "approximate_seconds": approximate_seconds,
                "stages": seconds,
                "ratio": exact_seconds / approximate_seconds,
                "recall_forward": recall(ahead[chosen], exact[0].indices),
                "recall_backward": recall(back[chosen], exact[1].indices),
                "translations_found": recall(ahead, translations),
                "pair_recall": pair_recall(neighbours, exact) if whole else None,
            }
        )  # fmt: skip
    return rows


def by_index(source: np.ndarray, target: np.ndarray, nprobe: int, folder: Path) -> tuple[Any, dict[str, float]]:
    """Neighbours both ways, and the seconds of making both indices and of the rest."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        sides = [
            SideRows(name, torch.from_numpy(rows), np.arange(len(rows)))
            for name, rows in (("source", source), ("target", target))
        ]
        search = CandidateSearch(
            Collectives(), K, IndexSettings(nprobe=nprobe), Path(work), "", lambda done, total: None
        )
        made = sum(seconds_of(partial(build_index, search, side))[0] for side in sides)
        total, neighbours = seconds_of(
            lambda: neighbours_by_index(search, sides[0], sides[1])
        )  # finds both indices made
    return neighbours, {"index": made, "search": total}


def recall(indices: torch.Tensor, exact: torch.Tensor) -> float:
    """The share of exact neighbours [n, k] that were found."""
    return float((exact[:, :, None] == indices[:, None, :]).any(2).double().mean())


def pair_recall(neighbours: tuple[Neighbours, Neighbours], exact: tuple[Neighbours, Neighbours]) -> float:
    """The share of the exact search's pairs (ratio margin, max) that the index's neighbours give, too."""
    by_index, by_search = (
        set(zip(pairs.source.tolist(), pairs.target.tolist()))
        for pairs in (pairs_from(*neighbours, "ratio", "max"), pairs_from(*exact, "ratio", "max"))
    )
    return len(by_index & by_search) / len(by_search)


# --- the goals -------------------------------------------------------------------------------------------------------


def laser_case(rows: int, width: int, folder: Path) -> Result:
    """Two text files and their vectors to a file of pairs, both ways of doing it."""
    vectors = bitext(rows, width)
    texts, files = [], []
    for name, side in zip(("source", "target"), vectors):
        texts.append(folder / f"{name}.txt")
        texts[-1].write_text("".join(f"{name} sentence {row}\n" for row in range(rows)))
        files.append(folder / f"{name}.npy")
        np.save(files[-1], side)
    ours, laser = folder / "ours.tsv", folder / "laser.tsv"
    sides = [Texts(text, vectors=file) for text, file in zip(texts, files)]
    our_seconds, _ = seconds_of(lambda: mine(sides[0], sides[1], ours, settings=MiningSettings(threshold=0.0)))
    their_seconds, stages = seconds_of(lambda: laser_mine(texts, files, laser, K))
    a, b = (
        {tuple(line.rsplit("\t", 2)[1:]) for line in path.read_text().splitlines()} for path in (ours, laser)
    )  # fmt: skip
    same = len(a & b) / len(a | b)
    if same < 0.999:  # float32 sums of FAISS turn a few equal margins round
        raise UserError(f"only {same:.2%} of the pairs are the same: no time is reported for another result")
    return {
        "case": "laser", "rows": rows, "dim": width, "k": K, "ours_seconds": our_seconds,
        "theirs_seconds": their_seconds, "their_stages": stages, "ratio": their_seconds / our_seconds, "goal": 3,
        "same_pairs": same,
    }  # fmt: skip


def embed_case(model: str, lines: Sequence[str], rounds: int, folder: Path) -> Result:
    """Vectors of the same lines, in turn; both batches hold 32 sentences."""
    texts = folder / "mixed.txt"
    texts.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    encode = encode_with_sentence_transformers(model)
    ours: list[float] = []
    baseline: list[float] = []
    encoder = Encoder(model)
    paths = [folder / f"vectors-{number}.npy" for number in range(rounds + 1)]
    for path in paths:
        seconds, _ = seconds_of(partial(embed, encoder, texts, path))
        ours.append(seconds)
        seconds, vectors = seconds_of(lambda: encode(lines))
        baseline.append(seconds)
        worst = float(np.abs(np.load(path) - vectors).max())
        if worst > 1e-3:
            raise UserError(f"vectors differ by {worst:.1e}: no time is reported for another result")
    median_ours, median_theirs = np.median(ours[1:]), np.median(baseline[1:])  # the first round loads the model
    characters = sorted(map(len, lines))
    return {
        "case": "embed", "sentences": len(lines), "characters": characters[:: max(1, len(lines) // 4)],
        "rounds": rounds, "ours_seconds": float(median_ours), "theirs_seconds": float(median_theirs),
        "ratio": float(median_theirs / median_ours), "goal": 2, "largest_difference": worst,
    }  # fmt: skip


def ranks_case(rows: int, width: int, folder: Path) -> Result:
    """One rank on `rows` x `rows`, then two and four on as many times the sources. Each has the same pairs to score."""
    source, target = bitext(rows, width)
    np.save(folder / "target.npy", target)
    sources = [source, *(bitext(rows, width, seed)[0] for seed in (2, 3, 4))]
    seconds: dict[int, list[float]] = {}
    for count in (1, 2, 4):
        np.save(folder / f"source-{count}.npy", np.concatenate(sources[:count]))
        seconds[count] = rank_seconds(folder, f"source-{count}.npy", count)
    [alone] = seconds[1]
    return {
        "case": "ranks", "rows": rows, "dim": width, "one_rank_seconds": alone, "two_ranks_seconds": seconds[2],
        "four_ranks_seconds": seconds[4], "ratio_of_two": max(seconds[2]) / alone, "ratio": max(seconds[4]) / alone,
        "goal": 1.15,
    }  # fmt: skip


def mixed_lines(path: Path, count: int) -> list[str]:
    """Evenly spaced lines of a file that hold more than white space."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) < count:
        raise UserError(f"{path} has {counted(len(lines), 'line')} with text; the benchmark wants {count:,}")
    return [lines[len(lines) * number // count] for number in range(count)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="stilts bench mining", description=__doc__.split("\n")[0])
    cases = ["laser", "embed", "ranks", "approximate"]
    parser.add_argument("--case", action="append", choices=cases, help="only this one; may be repeated")
    parser.add_argument("--model", help="for embed: an XLM-R, as a folder")
    parser.add_argument("--texts", type=Path, help="for embed: a file of sentences of mixed lengths")
    parser.add_argument("--rows", type=int, help="of a side, in place of each case's own number")
    parser.add_argument("--width", type=int, help="numbers of a vector, in place of each case's own")
    parser.add_argument("--nprobe", type=int, nargs="+", default=[16], help="lists that a query reads")
    parser.add_argument("--rounds", type=int, default=3, help="of embed (default: 3)")
    parser.add_argument("--out", type=Path, help="append the results to this file")
    given = parser.parse_args(arguments)
    logging.getLogger("stilts_ds").setLevel(logging.WARNING)
    chosen = given.case or cases
    if "embed" in chosen and (given.model is None or given.texts is None):
        raise UserError("case embed needs --model and --texts")
    # CPU seconds of several threads would hold their waiting for each other.
    torch.set_num_threads(1)
    code = provenance().to_json()  # as the run begins
    for case in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            for result in _results(case, given, Path(scratch)):
                print(json.dumps(result), flush=True)
                if given.out:
                    written = datetime.now(timezone.utc).isoformat(timespec="seconds")
                    line = {"benchmark": "mining", **result, "machine": machine(), "time": written, "provenance": code}
                    with given.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
    return 0


def _results(case: str, given: argparse.Namespace, folder: Path) -> list[Result]:
    if case == "laser":
        return [laser_case(given.rows or LASER_ROWS, given.width or LASER_WIDTH, folder)]
    if case == "embed":
        return [embed_case(given.model, mixed_lines(given.texts, given.rows or 1000), given.rounds, folder)]
    if case == "ranks":
        return [ranks_case(given.rows or 20_000, given.width or 256, folder)]
    return approximate_case(given.rows or 1_000_000, given.width or 256, given.nprobe, folder)
