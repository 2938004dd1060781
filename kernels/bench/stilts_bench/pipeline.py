"""Benchmark of the input pipeline: what an example costs before it reaches the model.

    stilts bench pipeline --model MODEL --intermediate DIR [--rows N ...] [--out FILE.jsonl]

Own CPU seconds on one thread, methods in turn, medians. A comparison with the tokenizer's own interface is timed only
after every row of both was found equal. Building and loading run in processes of their own, so that their memory is
theirs alone. The real data set is small; longer ones pair its sentences anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.batches.mixture import Mixture, deal, micro_batch_count
from stilts_ds.config import SamplingPart, TrainingPart
from stilts_ds.data.cache import cached_rows, find_rows
from stilts_ds.data.reader import read_examples
from stilts_ds.errors import UserError
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.registry import family_of
from stilts_ds.families.span.record import Span
from stilts_ds.rows.chunks import CHUNK
from stilts_ds.rows.rows import Rows, ids_in
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import hash_files, provenance
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task

Result = dict[str, Any]
# The largest tasks of both kinds: sentence pairs, and windows over paragraphs.
PAIRS, SPANS = ("mnli", "qqp"), ("squad_v1", "squad_v2")
PAIR_SETTING = TrainingPart(max_seq_length=128)
SPAN_SETTING = TrainingPart(max_seq_length=384, doc_stride=128, max_query_length=384)  # no question is cut: as in HF
BUILT = "mnli/multinli_1.0_train.jsonl"
KEY = {"benchmark": "input pipeline"}
STEPS, BATCH, RANKS = 300, 256, 8
STATUS = Path("/proc/self/status")


def records_of(name: str, folder: Path) -> list[Any]:
    return list(read_examples(get_task(name), "train", "en", DataSource(intermediate=folder)))


def encoded(name: str, records: Any, encoder: Tokenizer, setting: TrainingPart, folder: Path | None = None) -> Rows:
    """The rows of a task's records, in memory or in files of `folder`."""
    task = get_task(name)
    return family_of(task).encode(records, encoder, task.labels, setting, folder)


def race(methods: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each method; all are timed in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    # Interleaved, so that a disturbance meets all methods.
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.process_time()
            method()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def row(rows: Rows, index: int) -> list[int]:
    return rows.input_ids[rows.starts[index] : rows.starts[index + 1]].tolist()


def pair_case(name: str, encoder: Tokenizer, tokenizer: Any, folder: Path, rounds: int) -> Result:
    """Rows of pairs in a file, against `tokenizer(list, list)`."""
    records: list[Pair] = records_of(name, folder)
    texts = [r.text_a for r in records], [r.text_b for r in records]
    most = PAIR_SETTING.max_seq_length

    def ours(target: Path | None = None) -> Rows:
        encoder.words.forget()  # every round begins as the first one
        return encoded(name, records, encoder, PAIR_SETTING, target)

    def theirs() -> Any:
        return tokenizer(*texts, truncation=True, max_length=most)

    rows, their_ids = ours(), theirs()["input_ids"]
    lengths = rows.row_lengths
    for i in np.flatnonzero(lengths < most).tolist():  # they cut over-long pairs elsewhere
        # Every row, not a sample: a benchmark of something else would be worthless.
        check(row(rows, i) == their_ids[i], f"{name}: example {records[i].id} has other ids")
    with tempfile.TemporaryDirectory() as scratch:
        seconds = race({"ours": lambda: ours(Path(scratch)), "hugging face": theirs}, rounds)
    # Our count for both, since their rows are equal.
    tokens = int(lengths.sum())
    return compared(f"pairs {name}", seconds, tokens, "tokens", {"rows": len(records)})


def window_case(name: str, encoder: Tokenizer, tokenizer: Any, folder: Path, rounds: int) -> Result:
    """Question-answering windows in a file, against the call of Hugging Face's run_qa example."""
    records: list[Span] = records_of(name, folder)
    texts = [r.question for r in records], [r.context for r in records]

    def ours(target: Path | None = None) -> Rows:
        encoder.words.forget()
        return encoded(name, records, encoder, SPAN_SETTING, target)

    def theirs() -> Any:
        return tokenizer(
            *texts,
            truncation="only_second",
            max_length=SPAN_SETTING.max_seq_length,
            stride=SPAN_SETTING.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )

    rows = ours()
    check_windows(rows, theirs(), records)
    with tempfile.TemporaryDirectory() as scratch:
        seconds = race({"ours": lambda: ours(Path(scratch)), "hugging face": theirs}, rounds)
    contexts = len({r.context for r in records})
    return compared(f"windows {name}", seconds, len(rows), "windows", {"rows": len(records), "contexts": contexts})


def check_windows(rows: Rows, encoding: Any, records: Sequence[Span]) -> None:
    """Every window's ids and characters equal; leading white space stands in their tokens and not in ours."""
    assert rows.place is not None
    check(len(rows) == len(encoding["input_ids"]), "another number of windows")
    for i in range(len(rows)):
        record = records[int(rows.example[i])]
        # Theirs are padded to max_length, ours never.
        real = sum(encoding["attention_mask"][i])
        check(row(rows, i) == encoding["input_ids"][i][:real], f"window {i} has other ids")
        segments, offsets = encoding.sequence_ids(i), encoding["offset_mapping"][i]
        expected = []
        for segment, (start, end) in zip(segments[:real], offsets[:real]):
            # Segment 1 is the context; all else has no characters there.
            expected.append(_trim(record.context, start, end) if segment == 1 else (-1, -1))
        characters = rows.place[rows.starts[i] : rows.starts[i + 1]].tolist()
        check([tuple(span) for span in characters] == expected, f"window {i} has other characters")


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    return end - len(text[start:end].lstrip()), end


def check(right: bool, problem: str) -> None:
    if not right:
        raise UserError(f"the gate before timing failed: {problem}")


def compared(case: str, seconds: dict[str, float], count: int, unit: str, more: Result) -> Result:
    methods = {name: {"cpu_s": value, f"{unit}_per_s": count / value} for name, value in seconds.items()}
    return {"case": case, **more, unit: count, "methods": methods, "ratio": seconds["hugging face"] / seconds["ours"]}


def write_rows(path: Path, records: Sequence[Pair], count: int) -> None:
    """A MultiNLI file of `count` rows: the records' sentences, paired differently each time round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = len(records)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            first, second = records[i % size], records[(i + i // size) % size]
            line = {"gold_label": first.label, "sentence1": first.text_a, "sentence2": second.text_b, "pairID": str(i)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def resident(field: str) -> float:
    """MB in VmRSS (now) or VmHWM (highest since the last reset), mapped files included."""
    match = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    assert match is not None
    return int(match[1]) * 1024 / 1e6


def build(model: str, folder: str) -> Result:
    """Builds the rows of the file in `folder`: its hash, reading, tokenising, writing."""
    encoder, task, source = Tokenizer.load(model), get_task("mnli"), DataSource(intermediate=Path(folder))
    # A chunk outside of the measurement: imports and tables of the tokenizer are not part of building.
    first = islice(read_examples(task, "train", "en", source), CHUNK)
    encoded(task.name, first, encoder, PAIR_SETTING)  # everything is loaded
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    start, wall = time.process_time(), time.perf_counter()
    hash_files([Path(folder) / BUILT])
    rows = cached_rows(
        Path(folder) / "cache",
        KEY,
        lambda scratch: encoded(task.name, read_examples(task, "train", "en", source), encoder, PAIR_SETTING, scratch),
    )
    seconds = {"cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall}
    return {
        "rows": len(rows),
        "tokens": int(rows.starts[-1]),
        **seconds,
        "peak_mb": resident("VmHWM"),
        "extra_peak_mb": resident("VmHWM") - before,
    }


def load(folder: str) -> Result:
    """Loads what `build` left, in a process that has not seen it."""
    before = resident("VmRSS")
    start = time.perf_counter()
    rows = find_rows(Path(folder) / "cache", KEY)
    loaded = time.perf_counter()
    assert rows is not None
    # Read from the note that building left; the scan below is what it saves.
    touched, after = ids_in(rows), resident("VmRSS")
    all_touched = time.perf_counter()
    lengths = rows.item_lengths
    counted = time.perf_counter()
    rows.touched = None
    check(bool(np.array_equal(ids_in(rows), touched)), "the ids noted while building are not those in the rows")
    return {
        "load_s": loaded - start,
        "extra_mb": after - before,
        "touched": len(touched),
        "touched_s": all_touched - loaded,
        "lengths_s": counted - all_touched,
        "scan_s": time.perf_counter() - counted,
        "items": len(lengths),
    }


def alone(call: str, *arguments: str) -> Result:
    """A function of this module in a process of its own."""
    program = f"import json, sys; from stilts_bench.pipeline import {call}; print(json.dumps({call}(*sys.argv[1:])))"
    # The new process finds the modules where this one found them, installed or not.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(f"`{call}` in a process of its own failed:\n{done.stderr[-2000:]}")
    # The last line: libraries print warnings before it.
    return json.loads(done.stdout.splitlines()[-1])


def build_case(count: int, model: str, folder: Path, rounds: int) -> Result:
    """Build time and memory for `count` rows, and what loading them again takes."""
    with tempfile.TemporaryDirectory() as scratch:
        write_rows(Path(scratch) / BUILT, records_of("mnli", folder), count)
        built = alone("build", model, scratch)
        loads = [alone("load", scratch) for _ in range(rounds)]
        size = sum(path.stat().st_size for path in (Path(scratch) / "cache").rglob("*.npy"))
    return {
        "case": f"build {count}",
        **built,
        "cache_mb": size / 1e6,
        "load": {name: statistics.median(measured[name] for measured in loads) for name in loads[0]},
    }


def plan_case(count: int, lengths: dict[str, np.ndarray]) -> Result:
    """Planning a step of BATCH examples for RANKS ranks, where the tasks have `count` rows together."""
    # The real lengths, repeated: planning costs depend on how many rows there are and how their lengths vary.
    share = count / sum(map(len, lengths.values()))
    counts = {name: max(1, round(len(real) * share)) for name, real in lengths.items()}
    rows = {name: np.resize(real, counts[name]) for name, real in lengths.items()}
    setting = TrainingPart(train_batch_size=BATCH, max_steps=STEPS)
    start = time.process_time()
    sizes = {name: len(costs) for name, costs in rows.items()}
    mixture = Mixture(sizes, setting, SamplingPart(unit="example"), 1)
    started, seconds, slowest = time.process_time() - start, [], []
    for step in range(STEPS):
        start = time.process_time()
        items = mixture.step(step)
        costs = [int(rows[name][item]) for name, item in items]
        dealt = deal(costs, RANKS, micro_batch_count(setting, RANKS))
        seconds.append(time.process_time() - start)
        # The slowest rank decides how long a step takes; 1 would be a perfect division.
        loads = [sum(costs[p] for micro_batch in rank for p in micro_batch) for rank in dealt]
        slowest.append(max(loads) * RANKS / sum(loads))
    return {
        "case": f"plan {count}",
        "rows": count,
        "examples": BATCH,
        "ranks": RANKS,
        "steps": STEPS,
        "start_s": started,
        "median_s": statistics.median(seconds),
        "max_s": max(seconds),
        "slowest_rank": {"median": statistics.median(slowest), "max": max(slowest)},
    }


def lengths_of(encoder: Tokenizer, folder: Path) -> dict[str, np.ndarray]:
    """Row lengths of real tasks."""
    settings = {name: PAIR_SETTING for name in PAIRS} | {name: SPAN_SETTING for name in SPANS}
    return {
        name: encoded(name, records_of(name, folder), encoder, setting).item_tokens
        for name, setting in settings.items()
    }


def measurements(given: argparse.Namespace) -> Iterator[Result]:
    # Two, since a Hugging Face tokenizer keeps the settings of its last call.
    encoder, baseline = Tokenizer.load(given.model), Tokenizer.load(given.model)
    for name in PAIRS:
        yield pair_case(name, encoder, baseline.tokenizer, given.intermediate, given.rounds)
    for name in SPANS:
        yield window_case(name, encoder, baseline.tokenizer, given.intermediate, given.rounds)
    lengths = lengths_of(encoder, given.intermediate)
    for count in (10_000, 100_000, 1_000_000):
        yield plan_case(count, lengths)
    for count in given.rows:
        yield build_case(count, given.model, given.intermediate, given.rounds)


def line(result: Result) -> str:
    """One measurement as text."""
    kind, case = result["case"].split()[0], f"{result['case']:<18}"
    if kind in ("pairs", "windows"):
        unit = "tokens" if kind == "pairs" else "windows"
        rates = ", ".join(f"{name} {m[f'{unit}_per_s']:,.0f}" for name, m in result["methods"].items())
        return f"{case} {unit} a CPU second: {rates}; ratio {result['ratio']:.2f}; all {result['rows']} examples equal"
    if kind == "plan":
        return (
            f"{case} {result['median_s'] * 1e3:.3f} ms a step (longest {result['max_s'] * 1e3:.1f} ms); slowest of "
            f"{RANKS} ranks {result['slowest_rank']['median']:.4f} of its share, at most "
            f"{result['slowest_rank']['max']:.4f}"
        )
    loaded = result["load"]
    return (
        f"{case} {result['cpu_s']:.1f} CPU s, {result['tokens'] / result['cpu_s']:,.0f} tokens a CPU second, peak "
        f"{result['peak_mb']:.0f} MB ({result['extra_peak_mb']:.1f} MB of it for building), cache "
        f"{result['cache_mb']:.0f} MB; loaded in {loaded['load_s'] * 1e3:.1f} ms and {loaded['extra_mb']:.1f} MB, "
        f"{loaded['touched']} touched ids in {loaded['touched_s'] * 1e3:.2f} ms "
        f"(by scanning {loaded['scan_s'] * 1e3:.0f} ms)"
    )


def machine() -> Result:
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {"cpu": model[1] if model else platform.processor(), "threads": 1, **provenance().to_json()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="stilts bench pipeline", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", required=True, help="hub id or folder whose tokenizer is used")
    parser.add_argument("--intermediate", type=Path, required=True, help="folder of the intermediate tasks' files")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_100_000], help="sizes to build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="result file (.jsonl), appended to")
    given = parser.parse_args(argv)
    os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="true")  # read at the tokenizer's first batch
    about = {"machine": machine(), "time": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    for result in measurements(given):
        print(line(result), flush=True)
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**result, **about}) + "\n")
    return 0
