"""`stilts prepare`: rows are made once, by however many processes, and before any job that asks for GPUs."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import slurm_cluster
import study
from slurm_cluster import Cluster
from stilts_launcher.cluster import Profile

NO_CLUSTER = slurm_cluster.why_not()


def row_folders(run: Path) -> dict[str, int]:
    """Folders of rows and their inodes."""
    return {path.parent.name: path.parent.stat().st_ino for path in (run / "cache").glob("*/manifest.json")}


@pytest.mark.processes
@pytest.mark.long
def test_two_nodes_divide_the_rows_and_a_run_then_makes_none(tmp_path: Path) -> None:
    shown = study.stilts(tmp_path, "plan", "study.yaml")
    run = tmp_path / "runs" / "study"
    command = [sys.executable, "-m", "stilts_launcher.cli", "prepare", str(run), "--processes", "2"]
    nodes = [study.start(tmp_path, command) for _ in range(2)]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    sets = [line for line in outputs[0].splitlines() if line.endswith(": ready")]
    assert "xnli test qab: ready" in sets and len(sets) == len(set(sets))
    assert all(f"{len(sets)} sets of rows ready for {run}" in output for output in outputs), outputs
    made = row_folders(run)
    assert made and not list((run / "cache").glob("*.lease"))
    shown = study.stilts(tmp_path, "run", "study.yaml", "-v")
    assert "are made" not in shown and row_folders(run) == made


@pytest.mark.processes
def test_a_bad_row_is_named_before_any_phase_runs(tmp_path: Path) -> None:
    study.stilts(tmp_path, "plan", "study.yaml")
    run = tmp_path / "runs" / "study"
    [path] = (run / "data" / "xtreme" / "xnli").glob("test-qab.tsv")
    path.write_text("no columns\n" + path.read_text())
    # A process of its own: what tests fork may have no children.
    own_process = {"PYTHONUNBUFFERED": "1"}
    shown = study.stilts(tmp_path, "prepare", run, "--processes", "1", fails=True, environment=own_process)
    assert f"error: {path}:" in shown and "Traceback" not in shown


@pytest.mark.processes
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--processes", "0"], "--processes=0: give at least 1"),
        (["seeds=[1]"], "is planned already; give its recipe to plan it anew"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], problem: str, tmp_path: Path) -> None:
    study.stilts(tmp_path, "plan", "study.yaml")
    assert problem in study.stilts(tmp_path, "prepare", tmp_path / "runs" / "study", *words, fails=True)


def worker_of(parent: int) -> int | None:
    """A process of the pool of a `stilts prepare`; None before there is one."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None


@pytest.mark.processes
@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_a_killed_process_is_named_and_leaves_none_behind(victim: str, tmp_path: Path) -> None:
    study.stilts(tmp_path, "plan", "study.yaml")
    run = tmp_path / "runs" / "study"
    command = [sys.executable, "-m", "stilts_launcher.cli", "prepare", str(run), "--processes", "1"]
    parent = study.start(tmp_path, command)
    worker = study.until(lambda: worker_of(parent.pid), "a process that makes rows", run)
    os.kill(worker if victim == "worker" else parent.pid, signal.SIGKILL)
    shown = parent.communicate(timeout=100)[0]
    if victim == "worker":
        assert "one of 1 processes was killed" in shown and "Traceback" not in shown and parent.returncode == 2
    study.until(lambda: not Path(f"/proc/{worker}").exists(), "the end of the process", run)


def test_the_job_that_makes_rows_asks_for_the_cores_of_a_node_and_for_no_gpu() -> None:
    profile = Profile(
        partition="gpu", gpus_per_node="a100:4", cpus_per_task=8, nodes=2, constraint="nvlink", extra=["--x=1"],
        jobs={"report": {"partition": "cpu"}},
    )  # fmt: skip
    asked = profile.resources("prepare")
    assert (asked.gpus_per_node, asked.nodes, asked.tasks, asked.cpus_per_task) == (0, 1, 1, 32)
    assert (asked.partition, asked.constraint, asked.extra) == ("cpu", None, [])
    own = profile.model_copy(update={"jobs": {"prepare": {"partition": "fat", "nodes": 4}}}).resources("prepare")
    assert (own.partition, own.nodes) == ("fat", 4)
    assert profile.prepares and not Profile(nodes=2).prepares
    assert Profile(jobs={"target": {"gpus_per_node": 1}}).prepares


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.skipif(NO_CLUSTER is not None, reason=str(NO_CLUSTER))
def test_on_a_cluster_rows_are_made_before_phases_that_ask_for_gpus(cluster_with_gpus: Cluster, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text("gpus_per_node: 1\ntime: '00:30:00'\nstop_seconds: 60\n")
    command = ["submit", "study.yaml", "intermediate={none: []}", "--cluster", "profile.yaml"]
    shown = study.stilts(tmp_path, *command, environment=cluster_with_gpus.environment)
    run = tmp_path / "runs" / "study"
    jobs = json.loads((run / "jobs" / "jobs.json").read_text())["jobs"]
    assert "study-prepare: the rows of all phases, on CPUs" in shown
    assert f"study-target-none: 2 phases after {jobs['prepare']}" in shown
    study.until(lambda: not cluster_with_gpus.run("squeue", "-h"), "the end", run)
    shown = study.stilts(tmp_path, "status", run, environment=cluster_with_gpus.environment)
    assert "2 of 2 phases done" in shown, shown
    prepared = (run / "logs" / f"study-prepare-{jobs['prepare']}.log").read_text()
    assert "sets of rows ready" in prepared
    logs = [path.read_text() for path in (run / "logs").rglob("*.log") if "prepare" not in path.name]
    assert len(logs) > 2 and not any("are made" in text for text in logs)
