"""A real two-node Slurm cluster: the plan as jobs, and everything that can happen to a job.

Steps are not slowed down and no sleep decides: each disturbance waits for a sign that the run itself gives.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ranks
import slurm_cluster
from slurm_cluster import Cluster

pytestmark = pytest.mark.skipif(slurm_cluster.why_not() is not None, reason=str(slurm_cluster.why_not()))

STEPS = 400
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
PROFILE = 'nodes: 2\nntasks_per_node: 1\ntime: "00:30:00"\nstop_seconds: 60\n'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study on two ranks of this machine, without Slurm."""
    folder = tmp_path_factory.mktemp("local")
    stilts(folder, None, "run", "study.yaml")
    return folder / "runs" / "study"


def stilts(folder: Path, cluster: Cluster | None, *arguments: object, fails: bool = False) -> str:
    (folder / "study.yaml").write_text(RECIPE)
    if not (folder / "profile.yaml").exists():
        (folder / "profile.yaml").write_text(PROFILE)
    environment = {**(cluster.environment if cluster else {}), **ranks.environment()}
    done = subprocess.run(
        [sys.executable, "-m", "stilts_launcher.cli", *map(str, arguments)],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def until(sign: Callable[[], Any], what: str, run: Path, seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := sign()):
        logs = "\n".join(p.read_text()[-2000:] for p in sorted((run / "logs").glob("*.log")))
        assert time.monotonic() < deadline, f"waited in vain for: {what}\n{logs}"
        time.sleep(0.2)
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


def jobs(run: Path) -> dict[str, str]:
    return json.loads((run / "jobs" / "jobs.json").read_text())["jobs"]


def row(shown: str, phase: str) -> str:
    return next(line for line in shown.splitlines() if line.startswith(phase))


def rank_pids(run: Path, phase: str) -> list[int]:
    """The rank processes of a phase (not the shells and daemons above them)."""
    listing = subprocess.run(["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True).stdout
    wanted = re.compile(rf"^\s*(\d+) \S*python\S* -m stilts_launcher\.rank {re.escape(str(run))} {phase}")
    return [int(m[1]) for m in map(wanted.match, listing.splitlines()) if m]


def scores(run: Path) -> dict[str, Any]:
    files = sorted((run / "phases").glob("*/results/*.json"))
    return {f"{p.parts[-3]}/{p.name}": json.loads(p.read_text())["languages"] for p in files}


def test_a_job_survives_what_a_cluster_does_to_it(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    """A killed rank, a preemption, a lost node and a cancellation, one after the other; then every number is as on one
    quiet machine."""
    shown = stilts(tmp_path, cluster, "submit", "study.yaml", "--cluster", "profile.yaml")
    assert len(shown.strip().splitlines()) == 6, shown
    run = tmp_path / "runs" / "study"
    first, *_ = [p for p in jobs(run) if p.startswith("intermediate")]
    child = next(p["id"] for p in json.loads((run / "plan.json").read_text())["phases"] if p["init"] == first)
    batch = run / "logs" / f"study-intermediate-{jobs(run)[first]}.log"

    # A rank dies: the ranks start again inside the allocation.
    until(reached(run, first, 24), "step 24", run)
    assert "running" in row(stilts(tmp_path, cluster, "status", run), first)
    os.kill(rank_pids(run, first)[1], signal.SIGKILL)
    until(lambda: "attempt 1 of" in batch.read_text(), "a second attempt", run)
    until(reached(run, first, 64), "step 64", run)

    # The signal that Slurm sends before the time limit: saved, queued again, continued.
    cluster.run("scancel", "--signal=USR1", jobs(run)[first], check=True)
    until(lambda: state(run, first) == "stopped:SIGUSR1", "the status of a preempted phase", run)
    saved = sorted((run / "phases" / first / "checkpoints").glob("step-*/manifest.json"))[-1]
    at = int(saved.parent.name.split("-")[1])
    waiting = row(stilts(tmp_path, cluster, "status", run), first)
    assert "queued" in waiting or "running" in waiting, waiting
    until(lambda: state(run, first) == "running", "the job to be started again", run)
    until(lambda: f"continuing after step {at}" in batch.read_text(), f"a start at step {at}: none repeated", run)
    until(reached(run, first, at + 40), "steps after the preemption", run)

    # A node is lost: Slurm queues the job again and it goes on when there are two nodes again.
    before = batch.read_text().count("continuing after step")
    cluster.kill_node("n1")
    until(lambda: "PENDING" in cluster.run("squeue", "-h", "-r", "-j", jobs(run)[first], "-o", "%T"), "requeue", run)
    cluster.start_node("n1")
    until(lambda: batch.read_text().count("continuing after step") > before, "a start after the lost node", run)
    until(reached(run, first, at + 60), "steps after the lost node", run)

    # Cancelled: it saves and stays so, and what waited for it goes away.
    stilts(tmp_path, cluster, "cancel", run)
    until(lambda: state(run, first) == "stopped:SIGTERM", "the status of a cancelled phase", run)
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue", run)
    shown = stilts(tmp_path, cluster, "status", run)
    assert "stopped" in row(shown, first) and "by SIGTERM" in row(shown, first), shown
    assert "not run" in row(shown, child) and first in row(shown, child), shown

    # Retry picks up what is missing, and nothing else.
    shown = stilts(tmp_path, cluster, "retry", run)
    assert "study-intermediate: 1 phases" in shown and "study-report" in shown
    until(lambda: not cluster.run("squeue", "-h"), "the end", run)
    assert "nothing to submit" in stilts(tmp_path, cluster, "retry", run)
    shown = stilts(tmp_path, cluster, "status", run)
    assert "5 of 5 phases done" in shown, shown

    assert curve(run, first) == curve(undisturbed, first) and len(curve(run, first)) == STEPS
    assert scores(run) == scores(undisturbed) and len(scores(run)) == 4
    assert "| mnli |" in (run / "report.md").read_text()


def test_a_failed_phase_stops_what_needs_it_and_says_why(cluster: Cluster, tmp_path: Path) -> None:
    """Every step's gradient is infinite: the phase fails, is not started for ever, and its children never start."""
    shown = stilts(tmp_path, cluster, "submit", "study.yaml", "intermediate_training.learning_rate=1e30",
                   "intermediate={mnli: [mnli]}", "--cluster", "profile.yaml")
    run = tmp_path / "runs" / "study"
    phases = {p["id"]: p for p in json.loads((run / "plan.json").read_text())["phases"]}
    first = next(p for p in phases if p.startswith("intermediate"))
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue", run)
    shown = stilts(tmp_path, cluster, "status", run)
    assert "failed" in row(shown, first) and "non-finite" in row(shown, first), shown
    for phase in phases:
        if phases[phase]["init"]:
            assert "not run" in row(shown, phase) and not (run / "phases" / phase).exists(), shown
    assert "non-finite" in stilts(tmp_path, cluster, "logs", run)


def test_a_refused_submission_leaves_nothing_in_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE + "jobs: {target: {partition: nonesuch}}\n")
    shown = stilts(tmp_path, cluster, "submit", "study.yaml", "--cluster", "profile.yaml", fails=True)
    assert "sbatch refused" in shown and "partition" in shown and "Traceback" not in shown, shown
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue", tmp_path / "runs" / "study", 30)


def test_two_submissions_of_one_recipe_make_one_set_of_jobs(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE + "extra: [--hold]\n")
    (tmp_path / "study.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "stilts_launcher.cli", "submit", "study.yaml", "--cluster", "profile.yaml"]
    environment = {**cluster.environment, **ranks.environment()}
    both = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    run = tmp_path / "runs" / "study"
    queued = cluster.run("squeue", "-h", "-r", "-o", "%i %j").splitlines()
    assert len(queued) == 6 and len(set(jobs(run).values())) == 6, queued
    told = [o for o in outputs if "another stilts is at work" in o or "nothing to submit" in o]
    assert len(told) == 1, outputs
    shown = stilts(tmp_path, cluster, "status", run)
    assert shown.count("held by its user") >= 3, shown
    stilts(tmp_path, cluster, "cancel", run)
    assert not cluster.run("squeue", "-h")
