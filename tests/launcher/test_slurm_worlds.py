"""One allocation of a real two-node Slurm cluster, divided into worlds that work through all phases of a run."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import slurm_cluster
import study
from slurm_cluster import Cluster
from study import curve, label, rank_pids, reached, row, scores, state, until

from stilts_ds.run_dir import RunDir

NO_CLUSTER = slurm_cluster.why_not()
# Two ranks a world, on one node: as many as the undisturbed run on one machine has.
PROFILE = 'nodes: 2\ngpus_per_node: 2\nworlds: 2\ntime: "00:30:00"\nstop_seconds: 60\n'
STEPS = 100
SHORT = (f"intermediate_training.max_steps={STEPS}", "intermediate_training.save_steps=4")


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.skipif(NO_CLUSTER is not None, reason=str(NO_CLUSTER))
def test_worlds_share_an_allocation_through_a_kill_and_a_time_limit(cluster_with_gpus: Cluster, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE)
    study.stilts(tmp_path, "run", "study.yaml", *SHORT, "output_dir=undisturbed")
    undisturbed = tmp_path / "undisturbed" / "study"

    def stilts(*arguments: object, fails: bool = False) -> str:
        return study.stilts(tmp_path, *arguments, fails=fails, environment=cluster_with_gpus.environment)

    shown = stilts("submit", "study.yaml", *SHORT, "--cluster", "profile.yaml")
    run = tmp_path / "runs" / "study"
    jobs = json.loads((run / "jobs" / "jobs.json").read_text())["jobs"]
    assert "study-phases: all phases, side by side" in shown and len(set(jobs.values())) == 3, shown
    [first] = [phase for phase in jobs if phase.startswith("intermediate")]
    batch = run / "logs" / f"study-phases-{jobs[first]}.log"

    # Two steps side by side, each with two ranks and both GPUs of one node.
    until(lambda: len(list((run / "leases").glob("[!.]*"))) == 2, "two phases at work", run)
    until(reached(run, first, 8), "step 8", run)
    steps = cluster_with_gpus.run("squeue", "-h", "-s", "-j", jobs[first], "-o", "%i %N").splitlines()
    places = [step.split()[1] for step in steps if "batch" not in step and "extern" not in step]
    assert places and set(places) <= set(slurm_cluster.NODES), steps
    shown = stilts("status", run)
    assert "running" in row(run, shown, first) and "waits its turn in its job" in shown, shown
    assert f"is worked on in job {jobs[first]} with other phases" in stilts("cancel", run, first, fails=True)

    # A rank dies: its world starts the phase again, the other world goes on.
    os.kill(rank_pids(run, first)[1], signal.SIGKILL)
    until(lambda: f"{label(run, first)}: attempt 1 of job" in batch.read_text(), "a second attempt", run)
    until(reached(run, first, 20), "step 20", run)

    # The signal before the time limit: all is saved, the job is queued again and continues with its queue.
    cluster_with_gpus.run("scancel", "--signal=USR1", jobs[first], check=True)
    until(lambda: "goes back into the queue, to be continued" in batch.read_text(), "the requeue", run)
    assert "stopped:SIGUSR1" in batch.read_text()
    phases = study.phase_ids(run)
    until(lambda: all(state(run, phase) == "done" for phase in phases), "the end of all phases", run, 600)
    until(lambda: (run / "report.md").exists(), "the report", run)
    assert "5 of 5 phases done" in stilts("status", run)
    said = batch.read_text()
    # No target before its encoder.
    done = re.findall(r"^\S+ (\S+) is done$", said, re.MULTILINE)
    assert done.index(label(run, first)) < min(done.index(name) for name in done if name.startswith("mnli/seed1/x"))
    assert curve(run, first) == curve(undisturbed, first) and len(curve(run, first)) == STEPS
    assert scores(run) == scores(undisturbed) and len(scores(run)) == 4
    assert not list(RunDir(run).root.glob("worlds/*")) and not list((run / "leases").iterdir())
