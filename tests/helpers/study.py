"""A small study in the toy world for tests that disturb real runs, and the signs that such a run gives.

Steps are not slowed down and no sleep decides: each disturbance waits for a sign.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import forked
import ranks

from stilts_ds.plan_file import Plan

STEPS = 300
RECIPE = f"""
name: study
model: {{name_or_path: toy, dropout: 0.1}}
data: {{source: toy, max_train_examples: 400}}
intermediate: {{none: [], mnli: [mnli]}}
targets: [xnli, tatoeba]
intermediate_training: {{max_steps: {STEPS}, train_batch_size: 16, save_steps: 20, logging_steps: 4, eval_examples: 40}}
target_training: {{max_steps: 10, train_batch_size: 16, save_steps: 0, eval_examples: 40}}
evaluation: {{max_examples: 40}}
launch: {{nproc: 2, omp_num_threads: 1}}
engine: {{zero_stage: 2}}
"""


def stilts(folder: Path, *arguments: object, fails: bool = False, environment: Mapping[str, str] = {}) -> str:
    """Output of one `stilts` command in `folder`, where study.yaml is."""
    process: Any
    if not environment:  # nobody strikes it, and no library has to read anything of its own: it needs no program
        write_recipe(folder)
        process = forked.stilts(folder, arguments)
        output = process.output
    else:
        process = start(folder, [sys.executable, "-m", "stilts_launcher.cli", *map(str, arguments)], environment)
        output = process.communicate(timeout=400)[0]
    assert (process.returncode != 0) == fails, output
    return output


def start(folder: Path, command: list[str], environment: Mapping[str, str] = {}) -> subprocess.Popen[str]:
    write_recipe(folder)
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**ranks.environment(), **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def write_recipe(folder: Path) -> None:
    (folder / "study.yaml").write_text(RECIPE)


def until(sign: Callable[[], Any], what: str, run: Path, seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := sign()):
        logs = "\n".join(p.read_text()[-2000:] for p in sorted((run / "logs").glob("*.log")))
        assert time.monotonic() < deadline, f"waited in vain for: {what}\n{logs}"
        time.sleep(0.05)
    return found


def state(run: Path, phase: str) -> str:
    path = run / "phases" / phase / "status.json"
    return json.loads(path.read_text())["state"] if path.exists() else "pending"


def curve(run: Path, phase: str) -> list[tuple[int, float]]:
    path = run / "phases" / phase / "metrics.jsonl"
    lines = [line for line in path.read_text().split("\n") if line] if path.exists() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # being written
    return [(r["step"], r["train/loss"]) for r in records if "train/loss" in r]


def reached(run: Path, phase: str, step: int) -> Callable[[], bool]:
    return lambda: any(at >= step for at, _ in curve(run, phase)[-1:])


def rank_pids(run: Path, phase: str = "") -> list[int]:
    """The rank processes of a run or of one of its phases (not the shells and daemons above them)."""
    listing = subprocess.run(["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True).stdout
    wanted = re.compile(rf"^\s*(\d+) \S*python\S* -m stilts_launcher\.rank {re.escape(str(run))}(?: {phase}|$)")
    return [int(m[1]) for m in map(wanted.match, listing.splitlines()) if m]


def scores(run: Path) -> dict[str, Any]:
    files = sorted((run / "phases").glob("*/results/*.json"))
    return {f"{p.parts[-3]}/{p.name}": json.loads(p.read_text())["languages"] for p in files}


def phase_ids(run: Path) -> list[str]:
    return [p["id"] for p in json.loads((run / "plan.json").read_text())["phases"]]


def label(run: Path, phase: str) -> str:
    """The name that people read of a phase; other words (`report`) are names already."""
    return {planned.id: planned.label for planned in Plan.load(run / "plan.json").phases}.get(phase, phase)


def row(run: Path, shown: str, phase: str) -> str:
    """The line of a phase in what `stilts status` shows."""
    return next(line for line in shown.splitlines() if line.split()[:1] == [label(run, phase)])
