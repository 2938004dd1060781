"""Microbenchmarks of exact search: correctness gate first, then time, rate and memory.

    stilts bench            or, from a checkout with nothing but torch and triton:     python kernels/bench/run.py
    ... --quick             seconds instead of minutes        ... --case two-way    one case (also bucc-1m, memory)
    ... --compare A B       two result files side by side     ... --embeddings X.npy Y.npy    your own vectors
    ... --plot FILE ...     FAISS's time over ours in result files, by screen
    ... --tune              on a GPU: choose and record the fused kernel's configurations

    ... --max-size 16384    no side of a case longer          ... --only ours         fewer methods timed
    ... --device cuda       the same cases on a GPU, bfloat16 rows
    ... --brief             on a busy machine: times alone, gated on 64 rows, without memory and bare products

bucc-1m takes hours: each method runs once, and that run gives the result that is gated, the time and the memory; the
bare product beside it has 65,536 rows a side.

Times are CPU seconds of this process on --threads threads (default 1), on a GPU wall seconds, methods interleaved round
by round, so that a shared machine's load hits all alike. Every run appends one line per case to a results/*.jsonl file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stilts_kernels import Report, last_report, normalize
from stilts_kernels.common.npy import open_npy

from stilts_bench.cases import (
    ANISOTROPIC_GOALS,
    CASES,
    LARGE,
    QUICK,
    BenchmarkCase,
    Method,
    gate_mine,
    gate_topk,
    gated,
    make_data,
    matmul_methods,
    mine_methods,
    topk_methods,
)
from stilts_bench.device import CPU, check_device, extra_bytes, seconds_of
from stilts_bench.memory import measure_memory
from stilts_bench.results import (
    Result,
    commit,
    compare,
    machine,
    plot,
    plot_ratios,
    ratio,
    results_folder,
    summary,
    table,
)

BRIEF_ROWS = 64  # that a brief run is gated on
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


def run_case(
    case: BenchmarkCase,
    rounds: int,
    sides: tuple[torch.Tensor, torch.Tensor] | None = None,
    device: torch.device = CPU,
    only: Sequence[str] = (),
    brief: bool = False,
) -> Result:
    """Gate, then measurements; a case that runs once is gated on the run that is timed, a brief one on a few rows.
    Raises ValueError when our result is not exact or `only` names nothing."""
    sides = sides or make_data(case, device=device)
    methods = (topk_methods if case.kind == "topk" else mine_methods)(*sides, case.k)
    ours, chosen = methods["ours"], chosen_methods(methods, only)
    # A bare product of a case of hours would take as long itself.
    product = case.at_most(PRODUCT_SIZE) if case.once else case
    products = matmul_methods(product, device)
    if brief:
        products = {}
    elif only or case.once:
        products = dict([products.popitem()])  # the last is the peak that rates are compared with
    gated_rows = len(gated(case.queries))
    if brief:
        gated_rows = min(BRIEF_ROWS, case.queries)
        report, recall = check(case, sides, ours(), gated_rows)
        memory = dict.fromkeys(chosen)
        seconds = time_methods(chosen, rounds, device)
    elif case.once:
        # `ours` is always in it, even if --only leaves it out: it is what the gate checks.
        results, seconds, memory = measure_once({"ours": ours, **chosen}, device)
        report, recall = check(case, sides, results["ours"])
        rounds = 1
        seconds |= time_methods(products, rounds, device)
    else:
        report, recall = check(case, sides, ours())
        # In runs of their own: timed rounds are interleaved, and a peak must belong to one method.
        memory = {name: extra_bytes(method, device) for name, method in chosen.items()}
        seconds = time_methods({**chosen, **products}, rounds, device)
    # FAISS where it is installed, else torch: the first of them that was timed.
    baseline = next((name for name in BASELINES if name in seconds), None)
    # A product that was cut down has its own number of operations.
    timed = {name: times for name, times in seconds.items() if name not in products}
    measured = {name: summary(case, times, memory.get(name)) for name, times in timed.items()}
    measured |= {name: summary(product, seconds[name], None) for name in products}
    return {
        "case": case.name,
        "kind": case.kind,
        "queries": case.queries,
        "rows": case.rows,
        "dim": case.dim,
        "k": case.k,
        "data": case.data,
        "goal": goal_for(case.goals, report.path),
        "goal_unprepared": goal_for(case.unprepared, report.path),
        "recall": recall,
        "gated_rows": gated_rows,
        "path": report.path,
        "searched_rows": report.rows,
        "certified_rows": report.certified,
        "survivors_per_row": report.survivors_per_row,
        "methods": measured,
        "baseline": baseline,
        "ratio": ratio(seconds, baseline, "ours"),
        "ratio_unprepared": ratio(seconds, baseline, "ours, bank unprepared"),
        "rounds": rounds,
        "machine": machine(device),
    }


def goal_for(goals: dict[str, float], path: str) -> float | None:
    """The goal of the screen that a report's path names; None where there is none."""
    return next((goal for name, goal in goals.items() if name in path), None)


def measure_once(
    methods: dict[str, Method], device: torch.device
) -> tuple[dict[str, Any], dict[str, list[float]], dict[str, int | None]]:
    """What each method found, its seconds and its extra memory, all from one run of each."""
    results: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {}

    def run(name: str) -> None:
        seconds[name] = [seconds_of(lambda: results.update({name: methods[name]()}), device)]

    memory = {name: extra_bytes(partial(run, name), device) for name in methods}
    return results, seconds, memory


def check(
    case: BenchmarkCase, sides: tuple[torch.Tensor, torch.Tensor], result: Any, rows: int | None = None
) -> tuple[Report, float]:
    """The report of the search that gave `result`, and its recall, of evenly spaced `rows` where that is given.

    Raises ValueError where it is below 1.
    """
    # Read at once: the next search of this process replaces it.
    report = last_report()
    assert report is not None
    recall = (gate_topk if case.kind == "topk" else gate_mine)(*sides, case.k, result, rows)
    if recall < 1:
        raise ValueError(f"{case.name}: recall {recall} against float64: no time is reported for a wrong result")
    return report, recall


def chosen_methods(methods: dict[str, Method], only: Sequence[str]) -> dict[str, Method]:
    """The methods whose name begins with one of `only`; all where it is empty."""
    chosen = {name: method for name, method in methods.items() if not only or name.startswith(tuple(only))}
    if not chosen:
        raise ValueError(f"--only {' '.join(only)}: no such method; there are {', '.join(methods)}")
    return chosen


def own_vectors(paths: Sequence[Path], k: int) -> tuple[BenchmarkCase, tuple[torch.Tensor, torch.Tensor]]:
    """A case on two .npy files of embeddings, normalised."""
    queries, bank = (normalize(open_npy(path)[0], str(path)) for path in paths)
    # Named by k as the other cases are: of one file, two lines of one name could not be compared.
    name = "embeddings" if k == 4 else f"embeddings-k{k}"
    goals = ANISOTROPIC_GOALS.get(k, {})
    return BenchmarkCase(name, "topk", len(queries), len(bank), queries.shape[1], k, goals, data="own"), (queries, bank)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stilts bench", description=__doc__.split("\n", 1)[0])
    known = [case.name for case in (*CASES, *LARGE)] + ["memory"]
    parser.add_argument("--quick", action="store_true", help="three small cases, three rounds")
    parser.add_argument("--case", action="append", choices=known, help="only this case; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-size", type=int, metavar="ROWS", help="cut both sides of every case to this many rows")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="METHOD", help="time only methods that begin so, and one bare product"
    )
    parser.add_argument("--brief", action="store_true", help="times alone, gated on a few rows: for a busy machine")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--embeddings", nargs=2, type=Path, metavar=("QUERIES", "BANK"), help="two .npy files")
    parser.add_argument("--k", type=int, default=4, help="neighbours for --embeddings")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="on a GPU: time the fused kernel's candidate configurations and record the fastest",
    )
    parser.add_argument("--out", type=Path, help="result file (.jsonl), appended to; with --tune the record (.json)")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="compare two result files and stop")
    parser.add_argument(
        "--plot", nargs="+", type=Path, metavar="FILE", help="draw the ratios of result files, into --out, and stop"
    )
    return parser.parse_args(argv)


def tune(path: Path | None) -> int:
    """Tunes every direction, D and k; prints each entry as it is recorded."""
    from stilts_kernels.topk.configs import describe, record_path  # needs triton, the rest of the benchmark does not

    from stilts_bench.tuner import tune_all

    for entry in tune_all(path or record_path()):
        print(f"{entry['key']}: {describe(entry['config'])}, {entry['tflops']:.0f} TFLOP/s", flush=True)
    print(f"recorded in {path or record_path()}")
    return 0


def measurements(arguments: argparse.Namespace) -> Iterator[Result]:
    """Runs the chosen cases one by one, printing each as it is done."""
    # Three are enough to see that nothing is broken.
    rounds = 3 if arguments.quick else arguments.rounds
    device = check_device(arguments.device)
    chosen: list[tuple[BenchmarkCase, tuple[torch.Tensor, torch.Tensor] | None]]
    if arguments.embeddings:
        case, (queries, bank) = own_vectors(arguments.embeddings, arguments.k)
        chosen = [(case, (queries.to(device), bank.to(device)))]
    else:
        cases: Sequence[BenchmarkCase] = CASES
        if arguments.case:
            cases = [case for case in (*CASES, *LARGE) if case.name in arguments.case]
        if arguments.quick:
            cases = QUICK
        if arguments.max_size:
            cases = [case.at_most(arguments.max_size) for case in cases]
        chosen = [(case, None) for case in cases]
    for case, sides in chosen:
        result = run_case(case, rounds, sides, device, arguments.only, arguments.brief)
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
        if arguments.plot:
            picture = arguments.out or arguments.plot[0].with_suffix(".svg")
            plot_ratios(arguments.plot, picture)
            print(f"plot: {picture}")
            return 0
        torch.set_num_threads(arguments.threads)
        if arguments.tune:
            return tune(arguments.out)
        for result in measurements(arguments):
            results.append(result)
            # After each case: an interrupted run of hours keeps what it has.
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
