"""Microbenchmarks of exact search: correctness gate first, then time, rate and memory.

    stilts bench            or, from a checkout with nothing but torch and triton:     python kernels/bench/run.py
    ... --quick             seconds instead of minutes        ... --case two-way    one case (also bucc-1m, memory)
    ... --compare A B       two result files side by side     ... --embeddings X.npy Y.npy    your own vectors
    ... --tune              on a GPU: choose and record the fused kernel's configurations

    ... --max-size 16384    no side of a case longer          ... --only ours         fewer methods timed
    ... --device cuda       the same cases on a GPU, bfloat16 rows

bucc-1m takes hours: each method runs once, and that run gives the result that is gated, the time and the memory; the
bare product beside it has 65,536 rows a side.

Times are CPU seconds of this process on --threads threads (default 1), on a GPU wall seconds, methods interleaved round
by round, so that a shared machine's load hits all alike. Every run appends one line per case to a results/*.jsonl file.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stilts_kernels.bench_cases import (
    CASES,
    LARGE,
    QUICK,
    Case,
    Method,
    gate_mine,
    gate_topk,
    gated,
    make_data,
    matmul_methods,
    mine_methods,
    optional,
    topk_methods,
)
from stilts_kernels.bench_device import CPU, check_device, extra_bytes, name_of, seconds_of
from stilts_kernels.bench_memory import measure_memory
from stilts_kernels.rows import normalize, open_npy
from stilts_kernels.screen import Report, last_report

Result = dict[str, Any]
PRODUCT_SIZE = 65_536  # rows a side of the bare product beside a case that runs once
BASELINES = ("faiss IndexFlatIP", "faiss both ways", "torch matmul + topk", "torch matmul + topk both ways")


def time_methods(methods: dict[str, Method], rounds: int, device: torch.device = CPU) -> dict[str, list[float]]:
    """Seconds of every method in every round; one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method()
    for _ in range(rounds):
        for name, method in methods.items():
            seconds[name].append(seconds_of(method, device))
    return seconds


def run_case(case: Case, rounds: int, sides: tuple[torch.Tensor, torch.Tensor] | None = None,
             device: torch.device = CPU, only: Sequence[str] = ()) -> Result:
    """Gate, then measurements; a case that runs once is gated on the run that is timed. Raises ValueError when our
    result is not exact or `only` names nothing."""
    sides = sides or make_data(case, device=device)
    methods = (topk_methods if case.kind == "topk" else mine_methods)(*sides, case.k)
    ours, chosen = methods["ours"], chosen_methods(methods, only)
    product = case.at_most(PRODUCT_SIZE) if case.once else case
    products = matmul_methods(product, device)
    if only or case.once:
        products = dict([products.popitem()])  # the last is the peak that rates are compared with
    if case.once:
        found, seconds, memory = measure_once({"ours": ours, **chosen}, device)
        report, recall = check(case, sides, found["ours"])
        rounds = 1
        seconds |= time_methods(products, rounds, device)
    else:
        report, recall = check(case, sides, ours())
        memory = {name: extra_bytes(method, device) for name, method in chosen.items()}
        seconds = time_methods({**chosen, **products}, rounds, device)
    baseline = next((name for name in BASELINES if name in seconds), None)
    return {
        "case": case.name, "kind": case.kind, "queries": case.queries, "rows": case.rows, "dim": case.dim, "k": case.k,
        "data": case.data, "goal": case.goal, "recall": recall, "gated_rows": len(gated(case.queries)),
        "path": report.path, "searched_rows": report.rows, "certified_rows": report.certified,
        "survivors_per_row": report.survivors_per_row,
        "methods": {name: summary(product if name in products else case, times, memory.get(name))
                    for name, times in seconds.items()},
        "baseline": baseline, "ratio": ratio(seconds, baseline), "rounds": rounds, "machine": machine(device),
    }


def measure_once(methods: dict[str, Method], device: torch.device) -> tuple[dict[str, Any], dict[str, list[float]],
                                                                           dict[str, int | None]]:
    """What each method found, its seconds and its extra memory, all from one run of each."""
    found: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {}

    def run(name: str) -> None:
        seconds[name] = [seconds_of(lambda: found.update({name: methods[name]()}), device)]

    memory = {name: extra_bytes(partial(run, name), device) for name in methods}
    return found, seconds, memory


def check(case: Case, sides: tuple[torch.Tensor, torch.Tensor], found: Any) -> tuple[Report, float]:
    """The report of the search that gave `found`, and its recall. Raises ValueError where that is below 1."""
    report = last_report()
    assert report is not None
    recall = (gate_topk if case.kind == "topk" else gate_mine)(*sides, case.k, found)
    if recall < 1:
        raise ValueError(f"{case.name}: recall {recall} against float64: no time is reported for a wrong result")
    return report, recall


def chosen_methods(methods: dict[str, Method], only: Sequence[str]) -> dict[str, Method]:
    """The methods whose name begins with one of `only`; all where it is empty."""
    chosen = {name: method for name, method in methods.items() if not only or name.startswith(tuple(only))}
    if not chosen:
        raise ValueError(f"--only {' '.join(only)}: no such method; there are {', '.join(methods)}")
    return chosen


def summary(case: Case, times: list[float], memory: int | None) -> Result:
    median = statistics.median(times)
    return {"median_s": median, "min_s": min(times), "max_s": max(times), "gflops": case.gflop / median,
            "extra_peak_mb": None if memory is None else memory / 1e6}


def ratio(seconds: dict[str, list[float]], baseline: str | None) -> Result | None:
    """The baseline's time over ours: of the medians, and the lowest and highest of single rounds."""
    if baseline is None or "ours" not in seconds:
        return None
    rounds = [theirs / ours for theirs, ours in zip(seconds[baseline], seconds["ours"])]
    return {"median": statistics.median(seconds[baseline]) / statistics.median(seconds["ours"]), "min": min(rounds),
            "max": max(rounds)}


def machine(device: torch.device = CPU) -> Result:
    """Processor or GPU, thread count and versions; enough to judge whether two files compare."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    flags = info.read_text() if info.exists() else ""
    features = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if re.search(rf"\b{name}\b", flags)]
    versions = {name: getattr(optional(name), "__version__", None) for name in ("torch", "triton", "numpy", "faiss")}
    return {"cpu": model[1] if model else platform.processor(), "features": features, "gpu": name_of(device),
            "threads": torch.get_num_threads(), "python": platform.python_version(), **versions}


def commit() -> str:
    """The commit of this code, `-dirty` where files differ from it, `unknown` outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def table(result: Result) -> str:
    """A case's methods as text."""
    peak = max(method["gflops"] for name, method in result["methods"].items() if name.endswith("alone"))
    lines = [f"{result['case']}: {result['queries']} x {result['rows']}, D {result['dim']}, k {result['k']}; recall "
             f"{result['recall']:.4f} ({result['gated_rows']} queries checked); {result['certified_rows']} of "
             f"{result['searched_rows']} rows certified, "
             f"{result['survivors_per_row']:.1f} survivors a row; {result['path']}",
             f"  {'method':<28} {'median s':>9} {'min':>8} {'max':>8} {'GFLOP/s':>8} {'of peak':>8} {'extra MB':>9}"]
    for name, row in result["methods"].items():
        extra = "" if row["extra_peak_mb"] is None else f"{row['extra_peak_mb']:.0f}"
        lines.append(f"  {name:<28} {row['median_s']:9.4f} {row['min_s']:8.4f} {row['max_s']:8.4f} "
                     f"{row['gflops']:8.0f} {row['gflops'] / peak:8.0%} {extra:>9}")
    if result["ratio"]:
        goal = "" if result["goal"] is None else f", goal {result['goal']}"
        lines.append("  {} over ours: {median:.2f} (single rounds {min:.2f} to {max:.2f})".format(
            result["baseline"], **result["ratio"]) + goal)
    return "\n".join(lines)


def compare(paths: Sequence[Path]) -> str:
    """Medians of the last line of each case in two result files. Raises ValueError where they share none."""
    first, second = ({line["case"]: line for line in map(json.loads, path.read_text().splitlines())} for path in paths)
    lines = [f"{'case':<20} {'method':<28} {'A s':>9} {'B s':>9} {'A over B':>9}"]
    shared = [name for name in first if name in second]
    if not shared:
        raise ValueError(f"{paths[0]} and {paths[1]} have no case in common")
    for name in shared:
        a, b = first[name].get("methods", {}), second[name].get("methods", {})
        for method in (method for method in a if method in b):
            times = a[method]["median_s"], b[method]["median_s"]
            lines.append(f"{name:<20} {method:<28} {times[0]:9.4f} {times[1]:9.4f} {times[0] / times[1]:9.2f}")
    return "\n".join(lines)


def plot(results: Sequence[Result], path: Path) -> None:
    """Bars of each method's rate, one panel per case; says so where matplotlib is missing."""
    pyplot = optional("matplotlib.pyplot")
    timed = [result for result in results if "methods" in result]
    if pyplot is None:
        print("no plot: matplotlib is not installed")
    if pyplot is None or not timed:
        return
    heights = [len(result["methods"]) + 1.5 for result in timed]
    figure, panels = pyplot.subplots(len(timed), figsize=(8, 0.3 * sum(heights)), layout="constrained", squeeze=False,
                                     gridspec_kw={"height_ratios": heights})
    for axes, result in zip(panels[:, 0], timed):
        draw(axes, result)
    on_gpu = any(result.get("machine", {}).get("gpu") for result in timed)
    panels[-1, 0].set_xlabel("GFLOP/s" if on_gpu else "GFLOP per CPU second")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"plot: {path}")


def draw(axes: Any, result: Result) -> None:
    """One case: the bare products grey, ours dark, the others light; slowest at the bottom."""
    rates = sorted((method["gflops"], name) for name, method in result["methods"].items())
    colours = ["0.75" if name.endswith("alone") else "tab:blue" if name.startswith("ours") else "tab:orange"
               for _, name in rates]
    bars = axes.barh([name for _, name in rates], [rate for rate, _ in rates], color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize="small")
    axes.margins(x=0.1)
    axes.set_title(result["case"], fontsize="medium", loc="left")
    axes.tick_params(labelsize="small")


def own_vectors(paths: Sequence[Path], k: int) -> tuple[Case, tuple[torch.Tensor, torch.Tensor]]:
    """A case on two .npy files of embeddings, normalised."""
    queries, bank = (normalize(open_npy(path)[0], str(path)) for path in paths)
    return Case("embeddings", "topk", len(queries), len(bank), queries.shape[1], k, None, "own"), (queries, bank)


def results_folder() -> Path:
    """kernels/results of the checkout this file lies in, else the current directory."""
    folder = Path(__file__).resolve().parents[1] / "results"
    return folder if folder.is_dir() else Path.cwd()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stilts bench", description=__doc__.split("\n", 1)[0])
    known = [case.name for case in (*CASES, *LARGE)] + ["memory"]
    parser.add_argument("--quick", action="store_true", help="three small cases, three rounds")
    parser.add_argument("--case", action="append", choices=known, help="only this case; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-size", type=int, metavar="ROWS", help="cut both sides of every case to this many rows")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD",
                        help="time only methods that begin so, and one bare product")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--embeddings", nargs=2, type=Path, metavar=("QUERIES", "BANK"), help="two .npy files")
    parser.add_argument("--k", type=int, default=4, help="neighbours for --embeddings")
    parser.add_argument("--tune", action="store_true",
                        help="on a GPU: time the fused kernel's candidate configurations and record the fastest")
    parser.add_argument("--out", type=Path, help="result file (.jsonl), appended to; with --tune the record (.json)")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="compare two result files and stop")
    return parser.parse_args(argv)


def tune(path: Path | None) -> int:
    """Tunes every direction, D and k; prints each entry as it is recorded."""
    from stilts_kernels.tuner import tune_all  # needs triton, the rest of the benchmark does not
    from stilts_kernels.tuning import describe, record_path

    for entry in tune_all(path or record_path()):
        print(f"{entry['key']}: {describe(entry['config'])}, {entry['tflops']:.0f} TFLOP/s", flush=True)
    print(f"recorded in {path or record_path()}")
    return 0


def measurements(arguments: argparse.Namespace) -> Iterator[Result]:
    """Runs the chosen cases one by one, printing each as it is done."""
    rounds = 3 if arguments.quick else arguments.rounds
    device = check_device(arguments.device)
    chosen: list[tuple[Case, tuple[torch.Tensor, torch.Tensor] | None]]
    if arguments.embeddings:
        case, (queries, bank) = own_vectors(arguments.embeddings, arguments.k)
        chosen = [(case, (queries.to(device), bank.to(device)))]
    else:
        wanted = [case for case in (*CASES, *LARGE) if case.name in (arguments.case or [])]
        cases = QUICK if arguments.quick else wanted if arguments.case else CASES
        chosen = [(case.at_most(arguments.max_size) if arguments.max_size else case, None) for case in cases]
    for case, sides in chosen:
        result = run_case(case, rounds, sides, device, arguments.only)
        print(table(result), flush=True)
        yield result
    if "memory" in (arguments.case or []):
        result = {"case": "memory", **measure_memory(), "machine": machine()}
        print(json.dumps(result), flush=True)
        yield result


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 1 when a gate fails or a file cannot be read."""
    arguments = parse(argv)
    stamp, code = datetime.now(timezone.utc), commit()  # both as the run begins
    path = arguments.out or results_folder() / f"{stamp:%Y%m%d-%H%M%S}.jsonl"
    results = []
    try:
        if arguments.compare:
            print(compare(arguments.compare))
            return 0
        torch.set_num_threads(arguments.threads)
        if arguments.tune:
            return tune(arguments.out)
        for result in measurements(arguments):
            results.append(result)
            with path.open("a", encoding="utf-8") as file:
                line = {**result, "time": stamp.isoformat(timespec="seconds"), "commit": code}
                file.write(json.dumps(line) + "\n")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"appended to {path}")
    plot(results, path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
