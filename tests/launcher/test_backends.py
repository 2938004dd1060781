"""Every launcher keeps one contract, and another one than Slurm is one file and its entry in the registry."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import process_launcher
import pytest
import ranks
import slurm_cluster
import study
from process_launcher import Processes
from stilts_launcher.backends import registry
from stilts_launcher.backends.base import Job, Launcher
from stilts_launcher.backends.registry import COMMON, LAUNCHERS, load_profile
from stilts_launcher.backends.slurm import Slurm
from stilts_launcher.cluster import Profile
from stilts_launcher.submit import check_backend, identity
from study import label, reached, row, state, until

from stilts_ds.errors import UserError
from stilts_ds.run_dir import RunDir, write_json

pytestmark = pytest.mark.cluster

STUB = ranks.PROGRAMS / "stub_job.py"
EVERY: dict[str, Launcher] = {**LAUNCHERS, "processes": Processes()}
FUNCTIONS = [name for name, member in vars(Launcher).items() if inspect.isfunction(member) and name[0] != "_"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Cluster]:
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of jobs as processes; none outlives the test."""
    monkeypatch.setenv("PROCESSES", str(tmp_path / "spool"))
    yield tmp_path / "spool"
    Processes().cancel(list(Processes().queue()))


@pytest.fixture(params=["processes", "slurm"])
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """A launcher that works here, with nothing in its queue; Slurm's is a real cluster."""
    if request.param == "slurm":
        if slurm_cluster.why_not() is not None:
            pytest.skip(str(slurm_cluster.why_not()))
        for name, value in request.getfixturevalue("cluster").environment.items():
            monkeypatch.setenv(name, value)
    request.getfixturevalue("spool")
    return EVERY[request.param]


def run_folder(folder: Path, launcher: Launcher) -> Path:
    """A run folder whose jobs start the stub in place of Python."""
    run = folder / "run with a space"
    for name in ("logs", "jobs", "tell"):
        (run / name).mkdir(parents=True)
    python = run / "python"
    python.write_text(f'#!/bin/bash\nexec {shlex.quote(sys.executable)} {shlex.quote(str(STUB))} "$@"\n')
    python.chmod(0o755)
    kind = type(launcher)
    path = os.pathsep.join([ranks.environment()["PYTHONPATH"], str(ranks.ROOT / "tests")])
    lines = {"STILTS_PYTHON": str(python), "PYTHONPATH": path, "STUB_LAUNCHER": f"{kind.__module__}:{kind.__name__}"}
    (run / "jobs" / "setup.sh").write_text("".join(f"export {k}={shlex.quote(v)}\n" for k, v in lines.items()))
    return run


PROFILE = Profile(ntasks_per_node=1)


def test_a_job_waits_runs_is_continued_and_ends(launcher: Launcher, tmp_path: Path) -> None:
    """Phases of one job run side by side; what waits for one that ended well starts, what waits for one that failed
    never does, and the report tells of both."""
    run = run_folder(tmp_path, launcher)
    log = run / "logs"
    parents = launcher.submit(Job("intermediate", "study-parents", run, ("good", "bad")), PROFILE)
    good, bad = parents.phase_ids
    child = launcher.submit(Job("target", "study-child", run, ("child",), (good,)), PROFILE)
    orphan = launcher.submit(Job("target", "study-orphan", run, ("orphan",), (bad,)), PROFILE)
    waited_for = (good, bad, *child.phase_ids, *orphan.phase_ids)
    report = launcher.submit(Job("report", "study-report", run, (), waited_for), PROFILE)
    assert len({*waited_for, report.id}) == 5 and report.phase_ids == ()

    def said(name: str, job: str) -> str:
        path = log / f"{name}-{job}.log"
        return path.read_text() if path.exists() else ""

    until(lambda: f"good in job {good}, restarts 0" in said("study-parents", good), "the first phase", run)
    until(lambda: f"bad in job {bad}, restarts 0" in said("study-parents", bad), "the second phase", run)
    queued = launcher.queue()
    assert set(queued) == {*waited_for, report.id}
    assert not queued[good].waiting and not queued[bad].waiting
    assert queued[child.phase_ids[0]].waiting and queued[child.phase_ids[0]].reason.startswith("waits for")
    assert queued[report.id].waiting

    (run / "tell" / "good").write_text("requeue")
    until(lambda: f"good in job {good}, restarts 1" in said("study-parents", good), "the same job again", run)
    assert launcher.queue()[child.phase_ids[0]].waiting  # what was put back has not ended
    (run / "tell" / "good").write_text("0")
    (run / "tell" / "bad").write_text("1")
    until(lambda: "child in job" in said("study-child", child.phase_ids[0]), "what waited for it", run)
    (run / "tell" / "child").write_text("0")
    until(lambda: "report" in said("study-report", report.id), "the report", run)
    until(lambda: not launcher.queue(), "an empty queue", run)
    assert "orphan in job" not in said("study-orphan", orphan.phase_ids[0])


def test_cancelled_jobs_leave_the_queue_and_what_waits_for_them_never_starts(
    launcher: Launcher, tmp_path: Path
) -> None:
    run = run_folder(tmp_path, launcher)
    parents = launcher.submit(Job("intermediate", "study-parents", run, ("one", "two")), PROFILE)
    child = launcher.submit(Job("target", "study-child", run, ("child",), parents.phase_ids[:1]), PROFILE)
    until(lambda: not launcher.queue()[parents.phase_ids[0]].waiting, "a running job", run)
    launcher.cancel([child.id])
    until(lambda: set(launcher.queue()) == set(parents.phase_ids), "the other jobs alone", run)
    launcher.cancel([parents.id])  # the whole by one id
    until(lambda: not launcher.queue(), "an empty queue", run)
    assert not list((run / "logs").glob("study-child-*"))


@pytest.mark.parametrize("name", EVERY)
def test_a_launcher_has_the_functions_of_the_protocol(name: str) -> None:
    assert len(FUNCTIONS) == 10
    for function in FUNCTIONS:
        expected = inspect.signature(getattr(Launcher, function), eval_str=False)
        assert inspect.signature(getattr(type(EVERY[name]), function), eval_str=False) == expected, function
    assert EVERY[name].settings <= set(Profile.model_fields) - COMMON


@pytest.mark.parametrize("name", EVERY)
def test_a_dry_run_hands_nothing_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the launcher's commands are missing."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("PROCESSES", raising=False)
    job = Job("target", "study", Path("/runs/study"), ("a", "b"))
    told = EVERY[name].submit(job, PROFILE, dry_run_as="JOB1")
    assert told.id == "JOB1" and len(set(told.phase_ids)) == 2 and all(i.startswith("JOB1") for i in told.phase_ids)
    assert told.command[-3:] == ("/runs/study", "a", "b")
    for call in (EVERY[name].queue, lambda: EVERY[name].submit(job, PROFILE)):
        with pytest.raises(UserError):
            call()


@pytest.mark.parametrize("name", EVERY)
def test_a_process_that_no_launcher_started_is_in_no_job_and_no_rank(name: str) -> None:
    with pytest.raises(UserError, match="`stilts submit`"):
        EVERY[name].current_job({})
    assert EVERY[name].place({}) is None


# --- the profile names the launcher ----------------------------------------------------------------------------------


def profile(folder: Path, text: str) -> Path:
    (folder / "cluster.yaml").write_text(text)
    return folder / "cluster.yaml"


def test_a_profile_without_a_backend_is_slurms(tmp_path: Path) -> None:
    assert load_profile(profile(tmp_path, "nodes: 2\n")).backend == "slurm"
    assert isinstance(registry.launcher_of(Profile()), Slurm)


def test_a_run_whose_jobs_are_still_with_another_launcher_is_not_submitted(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAUNCHERS, "processes", EVERY["processes"])
    run = run_folder(tmp_path, EVERY["processes"])
    job = EVERY["processes"].submit(Job("target", "study", run, ("a",)), PROFILE)
    write_json(run / "jobs" / "jobs.json", {"folder": identity(RunDir(run)), "jobs": {"a": job.phase_ids[0]}})
    (run / "jobs" / "profile.yaml").write_text("backend: processes\n")
    with pytest.raises(UserError, match="are still in the queue of 'processes'; `stilts cancel"):
        check_backend(RunDir(run), Profile())
    check_backend(RunDir(run), Profile(backend="processes"))
    (run / "tell" / "a").write_text("0")
    until(lambda: not EVERY["processes"].queue(), "its end", run)
    check_backend(RunDir(run), Profile())


def test_an_unknown_backend_is_refused_with_those_there_are(tmp_path: Path) -> None:
    path = profile(tmp_path, "backend: slrum\n")
    with pytest.raises(UserError) as refusal:
        load_profile(path)
    assert str(refusal.value) == f"{path}: backend: 'slrum' is no launcher; known: slurm"


@pytest.mark.parametrize(
    "key, line",
    [
        ("partition", "partition: gpu"),
        ("nodes", "nodes: 2"),
        ("time", "jobs: {target: {time: '1:00:00'}}"),
        ("container", "container: {runtime: pyxis, image: x}"),
    ],
)
def test_a_key_that_the_launcher_does_not_read_is_refused(
    key: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAUNCHERS, "processes", EVERY["processes"])
    good = "backend: processes\nntasks_per_node: 2\nsetup: [a]\njobs: {report: {ntasks_per_node: 1}}\n"
    assert load_profile(profile(tmp_path, good)).backend == "processes"
    with pytest.raises(UserError, match=f"{key}: the launcher 'processes' does not read this key; it reads backend"):
        load_profile(profile(tmp_path, f"backend: processes\n{line}\n"))


# --- a plan through a launcher that was added ------------------------------------------------------------------------


def add_launcher(folder: Path) -> Path:
    """A copy of launcher/ and slurm/ with one more launcher, added as CONTRIBUTING.md says."""
    for name in ("launcher", "slurm"):
        shutil.copytree(ranks.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    backends = folder / "launcher" / "stilts_launcher" / "backends"
    shutil.copy(process_launcher.__file__, backends / "processes.py")
    text = (backends / "registry.py").read_text()
    entry = '    "slurm": Slurm(),\n'
    assert text.count(entry) == 1
    text = text.replace(entry, f'{entry}    "processes": Processes(),\n')
    line = "from stilts_launcher.backends.slurm import Slurm\n"
    (backends / "registry.py").write_text(
        text.replace(line, f"from stilts_launcher.backends.processes import Processes\n{line}")
    )
    return folder / "launcher"


@pytest.mark.long
def test_a_plan_is_submitted_shown_cancelled_and_retried_through_another_launcher(tmp_path: Path, spool: Path) -> None:
    added = add_launcher(tmp_path / "checkout")
    path = os.pathsep.join([str(added), str(ranks.ROOT), str(ranks.ROOT / "kernels")])
    environment = {"PYTHONPATH": path}

    def stilts(*arguments: object) -> str:
        return study.stilts(tmp_path, *arguments, environment=environment)

    profile(tmp_path, "backend: processes\nntasks_per_node: 2\n")
    few = ["intermediate={mnli: [mnli]}", "targets=[xnli]", "intermediate_training.max_steps=300"]
    shown = stilts("submit", "study.yaml", *few, "--cluster", "cluster.yaml")
    assert "p1  study-intermediate: 1 phase\n" in shown and "study-target-mnli-seed1: 1 phase after p1-0" in shown
    run = tmp_path / "runs" / "study"
    jobs: dict[str, Any] = json.loads((run / "jobs" / "jobs.json").read_text())["jobs"]
    first, child, report = jobs
    assert jobs == {first: "p1-0", child: "p2-0", report: "p3"}
    until(reached(run, first, 24), "step 24", run)
    shown = stilts("status", run)
    assert (
        "running" in row(run, shown, first)
        and "waits for p1-0" in row(run, shown, child)
        and "queued" in row(run, shown, report)
    )
    name = label(run, first)
    assert f"{name}: attempt 0 of job p1-0" in stilts("logs", run, "--lines", 1000)  # its first
    told = json.loads(stilts("status", run, "--json"))
    assert [row["label"] for row in told["rows"]] == ["mnli/seed1/intermediate", "mnli/seed1/xnli", "report"]
    assert told["moving"] and not told["complete"]
    command = [sys.executable, "-m", "stilts_launcher.cli", "logs", str(run), "--phase", "mnli/seed1/inter", "--follow"]
    following = study.start(tmp_path, command, environment)

    # The signal that says that time is short: saved, put back, continued under the same id.
    for pid in study.rank_pids(run, first):
        os.kill(pid, 10)
    until(
        lambda: f"{name}: attempt 1 of job p1-0" in (run / "logs" / "study-intermediate-p1-0.log").read_text(),
        "the job to be started again",
        run,
    )
    until(lambda: len(study.rank_pids(run, first)) == 2 and state(run, first) == "running", "its ranks", run)

    shown = stilts("cancel", run)
    assert all(job in shown for job in jobs.values()), shown
    until(lambda: state(run, first) == "stopped:SIGTERM", "the status of a cancelled phase", run)
    until(lambda: "queued" not in (shown := stilts("status", run)) and "running" not in shown, "an empty queue", run)
    shown = stilts("status", run)
    assert "by SIGTERM" in row(run, shown, first) and "not run" in row(run, shown, child), shown
    followed = following.communicate(timeout=400)[0]  # nothing runs, so nothing is to come
    assert following.returncode == 0 and f"{name}: attempt 1 of job p1-0" in followed, followed
    assert study.stilts(tmp_path, "status", run, "--watch", fails=True, environment=environment) == f"{shown}"

    shown = stilts("retry", run)
    assert "study-intermediate: 1 phase\n" in shown and "study-report" in shown
    watched = stilts("status", run, "--watch", "0.5")  # ends where nothing waits or runs, with status 0
    assert (run / "report.md").exists() and watched.rstrip().endswith(str(run / "report.md"))
    assert watched.count("2 of 2 phases done") >= 1 and "0 of 2 phases done" in watched
    assert "nothing to submit" in stilts("retry", run)
    assert study.curve(run, first)[-1][0] == 300
