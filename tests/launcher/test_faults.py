"""Ranks that die, freeze or fail, on one machine and under a real mpirun: the run ends, says why and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fire
import forked
import pytest
import ranks
import study
from disk import fill, small_disk
from mpi import ON_ANY_MACHINE, mpiexec
from processes import all_end
from study import curve, phase_ids, reached, scores, state, until

from stilts_ds.engine.saver import require_space
from stilts_ds.export import check_export
from stilts_ds.report.load import curve_changed
from stilts_ds.run_dir import PhaseDir, hash_file, read_sealed

pytestmark = pytest.mark.processes

STILTS = [sys.executable, "-m", "stilts_launcher.cli"]
BASELINE = "intermediate={none: []}"  # two phases of the study, without the long one
# A fifth of the steps that a cluster's test needs: here every fault is struck by step 40.
SHORT = "intermediate_training.max_steps=60"
STRUCK = [SHORT, "intermediate={mnli: [mnli]}", "targets=[tatoeba]"]  # the long phase and one that scores its model


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study on two ranks of this machine, where nothing went wrong."""
    folder = tmp_path_factory.mktemp("quiet")
    study.stilts(folder, "run", "study.yaml", SHORT)
    return folder / "runs" / "study"


def start(folder: Path, *settings: str, program: str = "warm_stilts.py") -> forked.Rank:
    """The study, its launcher and ranks forked from a process that has the imports."""
    study.write_recipe(folder)
    return forked.started(folder, ["run", "study.yaml", *settings], program=program)


def ranks_of(launcher: forked.Rank) -> list[int]:
    """The processes of its ranks, which it started one after the other."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True).stdout
    return sorted(map(int, listed.split()))


def first_phase(folder: Path) -> tuple[Path, str]:
    """The run folder and the id of its longest phase, as soon as there is a plan."""
    run = folder / "runs" / "study"
    until(run.joinpath("plan.json").exists, "a plan", run)
    return run, next(p for p in phase_ids(run) if p.startswith("intermediate"))


def ended(process: forked.Rank | subprocess.Popen[str], seconds: float) -> str:
    """Output of a run that must end by itself, and not well."""
    output = process.communicate(timeout=seconds)[0]
    assert process.returncode not in (0, None), output
    return output


def ends_as_quietly(run: Path, phase: str, quiet: Path) -> None:
    """Every loss of the struck phase and every score that follows from it are those of the quiet run."""
    assert curve(run, phase) == curve(quiet, phase) and curve(run, phase)[-1][0] == 60
    assert len(scores(run)) == 1 and scores(run).items() <= scores(quiet).items()


@pytest.mark.long
def test_a_frozen_rank_is_named_and_ends_the_run(tmp_path: Path, quiet: Path) -> None:
    """SIGSTOP on one rank; afterwards the same command ends at the undisturbed numbers."""
    process = start(tmp_path, *STRUCK, "engine.collective_timeout=10")
    run, phase = first_phase(tmp_path)
    until(reached(run, phase, 24), "step 24", run)
    frozen = ranks_of(process)[1]
    os.kill(frozen, signal.SIGSTOP)
    output = ended(process, 90)
    assert "rank 1 does not answer" in output, output
    assert all_end([frozen])
    study.stilts(tmp_path, "run", "study.yaml", *STRUCK)
    ends_as_quietly(run, phase, quiet)


@pytest.mark.long
def test_a_rank_that_hangs_ends_the_run_with_the_stack_of_each_rank(tmp_path: Path) -> None:
    """Rank 1 sleeps while it makes a batch; rank 0 waits for it and gives up. Both logs tell where."""
    process = start(tmp_path, "engine.collective_timeout=10", program="sleeping_rank.py")
    run, _ = first_phase(tmp_path)
    until(lambda: len(list((run / "logs").glob("rank-*.log"))) == 2, "both ranks", run)
    both = ranks_of(process)
    output = ended(process, 120)
    assert "rank 1 does not answer" in output, output
    waiting, sleeping = ((run / "logs" / f"rank-{rank}.log").read_text() for rank in range(2))
    assert "Timeout (0:00:10)!" in sleeping and "in sleeping_batch" in sleeping, sleeping
    assert "Timeout (0:00:10)!" in waiting and "in take_step" in waiting and "rank 0 failed" in waiting, waiting
    assert len(both) == 2 and all_end(both)


@pytest.mark.long
def test_a_killed_launcher_takes_its_ranks_along(tmp_path: Path, quiet: Path) -> None:
    """Otherwise they would go on, and the next start would work beside them in one folder."""
    process = start(tmp_path, *STRUCK)
    run, phase = first_phase(tmp_path)
    until(reached(run, phase, 24), "step 24", run)
    both = ranks_of(process)
    os.kill(both[1], signal.SIGSTOP)
    process.kill()
    process.communicate(60)
    assert len(both) == 2 and all_end(both, 60)
    assert "continuing after step" in study.stilts(tmp_path, "run", "study.yaml", *STRUCK)
    ends_as_quietly(run, phase, quiet)


@pytest.mark.long
def test_a_run_that_is_stopped_while_it_evaluates_trains_nothing_again(tmp_path: Path, quiet: Path) -> None:
    process = start(tmp_path, BASELINE)
    run = tmp_path / "runs" / "study"
    until(lambda: any(fire.status(p).get("trained") for p in run.glob("phases/target-*")), "a trained model", run)
    process.send_signal(signal.SIGTERM)
    ended(process, 60)
    [phase] = [p for p in phase_ids(run) if state(run, p) == "stopped:SIGTERM"]
    exported = (run / "phases" / phase / "heads.safetensors").stat().st_mtime_ns
    study.stilts(tmp_path, "run", "study.yaml", BASELINE)
    assert (run / "phases" / phase / "heads.safetensors").stat().st_mtime_ns == exported
    assert scores(run).items() <= scores(quiet).items() and len(scores(run)) == 2


SEVEN_STEPS = {"max_steps": 7, "eval_steps": 2, "save_steps": 3, "eval_examples": 4, "train_batch_size": 2,
               "max_seq_length": 32}  # fmt: skip
BEST = ["quickstart", "name=study", "launch.nproc=1", "launch.omp_num_threads=1", "targets=[xnli]",
        "intermediate={none: []}", "data.max_train_examples=20",
        *(f"target_training.{key}={value}" for key, value in SEVEN_STEPS.items())]  # fmt: skip


def train_best(folder: Path, scores: dict[int, float], killed_at: str = "") -> None:
    """Train the phase with these dev scores by step; the rank is killed at a place (programs/killed_rank.py)."""
    environment = {"SCORES": json.dumps(scores)} | ({"KILLED_AT": killed_at} if killed_at else {})
    process = forked.started(folder, ["train", *BEST], environment, program="killed_rank.py").ended(400)
    assert (process.returncode != 0) == bool(killed_at), process.output


@pytest.fixture(scope="module")
def best_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world and its rows, once for all cases."""
    folder = tmp_path_factory.mktemp("best")
    train_best(folder, {2: 40, 4: 60, 6: 50, 7: 50})
    return folder / "runs" / "study"


KILLS: dict[str, tuple[str, dict[int, float], dict[int, float], int]] = {
    "while the new best is written": ("save_encoder 2", {2: 50, 4: 60}, {4: 49.9, 6: 40, 7: 40}, 2),
    "before a checkpoint names it": ("export_model 2", {2: 50, 4: 60}, {4: 49.9, 6: 40, 7: 40}, 2),
    "after an unnamed one left": ("save_encoder 3", {2: 50, 4: 60, 6: 70}, {4: 49.9, 6: 40, 7: 40}, 2),
    "while it is published": ("_link 2", {2: 50, 4: 40, 6: 40, 7: 70}, {7: 49.9}, 2),
    "before the status knows it": ("publish 1", {2: 50, 4: 40, 6: 40, 7: 70}, {7: 49.9}, 2),
    "with a checkpoint that names it": ("publish 1", {2: 50, 4: 60, 6: 40, 7: 40}, {7: 59.9}, 4),
}
SELDOM = ("while the new best is written", "after an unnamed one left", "with a checkpoint that names it")


@pytest.mark.long
@pytest.mark.parametrize(
    "killed_at, first, second, best",
    [pytest.param(*kill, id=name, marks=[pytest.mark.slow] * (name in SELDOM)) for name, kill in KILLS.items()],
)
def test_the_published_model_is_the_one_that_the_status_names(
    killed_at: str, first: dict[int, float], second: dict[int, float], best: int, tmp_path: Path, best_run: Path
) -> None:
    """Evaluations that are done again give slightly less than before the kill, as on other ranks or on GPUs."""
    run = tmp_path / "runs" / "study"
    for part in ("data", "cache"):
        shutil.copytree(best_run / part, run / part)
    train_best(tmp_path, first, killed_at)
    train_best(tmp_path, second)
    (phase,) = run.glob("phases/target-*")
    status = read_sealed(phase / "status.json")
    assert status["state"] == "trained" and status["best"]["step"] == best
    assert status["best"]["selection"] == first[best]
    assert status["curve"] == hash_file(phase / "metrics.jsonl")
    assert read_sealed(phase / "heads.json")["step"] == best
    assert json.loads((phase / "encoder" / "stilts.json").read_text())["step"] == best
    check_export(PhaseDir(phase))
    assert fire.leftovers(run) == []


@pytest.mark.long
def test_a_bit_flipped_in_the_curve_of_a_phase_in_training_is_told_and_not_sealed(
    tmp_path: Path, best_run: Path
) -> None:
    run = tmp_path / "runs" / "study"
    for part in ("data", "cache"):
        shutil.copytree(best_run / part, run / part)
    train_best(tmp_path, {2: 50, 4: 60}, "export_model 2")  # after step 4, with a checkpoint of step 3
    (phase,) = run.glob("phases/target-*")
    metrics = phase / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    loss = json.loads(lines[0])["train/loss"]
    digit = str(loss)[-1]
    # A number still: 0 becomes 1, 8 becomes 9.
    lines[0] = lines[0].replace(str(loss), str(loss)[:-1] + chr(ord(digit) ^ 1), 1)
    assert lines[0] != metrics.read_text().splitlines(keepends=True)[0]
    metrics.write_text("".join(lines))
    train_best(tmp_path, {4: 60, 6: 40, 7: 40})
    assert [step for step, _ in curve(run, phase.name)] == list(range(1, 8))
    told = (run / "logs" / "rank-0.log").read_text()
    assert "metrics.jsonl changed since the checkpoint of step 3 was written" in told
    assert "metrics.jsonl is not what training wrote" in told
    status = PhaseDir(phase).read_status()
    assert status.trained and curve_changed(PhaseDir(phase), status)


@pytest.mark.long
def test_a_full_disk_costs_no_checkpoint_and_says_so(tmp_path: Path, quiet: Path) -> None:
    """The disk fills up between two checkpoints. With space again, the same command ends at the undisturbed numbers."""
    disk = tmp_path / "runs"
    with small_disk(disk, 120) as mounted:
        if not mounted:
            pytest.skip("needs the right to mount a small file system")
        process = start(tmp_path, *STRUCK)
        run, phase = first_phase(tmp_path)
        tags = run / "phases" / phase / "checkpoints"
        until(lambda: any(tags.glob("*/manifest.json")), "a checkpoint", run)
        junk = fill(disk)
        output = ended(process, 120)
        assert "GB free" in output or "is full" in output, output
        assert any(tags.glob("*/manifest.json"))
        junk.unlink()
        assert "continuing after step" in study.stilts(tmp_path, "run", "study.yaml", *STRUCK)
        ends_as_quietly(run, phase, quiet)


def test_a_checkpoint_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as mounted:
        if not mounted:
            pytest.skip("needs the right to mount a small file system")
        require_space(tmp_path / "disk", 1 << 20)
        with pytest.raises(OSError, match=r"No space left on device: 0.003 GB are needed"):
            require_space(tmp_path / "disk", 3 << 20)


@pytest.mark.long
def test_mpirun_gives_the_numbers_of_any_other_start(tmp_path: Path, quiet: Path) -> None:
    command = [mpiexec(), *ON_ANY_MACHINE, "-n", "2", *STILTS, "run", "study.yaml", BASELINE]
    output = study.start(tmp_path, command).communicate(timeout=300)[0]
    run = tmp_path / "runs" / "study"
    assert scores(run).items() <= scores(quiet).items() and len(scores(run)) == 2, output
    for phase in phase_ids(run):
        assert curve(run, phase) == curve(quiet, phase)


@pytest.mark.long
@pytest.mark.parametrize("how", ["killed", "exception"])
def test_mpirun_ends_soon_when_one_of_three_ranks_fails(how: str, tmp_path: Path) -> None:
    program = [sys.executable, str(ranks.PROGRAMS / "failing_rank.py")]
    last = STILTS if how == "killed" else program
    study_ranks = ["-n", "2", *STILTS, "run", "study.yaml"]
    last_rank = ["-n", "1", *last, "run", "study.yaml"]
    command = [mpiexec(), *ON_ANY_MACHINE, *study_ranks, ":", *last_rank]
    process = study.start(tmp_path, command)
    run, phase = first_phase(tmp_path)
    if how == "killed":
        until(reached(run, phase, 8), "step 8", run)
        pids = subprocess.run(
            ["pgrep", "-f", f"{tmp_path}|stilts_launcher.cli run study.yaml"], capture_output=True, text=True
        ).stdout.split()
        mine = [int(p) for p in pids if _works_in(int(p), tmp_path) and int(p) != process.pid]
        os.kill(mine[-1], signal.SIGKILL)
    else:
        until((tmp_path / "failed-at").exists, "the exception", run)
    # After 10 s; a busy machine may add some. Ranks that stay would wait for the others for half an hour.
    ended(process, 120)


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:
        return False
