"""Worlds take phases from a queue in the run folder: none before its encoder, each once, a dead world's again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranks
from stilts_launcher import worlds
from stilts_launcher.local import STOPPED
from stilts_launcher.rank_place import FIRST_PORT, PORTS, free_port
from stilts_launcher.worlds import work, world_count, world_environment

from stilts_ds import locks
from stilts_ds.config import Recipe, parse_recipe, recipe_yaml
from stilts_ds.errors import UserError
from stilts_ds.phase_queue import Entry, PhaseQueue, make_queue
from stilts_ds.plan_file import Plan
from stilts_ds.planner import make_plan
from stilts_ds.run_dir import RunDir, write_atomically

TARGETS = {"none/seed1/xnli", "none/seed1/pawsx", "mnli/seed1/xnli", "mnli/seed1/pawsx"}
START = "mnli/seed1/intermediate"


def recipe_of(**more: Any) -> Recipe:
    values = {
        "name": "x", "targets": ["xnli", "pawsx"], "intermediate": {"none": [], "mnli": ["mnli"]},
        "model": {"name_or_path": "toy"}, "data": {"intermediate": "i", "xtreme": "x"},
        "intermediate_training": {"train_batch_size": 32}, "target_training": {"train_batch_size": 32}, **more,
    }  # fmt: skip
    return parse_recipe(values, "test")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path / "x")
    make_plan(recipe_of(), "model", lambda task: task).save(folder.plan)
    write_atomically(folder.recipe, recipe_yaml(recipe_of()))
    return folder


def phases_of(run: RunDir) -> tuple[Any, ...]:
    return Plan.load(run.plan).phases


def test_the_first_entry_is_what_others_wait_for_and_a_target_waits_for_its_encoder(run: RunDir) -> None:
    first, second = make_queue(run, phases_of(run), "s", 2), PhaseQueue(run, "s")
    with first.take() as entry, second.take() as beside, second.take() as third:
        assert entry is not None and beside is not None and third is not None
        assert entry.title == START
        assert {beside.title, third.title} == {"none/seed1/xnli", "none/seed1/pawsx"}
        with PhaseQueue(run, "s").take() as nothing:
            assert nothing is None  # the rest starts from the encoder that is being trained
        first.save_end(entry, 0)
    with second.take() as entry:
        assert entry is not None


def test_a_world_takes_every_phase_once_in_an_order_that_the_plan_allows(run: RunDir) -> None:
    queue, order = make_queue(run, phases_of(run), "s", 1), list[str]()

    def begin(entry: Entry) -> int:
        order.append(entry.title)
        return 0

    assert work(queue, begin, lambda: False) == 0 and queue.status() == 0
    assert order[0] == START and set(order[1:]) == TARGETS and len(order) == 5


def test_a_phase_that_fails_stops_only_what_starts_from_it(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    queue = make_queue(run, phases_of(run), "s", 1)
    begun: list[str] = []

    def begin(entry: Entry) -> int:
        begun.append(entry.title)
        return 2 if entry.title == START else 0

    assert work(queue, begin, lambda: False) == 0
    assert set(begun) == {START, "none/seed1/xnli", "none/seed1/pawsx"} and queue.status() == 2
    worlds.say_what_lacks(queue)
    said = capsys.readouterr().err
    assert f"failed: {START}\n" in said
    assert "not run, what they start from failed: mnli/seed1/xnli, mnli/seed1/pawsx\n" in said


def test_a_stop_ends_a_world_and_its_phase_is_left_for_the_next_start(run: RunDir) -> None:
    queue = make_queue(run, phases_of(run), "s", 1)
    assert work(queue, lambda entry: STOPPED, lambda: False) == STOPPED
    assert dict(queue.ends()) == {} and not list((run.root / "leases").iterdir())
    assert work(queue, lambda entry: 0, lambda: True) == STOPPED and dict(queue.ends()) == {}
    assert queue.status() == 1


def test_phases_that_are_done_are_looked_at_together_by_each_world(run: RunDir) -> None:
    phases = phases_of(run)
    for phase in phases:
        if phase.condition == "none":
            run.phase(phase.id).set_status("done")
    queue = make_queue(run, phases, "s", 2)
    done = [entry for entry in queue.entries if entry.is_done]
    assert {entry.phases[0].label for entry in done} == {"none/seed1/xnli", "none/seed1/pawsx"}
    assert len(queue.entries) == 5 and done[0].title == "1 phase that was done before"
    assert all(not entry.after for entry in done)
    queue = make_queue(run, phases, "t", 1)
    assert [len(entry.phases) for entry in queue.entries if entry.is_done] == [2]


HOLDS = """
import sys
from pathlib import Path
from stilts_ds.phase_queue import PhaseQueue
from stilts_ds.run_dir import RunDir
with PhaseQueue(RunDir(Path(sys.argv[1])), "s").take() as entry:
    print(entry.title, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.processes
def test_what_a_killed_world_was_at_is_taken_by_another_one(run: RunDir) -> None:
    queue = make_queue(run, phases_of(run), "s", 2)
    command = [sys.executable, "-c", HOLDS, str(run.root)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ranks.environment(), **pipes) as world:
        assert world.stdout is not None and world.stdout.readline() == f"{START}\n"
        with queue.take() as entry:
            assert entry is not None and entry.title != START
        world.kill()
    with queue.take() as entry:
        assert entry is not None and entry.title == START


def test_a_world_on_a_lost_node_is_known_by_a_lease_that_nobody_touches(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(run, phases_of(run), "s", 2)
    start = next(entry for entry in queue.entries if entry.title == START)
    lost = {"host": "another", "boot": "", "process": 1, "mark": "m"}
    (run.root / "leases" / start.name).write_text(json.dumps(lost))
    with queue.take() as entry:
        assert entry is not None and entry.title != START
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.0)
    with queue.take() as entry:
        assert entry is not None and entry.title == START


def test_worlds_divide_the_ranks(run: RunDir) -> None:
    phases = phases_of(run)
    assert world_count(recipe_of(launch={"worlds": 4}), 8, phases) == 4
    with pytest.raises(UserError, match=r"launch.worlds=3 does not divide 8 ranks"):
        world_count(recipe_of(launch={"worlds": 3}), 8, phases)
    # A step has 32 examples: two worlds of 32 ranks leave none without work, three would not divide 64.
    auto = recipe_of(launch={"worlds": "auto"})
    assert [world_count(auto, count, phases) for count in (1, 32, 64, 96, 100)] == [1, 1, 2, 3, 2]


def test_each_world_has_gpus_cores_and_ports_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "visible_gpus", lambda: ["4", "5", "6", "7"])
    monkeypatch.setattr(worlds, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environments = [world_environment(recipe_of(), 2, 2, number) for number in (0, 1)]
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in environments] == ["4,5", "6,7"]
    assert {variables["OMP_NUM_THREADS"] for variables in environments} == {"2"}
    halves = [{free_port(number, 2) for _ in range(20)} for number in (0, 1)]
    middle = FIRST_PORT + PORTS // 2
    assert max(halves[0]) < middle <= min(halves[1])
