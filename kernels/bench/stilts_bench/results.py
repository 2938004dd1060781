"""Results of the microbenchmarks: a method's figures, the machine, tables, the comparison of two files, plots."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stilts_bench.cases import BenchmarkCase, optional
from stilts_bench.device import CPU, name_of

Result = dict[str, Any]


# What imitates a smaller processor: ours, torch's and those of its libraries, FAISS's BLAS.
SETTINGS = (
    "STILTS_KERNELS_ISA",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_CORETYPE",
)


def summary(case: BenchmarkCase, times: list[float], memory: int | None) -> Result:
    median = statistics.median(times)
    return {
        "median_s": median,
        "min_s": min(times),
        "max_s": max(times),
        # The median: a disturbed round must not count.
        "gflops": case.gflop / median,
        "extra_peak_mb": None if memory is None else memory / 1e6,
    }


def ratio(seconds: dict[str, list[float]], baseline: str | None, method: str) -> Result | None:
    """The baseline's time over the method's: of the medians, and the lowest and highest of single rounds."""
    if baseline is None or method not in seconds:
        return None
    # Rounds are interleaved, so a pair of one round saw the same machine.
    rounds = [baseline_s / method_s for baseline_s, method_s in zip(seconds[baseline], seconds[method])]
    return {
        "median": statistics.median(seconds[baseline]) / statistics.median(seconds[method]),
        "min": min(rounds),
        "max": max(rounds),
    }


def machine(device: torch.device = CPU) -> Result:
    """Processor or GPU, thread count and versions; enough to judge whether two files compare."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    features = [
        name
        for name in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")
        if re.search(rf"\b{name}\b", text)
    ]
    # None for what is not installed: then a missing method is no riddle.
    versions = {name: getattr(optional(name), "__version__", None) for name in ("torch", "triton", "numpy", "faiss")}
    return {
        "cpu": model[1] if model else platform.processor(),
        "features": features,
        "gpu": name_of(device),
        "threads": torch.get_num_threads(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "python": platform.python_version(),
        **versions,
    }


def commit() -> str:
    """The commit of this code, `-dirty` where files differ from it, `unknown` outside a checkout."""
    # --exclude=*: the commit itself, not its distance from a tag.
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def table(result: Result) -> str:
    """A case's methods as text."""
    rates = {name: method["gflops"] for name, method in result["methods"].items()}
    products = [rate for name, rate in rates.items() if name.endswith("alone")]
    peak = max(products or rates.values())  # a brief run has no bare product: then of the fastest method
    lines = [
        f"{result['case']}: {result['queries']} x {result['rows']}, D {result['dim']}, k {result['k']}; recall "
        f"{result['recall']:.4f} ({result['gated_rows']} queries checked); {result['certified_rows']} of "
        f"{result['searched_rows']} rows certified, "
        f"{result['survivors_per_row']:.1f} survivors a row; {result['path']}",
        f"  {'method':<28} {'median s':>9} {'min':>8} {'max':>8} {'GFLOP/s':>8} {'of peak':>8} {'extra MB':>9}",
    ]
    for name, row in result["methods"].items():
        extra = "" if row["extra_peak_mb"] is None else f"{row['extra_peak_mb']:.0f}"
        lines.append(
            f"  {name:<28} {row['median_s']:9.4f} {row['min_s']:8.4f} {row['max_s']:8.4f} "
            f"{row['gflops']:8.0f} {row['gflops'] / peak:8.0%} {extra:>9}"
        )
    for method, suffix in (("ours", ""), ("ours, bank unprepared", "_unprepared")):
        if result["ratio" + suffix]:
            lines.append(
                f"  {result['baseline']} over {method}: {said(result['ratio' + suffix], result['goal' + suffix])}"
            )
    return "\n".join(lines)


def said(ratio: Result, goal: float | None) -> str:
    wanted = "" if goal is None else f", goal {goal}"
    return "{median:.2f} (single rounds {min:.2f} to {max:.2f})".format(**ratio) + wanted


def compare(paths: Sequence[Path]) -> str:
    """Medians of the last line of each case in two result files. Raises ValueError where they share none."""
    first, second = (last_lines(path) for path in paths)
    lines = [f"{'case':<20} {'method':<28} {'A s':>9} {'B s':>9} {'A over B':>9}"]
    shared = [name for name in first if name in second]
    if not shared:
        raise ValueError(f"{paths[0]} and {paths[1]} have no case in common")
    # A file may be appended to for weeks; the newest line of a case is the one that is meant.
    for name in shared:
        a, b = first[name].get("methods", {}), second[name].get("methods", {})
        for method in (method for method in a if method in b):
            a_s, b_s = a[method]["median_s"], b[method]["median_s"]
            lines.append(f"{name:<20} {method:<28} {a_s:9.4f} {b_s:9.4f} {a_s / b_s:9.2f}")
    return "\n".join(lines)


def last_lines(path: Path) -> dict[str, Result]:
    """Each case's last line in a result file."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["case"]: line for line in lines}


def plot(results: Sequence[Result], path: Path) -> None:
    """Bars of each method's rate, one panel per case; says so where matplotlib is missing."""
    # A picture is a convenience: the figures are in the file already.
    pyplot = optional("matplotlib.pyplot")
    timed = [result for result in results if "methods" in result]
    if pyplot is None:
        print("no plot: matplotlib is not installed")
    if pyplot is None or not timed:
        return
    heights = [len(result["methods"]) + 1.5 for result in timed]
    # squeeze=False: one case gives an array of panels, too.
    figure, panels = pyplot.subplots(
        len(timed),
        figsize=(8, 0.3 * sum(heights)),
        layout="constrained",
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )
    for axes, result in zip(panels[:, 0], timed):
        draw(axes, result)
    on_gpu = any(result.get("machine", {}).get("gpu") for result in timed)
    panels[-1, 0].set_xlabel("GFLOP/s" if on_gpu else "GFLOP per CPU second")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"plot: {path}")


def plot_ratios(paths: Sequence[Path], picture: Path) -> None:
    """Bars of FAISS's time over ours for every case of some result files, by screen; the last line of each counts.

    Raises ValueError where matplotlib is missing or no line holds a ratio.
    """
    pyplot = optional("matplotlib.pyplot")
    if pyplot is None:
        raise ValueError("a plot needs matplotlib: pip install matplotlib")
    ratios: dict[str, dict[str, float]] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            result = json.loads(line)
            if result.get("ratio"):
                ratios.setdefault(screen_of(result), {})[result["case"]] = result["ratio"]["median"]
    if not ratios:
        raise ValueError(f"{', '.join(map(str, paths))}: no ratio of FAISS's time to ours")
    cases = list(dict.fromkeys(case for of_screen in ratios.values() for case in of_screen))
    height = 0.8 / len(ratios)
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.3 * len(cases) * len(ratios)), layout="constrained")
    for number, (screen, of_screen) in enumerate(ratios.items()):
        places = [cases.index(case) + number * height for case in of_screen]
        bars = axes.barh(places, list(of_screen.values()), height, label=screen)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize="small")
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(cases))], cases)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("FAISS's CPU seconds over ours")
    axes.legend(fontsize="small")
    figure.savefig(picture)
    pyplot.close(figure)


def screen_of(result: Result) -> str:
    """The screen of a result, and the newest instructions that oneDNN was allowed, where that was set."""
    screen = result["path"].removeprefix("cpu, ").removesuffix(", two-way")
    limit = result["machine"]["settings"].get("ONEDNN_MAX_CPU_ISA")
    return f"{screen} ({limit})" if limit and "int8" not in screen else screen


def _colour(method: str) -> str:
    if method.endswith("alone"):
        return "0.75"
    return "tab:blue" if method.startswith("ours") else "tab:orange"


def draw(axes: Any, result: Result) -> None:
    """One case: the bare products grey, ours dark, the others light; slowest at the bottom."""
    rates = sorted((method["gflops"], name) for name, method in result["methods"].items())
    colours = [_colour(name) for _, name in rates]
    bars = axes.barh([name for _, name in rates], [rate for rate, _ in rates], color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize="small")
    axes.margins(x=0.1)
    axes.set_title(result["case"], fontsize="medium", loc="left")
    axes.tick_params(labelsize="small")


def results_folder() -> Path:
    """kernels/results of the checkout this file lies in, else the current directory."""
    folder = Path(__file__).resolve().parents[2] / "results"
    return folder if folder.is_dir() else Path.cwd()
