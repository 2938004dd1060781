"""A real two-node Slurm cluster with a site's habits: preemption with grace, `--export=NONE`, submission from a job,
GPUs that are shown to ranks one by one."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import slurm_cluster
import study
from slurm_cluster import Cluster
from study import until

from stilts_ds.engine.preflight import shared_gpu
from stilts_ds.run_dir import RunDir

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.cluster,
    pytest.mark.skipif(slurm_cluster.why_not() is not None, reason=str(slurm_cluster.why_not())),
]
SITE = """PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=20 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=9 PreemptMode=OFF MaxTime=INFINITE State=UP
"""
# What a job leaves in the environment of everything that is started from it.
INSIDE_A_JOB = {
    "SLURM_JOB_ID": "998",
    "SLURM_ARRAY_JOB_ID": "999",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_RESTART_COUNT": "50",
    "SLURM_CPUS_PER_GPU": "7",
    "SRUN_CPUS_PER_TASK": "7",
}
# Defaults of a user for other work.
HABITS = {"SBATCH_EXPORT": "NONE", "SBATCH_NO_REQUEUE": "1", "SBATCH_OPEN_MODE": "t", "SBATCH_ARRAY_INX": "0-1"}
STUB, GPU_STUB = ranks.PROGRAMS / "stub_rank.py", ranks.PROGRAMS / "gpu_rank.py"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm"), SITE, gpus=2) as found:
        yield found


def submit(
    folder: Path,
    cluster: Cluster,
    setup: str,
    stub: Path = STUB,
    asks: Mapping[str, Any] = {},
    environment: Mapping[str, str] = {},
) -> RunDir:
    """Hand a plan of a retrieval phase behind an intermediate phase in, whose ranks are stubs. `asks` is more of the
    cluster profile, `environment` what the one who submits has besides."""
    python = folder / "python"
    real = shlex.quote(sys.executable)
    python.write_text(
        f'#!/bin/bash\ncase " $* " in *" stilts_launcher.rank "*) shift 2; exec {real} {stub} "$@";; esac\n'
        f'exec {real} "$@"\n'
    )
    python.chmod(0o755)
    profile = {"partition": "low", "nodes": 2, "time": "00:30:00", "python": str(python), **asks}
    profile["setup"] = [f"export SLURM_CONF={cluster.conf}", setup]
    (folder / "profile.yaml").write_text(json.dumps(profile))
    study.stilts(
        folder,
        "submit",
        "study.yaml",
        "targets=[tatoeba]",
        "intermediate={mnli: [mnli]}",
        "--cluster",
        "profile.yaml",
        environment={**cluster.environment, **environment},
    )
    return RunDir(folder / "runs" / "study")


def test_a_sites_habits_cost_no_phase(cluster: Cluster, tmp_path: Path) -> None:
    """Submitted from inside a job by a user of --export=NONE and --no-requeue, preempted with a grace period, continued
    to the end; a copy of the folder that is cancelled meanwhile changes nothing."""
    run = submit(tmp_path, cluster, "true", environment={**HABITS, **INSIDE_A_JOB})
    [first, behind] = study.phase_ids(run.root)
    if not first.startswith("intermediate"):
        first, behind = behind, first
    starts = run.phase(first).root / "starts.json"
    until(starts.exists, "the first start", run.root)
    shutil.copytree(run.root, tmp_path / "copy")
    told = study.stilts(tmp_path, "cancel", tmp_path / "copy", environment=cluster.environment)
    assert "no job of this run is in the queue" in told

    job = json.loads((run.jobs / "jobs.json").read_text())["jobs"][first]
    [given] = json.loads(starts.read_text())
    assert given["STILTS_RUN_TOKEN"] == f"{job}.0.0" and given["PYTHONPATH"].startswith(f"{run.jobs}/code-")
    assert given["HF_HUB_OFFLINE"] == "1" and not {"SLURM_CPUS_PER_GPU", "SRUN_CPUS_PER_TASK"} & set(given)

    cluster.run("sbatch", "-p", "high", "-N2", "--exclusive", "-t", "5", "--wrap", "sleep 4", check=True)
    until(lambda: study.state(run.root, first) == "stopped:SIGTERM", "the ranks to have saved", run.root)
    until(lambda: len(json.loads(starts.read_text())) == 2, "the second start", run.root)
    second = json.loads(starts.read_text())[1]
    assert second["STILTS_RUN_TOKEN"] == f"{job}.1.1"
    until(lambda: study.state(run.root, first) == "done", "the end of the preempted phase", run.root)
    until((run.phase(behind).root / "starts.json").exists, "the phase behind it", run.root)
    study.stilts(tmp_path, "cancel", run.root, environment=cluster.environment)
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue", run.root)
    assert study.state(run.root, behind) == "stopped:SIGTERM"


def test_a_line_of_setup_that_fails_is_shown_in_its_own_words(cluster: Cluster, tmp_path: Path) -> None:
    run = submit(tmp_path, cluster, "modul load cuda/12.4")
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue", run.root)
    for command in ("status", "logs"):
        told = study.stilts(tmp_path, command, run.root, environment=cluster.environment)
        assert "modul: command not found" in told, told


def test_the_cores_of_a_rank_are_slurms_choice_where_nothing_was_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    script, shows = tmp_path / "job.sh", tmp_path / "shows"
    shows.write_text("#!/bin/bash\nenv\n")
    shows.chmod(0o755)
    code = "from stilts_launcher.backends.slurm import Slurm; from stilts_launcher.cluster import Profile; import os; "
    code += f"Slurm().start_ranks([], Profile(), {{**os.environ, 'STILTS_PYTHON': '{shows}'}})"
    lines = ["#!/bin/bash", f"export PYTHONPATH={ranks.environment()['PYTHONPATH']}", f'{sys.executable} -c "{code}"']
    script.write_text("\n".join(lines) + "\n")
    seen = {}
    for name, options in {"asked": ["-c", "2"], "unset": []}.items():
        out = tmp_path / f"{name}.out"
        command = ["sbatch", "--wait", "-p", "low", "-N1", *options, "-o", str(out), str(script)]
        subprocess.run(command, env=cluster.environment, check=False, capture_output=True, timeout=400)
        seen[name] = [line for line in out.read_text().splitlines() if line.startswith("SRUN_CPUS_PER_TASK=")]
    assert seen == {"asked": ["SRUN_CPUS_PER_TASK=2"], "unset": []}


ONE_BY_ONE = ["--gpus-per-task=1", "--gpu-bind=single:1"]


@pytest.mark.parametrize("extra", [ONE_BY_ONE, []], ids=["one by one", "all"])
def test_each_rank_takes_a_gpu_of_its_own_however_they_are_shown(
    extra: list[str], cluster: Cluster, tmp_path: Path
) -> None:
    """A site may show each rank just one GPU, under any number, or all of its node to each."""
    asks = {"nodes": 1, "gpus_per_node": 2, "extra": extra}
    run = submit(tmp_path, cluster, "true", stub=GPU_STUB, asks=asks)
    [first] = [phase for phase in study.phase_ids(run.root) if phase.startswith("intermediate")]
    until(lambda: study.state(run.root, first) in ("done", "failed"), "the end of the phase", run.root)
    study.stilts(tmp_path, "cancel", run.root, environment=cluster.environment)
    seen = [json.loads((run.phase(first).root / f"gpu-{rank}.json").read_text()) for rank in range(2)]
    visible = [fact["visible"] for fact in seen]
    if extra:
        assert all(len(shown.split(",")) == 1 for shown in visible) and [fact["index"] for fact in seen] == [0, 0]
    else:
        assert visible == ["0,1", "0,1"] and [fact["index"] for fact in seen] == [0, 1]
    assert len({fact["gpu"] for fact in seen}) == 2 and shared_gpu(seen) is None
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue", run.root)


def test_the_batch_script_of_mining_starts_a_rank_for_each_task(cluster: Cluster, tmp_path: Path) -> None:
    """Two ranks on two nodes write what one process writes."""
    beside = Path(sys.executable).parent
    if not (beside / "stilts").exists():
        pytest.skip("the `stilts` command is not installed beside this Python")
    generator = np.random.default_rng(1)
    for name in ("x", "y"):
        np.save(tmp_path / f"{name}.npy", generator.normal(size=(200, 16)).astype(np.float32))
    study.stilts(tmp_path, "mine", "x.npy", "y.npy", "-o", "one.tsv")
    place = {**ranks.environment(), **cluster.environment, "PYTHONPATH": ranks.environment()["PYTHONPATH"]}
    place["PATH"] = f"{beside}:{place['PATH']}"
    script, log = ranks.ROOT / "slurm" / "mine.sbatch", tmp_path / "job.log"
    command = ["sbatch", "--wait", "-p", "low", "-N2", "--ntasks-per-node=1", "-o", str(log), str(script)]
    done = subprocess.run(
        [*command, "mine", "x.npy", "y.npy", "-o", "two.tsv"], cwd=tmp_path, env=place, capture_output=True, timeout=240
    )
    assert done.returncode == 0, log.read_text()
    assert (tmp_path / "two.tsv").read_bytes() == (tmp_path / "one.tsv").read_bytes()
    assert not (tmp_path / "two.tsv.work").exists()
    done = subprocess.run([*command, "fetch"], cwd=tmp_path, env=place, capture_output=True, timeout=400)
    assert done.returncode == 2 and "usage: sbatch" in log.read_text()
