"""A real two-node Slurm cluster: the plan as jobs, and everything that can happen to a job."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
import study
from slurm_cluster import Cluster
from study import curve, label, rank_pids, reached, row, scores, state, until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(slurm_cluster.why_not() is not None, reason=str(slurm_cluster.why_not())),
]

PROFILE = 'nodes: 2\nntasks_per_node: 1\ntime: "00:30:00"\nstop_seconds: 60\n'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def stilts(folder: Path, cluster: Cluster, *arguments: object, fails: bool = False) -> str:
    if not (folder / "profile.yaml").exists():
        (folder / "profile.yaml").write_text(PROFILE)
    return study.stilts(folder, *arguments, fails=fails, environment=cluster.environment)


def jobs(run: Path) -> dict[str, str]:
    return json.loads((run / "jobs" / "jobs.json").read_text())["jobs"]


@pytest.mark.long
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
    assert "running" in row(run, stilts(tmp_path, cluster, "status", run), first)
    os.kill(rank_pids(run, first)[1], signal.SIGKILL)
    until(lambda: "continuing after step" in batch.read_text().partition("attempt 1 of")[2], "a second attempt", run)
    until(reached(run, first, 64), "step 64", run)

    # The signal that Slurm sends before the time limit: saved, queued again, continued.
    cluster.run("scancel", "--signal=USR1", jobs(run)[first], check=True)
    until(lambda: state(run, first) == "stopped:SIGUSR1", "the status of a preempted phase", run)
    saved = sorted((run / "phases" / first / "checkpoints").glob("step-*/manifest.json"))[-1]
    at = int(saved.parent.name.split("-")[1])
    waiting = row(run, stilts(tmp_path, cluster, "status", run), first)
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
    assert "stopped" in row(run, shown, first) and "by SIGTERM" in row(run, shown, first), shown
    assert "not run" in row(run, shown, child) and label(run, first) in row(run, shown, child), shown

    # Retry picks up what is missing, and nothing else.
    shown = stilts(tmp_path, cluster, "retry", run)
    assert "study-intermediate: 1 phase\n" in shown and "study-report" in shown
    until(lambda: not cluster.run("squeue", "-h"), "the end", run)
    assert "nothing to submit" in stilts(tmp_path, cluster, "retry", run)
    shown = stilts(tmp_path, cluster, "status", run)
    assert "5 of 5 phases done" in shown, shown

    assert curve(run, first) == curve(undisturbed, first) and len(curve(run, first)) == study.STEPS
    assert scores(run) == scores(undisturbed) and len(scores(run)) == 4
    assert "| mnli |" in (run / "report.md").read_text()


@pytest.mark.long
def test_a_failed_phase_stops_what_needs_it_and_says_why(cluster: Cluster, tmp_path: Path) -> None:
    """Every step's gradient is infinite: the phase fails, is not started for ever, and its children never start."""
    shown = stilts(
        tmp_path,
        cluster,
        "submit",
        "study.yaml",
        "intermediate_training.learning_rate=1e30",
        "intermediate={mnli: [mnli]}",
        "--cluster",
        "profile.yaml",
    )
    run = tmp_path / "runs" / "study"
    phases = {p["id"]: p for p in json.loads((run / "plan.json").read_text())["phases"]}
    first = next(p for p in phases if p.startswith("intermediate"))
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue", run)
    shown = stilts(tmp_path, cluster, "status", run)
    assert "failed" in row(run, shown, first) and "non-finite" in row(run, shown, first), shown
    for phase in phases:
        if phases[phase]["init"]:
            assert "not run" in row(run, shown, phase) and not (run / "phases" / phase).exists(), shown
    assert "non-finite" in stilts(tmp_path, cluster, "logs", run)


def test_a_refused_submission_leaves_nothing_in_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE + "jobs: {target: {partition: nonesuch}}\n")
    shown = stilts(tmp_path, cluster, "submit", "study.yaml", "--cluster", "profile.yaml", fails=True)
    assert "sbatch refused" in shown and "partition" in shown and "Traceback" not in shown, shown
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue", tmp_path / "runs" / "study", 30)


def test_two_submissions_of_one_recipe_make_one_set_of_jobs(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE + "extra: [--hold]\n")
    command = [sys.executable, "-m", "stilts_launcher.cli", "submit", "study.yaml", "--cluster", "profile.yaml"]
    both = [study.start(tmp_path, command, cluster.environment) for _ in range(2)]
    outputs = [process.communicate(timeout=400)[0] for process in both]
    run = tmp_path / "runs" / "study"
    queued = cluster.run("squeue", "-h", "-r", "-o", "%i %j").splitlines()
    assert len(queued) == 6 and len(set(jobs(run).values())) == 6, queued
    told = [o for o in outputs if "another stilts is at work" in o or "nothing to submit" in o]
    assert len(told) == 1, outputs
    shown = stilts(tmp_path, cluster, "status", run)
    assert shown.count("held by its user") >= 3, shown
    stilts(tmp_path, cluster, "cancel", run)
    assert not cluster.run("squeue", "-h")


@pytest.mark.long
def test_a_job_that_keeps_crashing_stops_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    """The ranks get too little memory to start: two attempts without progress are enough."""
    (tmp_path / "profile.yaml").write_text(PROFILE + 'setup: ["ulimit -v 1200000"]\n')
    stilts(
        tmp_path,
        cluster,
        "submit",
        "study.yaml",
        "intermediate={none: []}",
        "targets=[tatoeba]",
        "--cluster",
        "profile.yaml",
    )
    run = tmp_path / "runs" / "study"
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue", run)
    [phase] = study.phase_ids(run)
    text = (run / "logs" / f"study-target-none-{jobs(run)[phase]}.log").read_text()
    assert text.count(": attempt ") == 2 and "two starts in a row made no progress" in text, text
    assert "failed" in row(run, stilts(tmp_path, cluster, "status", run), phase)
