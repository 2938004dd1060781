"""Phases side by side on one machine: equal results by any number of worlds, and after stops, kills and failures."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import forked
import pytest
import study
from same_results import main as same_results

from stilts_ds.plan_file import Plan

pytestmark = [pytest.mark.processes, pytest.mark.long]
RECIPE = """
name: eight
model: {name_or_path: toy, dropout: 0.1}
data: {source: toy, max_train_examples: 200}
intermediate: {none: [], mnli: [mnli], qqp: [qqp]}
targets: [xnli, pawsx]
intermediate_training: {max_steps: 12, train_batch_size: 8, save_steps: 2, logging_steps: 2, eval_examples: 20}
target_training: {max_steps: 6, train_batch_size: 8, save_steps: 2, logging_steps: 2, eval_examples: 20}
evaluation: {max_examples: 20}
launch: {nproc: 1, omp_num_threads: 1}
"""


def run_study(folder: Path, *settings: str, status: int = 0, **extra: str) -> tuple[Path, str]:
    """The run's folder and what `stilts run` printed."""
    folder.mkdir(exist_ok=True)
    (folder / "eight.yaml").write_text(RECIPE)
    done = forked.stilts(folder, ["run", "eight.yaml", *settings], extra)
    assert done.returncode == status, done.output
    return folder / "runs" / "eight", done.output


@pytest.fixture(scope="module")
def by_one_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed, whose ranks took all phases."""
    return run_study(tmp_path_factory.mktemp("one"))[0]


def by_worlds(count: int) -> tuple[str, ...]:
    return f"launch.worlds={count}", f"launch.nproc={count}", "launch.oversubscribe=true"


def begun_by_two(folder: Path) -> tuple[forked.Rank, Path]:
    """The study begun by two worlds, as a process that a test can signal, and its run folder."""
    (folder / "eight.yaml").write_text(RECIPE)
    return forked.started(folder, ["run", "eight.yaml", *by_worlds(2)]), folder / "runs" / "eight"


def id_of(run: Path, label: str) -> str:
    return next(phase.id for phase in Plan.load(run / "plan.json").phases if phase.label == label)


def world_pids(run: Path) -> list[int]:
    """The processes that hold the leases of a run: each world that is at work on a phase."""
    holders = [json.loads(path.read_text())["process"] for path in (run / "leases").glob("*") if "." not in path.name]
    return [int(pid) for pid in holders]


def test_one_two_and_four_worlds_give_equal_results_to_the_byte(by_one_world: Path, tmp_path: Path) -> None:
    for count in (2, 4):
        run, shown = run_study(tmp_path / str(count), *by_worlds(count))
        assert f"8 phases by {count} worlds of 1 rank" in shown and "done in" in shown
        ended = re.findall(r" (\d)/8  (\S+) done.* \(world (\d), 1 rank\)", shown)
        assert len(ended) == 8 and 1 < len({world for *_, world in ended}) <= count, shown
        # No target before its encoder.
        labels = [label for _, label, _ in ended]
        for condition in ("mnli", "qqp"):
            assert labels.index(f"{condition}/seed1/intermediate") < labels.index(f"{condition}/seed1/xnli")
        # What a start needed to divide its work is gone.
        assert not any(any(run.glob(f"{folder}/*")) for folder in ("worlds", "leases"))
        assert same_results(["compare", str(by_one_world), str(run)]) == 0
    # A finished study is looked at, and nothing of it is made again.
    _, shown = run_study(tmp_path / "2", *by_worlds(2))
    assert shown.count("4 phases that were done before: status 0") == 2, shown


def test_a_stop_reaches_all_worlds_and_the_same_command_continues(by_one_world: Path, tmp_path: Path) -> None:
    going, run = begun_by_two(tmp_path)
    labels = ("mnli/seed1/intermediate", "qqp/seed1/intermediate")
    study.until(lambda: (run / "plan.json").exists(), "the plan", run)
    ids = [id_of(run, label) for label in labels]
    study.until(lambda: all(study.curve(run, phase) for phase in ids), "both at work", run)
    going.send_signal(signal.SIGUSR1)
    shown = going.communicate(120)[0]
    assert going.returncode == 85 and "stopped; everything is saved, the same command continues" in shown, shown
    assert {study.state(run, phase) for phase in ids} == {"stopped:SIGUSR1"}
    run_study(tmp_path, *by_worlds(2))
    assert same_results(["compare", str(by_one_world), str(run)]) == 0


def test_what_a_killed_world_was_at_is_finished_by_the_other(by_one_world: Path, tmp_path: Path) -> None:
    going, run = begun_by_two(tmp_path)
    study.until(lambda: len(world_pids(run)) == 2, "two worlds at work", run)
    taken = {path.name for path in (run / "leases").glob("*") if "." not in path.name}
    study.until(lambda: any(study.curve(run, phase) for phase in taken), "training", run)
    os.kill(world_pids(run)[0], signal.SIGKILL)
    shown = going.communicate(300)[0]
    assert going.returncode == 0 and re.search(r"leases/\S+: process \d+ on \S+ is gone", shown), shown
    assert same_results(["compare", str(by_one_world), str(run)]) == 0


def test_a_phase_that_fails_stops_only_what_depends_on_it_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "eight.yaml").write_text(RECIPE)
    shown = forked.stilts(tmp_path, ["plan", "eight.yaml", "--json"]).output
    run = Path(tmp_path, "runs", "eight")
    broken = run / "phases" / id_of(run, "mnli/seed1/intermediate")
    broken.parent.mkdir()
    broken.write_text("no folder")
    run, shown = run_study(tmp_path, *by_worlds(2), status=1)
    assert "failed: mnli/seed1/intermediate\n" in shown
    assert "not run, what they start from failed: mnli/seed1/xnli, mnli/seed1/pawsx\n" in shown
    states = {
        phase.label: study.state(run, phase.id)
        for phase in Plan.load(run / "plan.json").phases
        if phase.id != broken.name
    }
    assert {label for label, state in states.items() if state == "done"} == {
        f"{condition}/seed1/{name}"
        for condition, names in (("none", ("xnli", "pawsx")), ("qqp", ("intermediate", "xnli", "pawsx")))
        for name in names
    }
    broken.unlink()
    _, shown = run_study(tmp_path, *by_worlds(2))
    assert len(re.findall(r"mnli/seed1/\S+ done", shown)) == 3, shown


def test_auto_makes_the_worlds_that_leave_no_rank_without_an_example(tmp_path: Path) -> None:
    """Four ranks and steps of two examples: two worlds of two ranks."""
    small = [f"target_training.{key}" for key in ("max_steps=2", "eval_examples=2", "train_batch_size=2")]
    ranks = ["launch.worlds=auto", "launch.nproc=4", "launch.oversubscribe=true"]
    _, shown = run_study(tmp_path, *small, *ranks, "intermediate={none: []}", "targets=[xnli,pawsx]")
    assert "2 phases by 2 worlds of 2 ranks" in shown and "done in" in shown, shown


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["launch.worlds=0"], "give 1 or more, or `auto`"),
        (["launch.worlds=3", "launch.nproc=2"], "launch.worlds=3 does not divide 2 ranks (launch.nproc)"),
        (["launch.worlds=900", "launch.nproc=auto"], "launch.worlds=900, but this machine has"),
    ],
)
def test_worlds_that_cannot_be_are_refused_by_name(settings: list[str], problem: str, tmp_path: Path) -> None:
    _, shown = run_study(tmp_path, *settings, status=2)
    assert problem in shown and "Traceback" not in shown


def test_worlds_of_ranks_that_somebody_else_started_are_refused(tmp_path: Path) -> None:
    five = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    _, shown = run_study(tmp_path, "launch.worlds=2", status=2, **five)
    assert "launch.worlds=2 divides ranks that `stilts run` starts itself, and these were started by torchrun" in shown
