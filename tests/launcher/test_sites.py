"""What sites and users do differently: GPUs given one by one, more ranks than cores, checkpoints that show up late."""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import all_end
from small_recipe import recipe
from stilts_launcher import doctor, start
from stilts_launcher.rank_place import free_port, usable_cores
from stilts_launcher.status import run_logs, run_status
from stilts_launcher.submit import identity
from stilts_launcher.supervise import PUT_BACK, USER_ERROR, Supervisor

from stilts_ds.engine import preflight, world
from stilts_ds.engine.checkpoint import MANIFEST, await_saved
from stilts_ds.engine.ranks import run_as_rank
from stilts_ds.errors import UserError
from stilts_ds.locks import HELD_BY_JOB
from stilts_ds.planner import make_plan
from stilts_ds.run_dir import PhaseDir, RunDir, await_visible, write_json

pytestmark = pytest.mark.processes  # a plan asks git and uname what made it


def see_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """There is no GPU here: torch says how many it sees."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)


def test_a_rank_that_sees_one_gpu_takes_it_whatever_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    see_gpus(monkeypatch, 1)
    assert [world._device(local) for local in (0, 3)] == [torch.device("cuda", 0)] * 2
    see_gpus(monkeypatch, 4)
    assert world._device(3) == torch.device("cuda", 3)
    with pytest.raises(UserError, match="local rank 4 has no GPU, since 4 are seen on its node"):
        world._device(4)


def test_two_ranks_on_one_gpu_are_named() -> None:
    def fact(node: str, gpu: str) -> dict[str, Any]:
        return {"node": node, "gpu": gpu}

    assert preflight.shared_gpu([fact("n0", "GPU-a"), fact("n1", "GPU-a"), fact("n0", "GPU-b")]) is None
    assert preflight.shared_gpu([fact("n0", ""), fact("n0", "")]) is None  # CPUs
    told = preflight.shared_gpu([fact("n0", "GPU-a"), fact("n0", "GPU-b"), fact("n0", "GPU-a")])
    assert told is not None and told.startswith("ranks 0 and 2 on n0 were given one and the same GPU (GPU-a)")


def test_more_ranks_than_cores_or_gpus_need_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    many = usable_cores() + 1
    see_gpus(monkeypatch, 0)
    with pytest.raises(UserError, match=f"launch.nproc={many}, but this machine has .* core.* to use"):
        start.rank_count(recipe(launch={"nproc": many}))
    assert start.rank_count(recipe(launch={"nproc": many, "oversubscribe": True})) == many
    see_gpus(monkeypatch, 2)
    assert start.rank_count(recipe()) == 2
    with pytest.raises(UserError, match="launch.nproc=3, but this machine has 2 GPUs to use"):
        start.rank_count(recipe(launch={"nproc": 3}))


def test_cores_are_those_that_a_process_may_use() -> None:
    every = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(every)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, every)


def test_a_checkpoint_that_shows_up_late_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    phase = PhaseDir(tmp_path)
    phase.metrics.write_text("{}\n")
    phase.set_status("stopped:SIGUSR1")
    manifest = phase.checkpoints / "step-000004" / MANIFEST

    def appear() -> None:
        manifest.parent.mkdir(parents=True)
        time.sleep(0.3)
        manifest.write_text("{}")

    late = threading.Timer(0.3, appear)
    late.start()
    await_saved(phase, seconds=60)
    assert manifest.exists() and not caplog.text and await_visible(manifest, seconds=60)
    late.join()
    manifest.unlink()
    await_saved(phase, seconds=0.1)
    assert "the phase was stopped:SIGUSR1, and its last checkpoint is not here" in caplog.text
    phase.set_status("running")  # it was killed: nothing says that there is one
    await_saved(phase, seconds=1e9)


def probe_with(work: str) -> list[str]:
    """The program of doctor's probe, where the ranks do something else; the imports that cost seconds are left out."""
    program = f"import os, sys, time\nfrom stilts_ds.engine import probe\ndef work(rank, size):\n    {work}\n"
    return [sys.executable, "-c", f"{program}sys.exit(f'rank {{probe.run_ranks(2, work)}} failed')"]


def test_doctor_ends_ranks_that_hang_and_quotes_the_one_that_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 3)
    pids = tmp_path / "pids"
    hang = f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(900)"
    monkeypatch.setattr(doctor, "PROBE", probe_with(hang))
    with pytest.raises(RuntimeError, match="the ranks did not end within 3 s"):
        doctor._two_ranks()
    ranks_of_probe = [int(pid) for pid in pids.read_text().split()]
    assert len(ranks_of_probe) == 2 and all_end(ranks_of_probe)
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 60)
    monkeypatch.setattr(doctor, "PROBE", probe_with("assert rank == 0, 'rank one fails'"))
    with pytest.raises(RuntimeError, match="(?s)AssertionError: rank one fails.*rank 1 failed"):
        doctor._two_ranks()


def test_doctor_in_json_says_which_check_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "PROBE", probe_with("raise SystemExit(3)"))
    doctor.probe.cache_clear()
    for name in ("sandbox_state", "languages_state"):
        monkeypatch.setattr(doctor, name, lambda: "tried")
    assert doctor.examine(as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert not told["ok"] and states["devices"] == states["two ranks"] == "FAIL"
    assert states["versions"] == states["sandbox"] == "ok"


@pytest.fixture
def submitted(tmp_path: Path) -> RunDir:
    """A run folder with one phase, whose job 17_0 is in no queue."""
    run = RunDir(tmp_path)
    make_plan(recipe(), "model", lambda task: "data").save(run.plan)
    [phase] = make_plan(recipe(), "model", lambda task: "data").phases
    run.jobs.mkdir()
    write_json(run.jobs / "jobs.json", {"folder": identity(run), "jobs": {phase.id: "17_0"}})
    return run


class Queue:
    """Slurm, of which only the queue and how ranks end are made up."""

    def __init__(self, work: Any = None) -> None:
        self.work = work

    def queue(self) -> dict[str, Any]:
        return {}

    def current_job(self, environment: Any) -> Any:
        from stilts_launcher.backends.base import CurrentJob

        return CurrentJob("17_0", 0)

    def seconds_left(self, job: str) -> None:
        return None

    def start_ranks(self, arguments: Any, profile: Any, environment: Any, most: Any = None, worlds: int = 1) -> int:
        return int(self.work(environment))


def test_a_job_that_ended_before_its_ranks_is_shown_in_its_own_words(
    submitted: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stilts_launcher.status.launcher_of", lambda profile: Queue())
    assert "its job ended without a word" in run_status(submitted).text()
    submitted.logs.mkdir()
    (submitted.logs / "study-target-17_0.log").write_text("setup.sh: line 1: module: command not found\n\n")
    assert "its job ended: setup.sh: line 1: module: command not found" in run_status(submitted).text()
    assert "module: command not found" in run_logs(submitted, None, None, 40)


def test_a_warning_that_comes_before_the_ranks_can_hear_it_puts_the_job_back(
    submitted: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends them: starting them again would use up what the warning left of the job."""
    [phase] = make_plan(recipe(), "model", lambda task: "data").phases
    starts: list[str] = []

    def work(environment: dict[str, str]) -> int:
        starts.append(environment["STILTS_RUN_TOKEN"])
        return 128 + signal.SIGUSR1

    monkeypatch.setattr("stilts_launcher.supervise.launcher_of", lambda profile: Queue(work))
    assert Supervisor(submitted, phase.id, {}).work() == PUT_BACK and starts == ["17_0.0.0"]


@pytest.mark.parametrize("code", [1, 2, 137])
def test_an_error_that_would_come_again_ends_the_job_at_its_first_attempt(
    code: int, submitted: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several ranks srun gives the highest status, of those that it ended itself."""
    [phase] = make_plan(recipe(), "model", lambda task: "data").phases
    starts: list[str] = []

    def work(environment: dict[str, str]) -> int:
        starts.append(environment["STILTS_RUN_TOKEN"])
        assert environment[HELD_BY_JOB] == phase.id
        monkeypatch.setenv("STILTS_RUN_TOKEN", starts[-1])
        submitted.phase(phase.id).set_status("failed", error="UserError: the data are not there; fetch them")
        return code

    monkeypatch.setattr("stilts_launcher.supervise.launcher_of", lambda profile: Queue(work))
    assert Supervisor(submitted, phase.id, {}).work() == USER_ERROR and starts == ["17_0.0.0"]
    assert "fetch them" in (submitted.phase(phase.id).read_status().error or "")


def test_who_does_not_come_is_named_in_a_sentence_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    short = datetime.timedelta(seconds=1)
    assert datetime.timedelta(minutes=5) == world.MEETING and world.RESOLVING < world.MEETING
    monkeypatch.setattr(world, "MEETING", short)
    monkeypatch.setattr(world, "RESOLVING", short)
    port = free_port()
    with pytest.raises(UserError, match=f"rank 0 does not listen at 127.0.0.1:{port} after 1 s"):
        world._await_listener("127.0.0.1", port, short)
    with pytest.raises(UserError, match="the address of rank 0, no-such-host.invalid, cannot be resolved here"):
        world._await_address("no-such-host.invalid")
    store = torch.distributed.HashStore()
    store.set("mark/1", "here")
    with pytest.raises(UserError, match=r"2 of 4 ranks did not come within 1 s \(rank 2, 3\)"):
        world._await_marks(store, [1, 2, 3], 4)


def test_a_rank_that_cannot_meet_the_others_says_so_on_its_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Rank 0 tells what all of them see; of this it knows nothing."""

    def refuse(token: str, patience: int) -> None:
        raise UserError("the address of rank 0 cannot be resolved here")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("stilts_ds.engine.ranks.joined", refuse)
    run = RunDir(tmp_path / "run")
    assert run_as_rank(run, tmp_path / "logs", lambda world: None) == USER_ERROR
    assert capsys.readouterr().err == "rank 1: the address of rank 0 cannot be resolved here\n"
