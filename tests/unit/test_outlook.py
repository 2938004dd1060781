"""What is left of a run, and a study of hundreds of phases on one screen."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_recipe import recipe
from stilts_launcher.outlook import Outlook, PhaseState, outlook
from stilts_launcher.show.study_table import aligned
from stilts_launcher.status import RunStatus, StatusRow

from stilts_ds.phase_status import PhaseStatus
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.planner import make_plan

NOW = 1000.0


def study(conditions: int = 2, seeds: int = 2) -> Plan:
    names = ["mnli", "qqp", "squad_v1", "squad_v2", "hellaswag", "cosmosqa", "commonsenseqa", "ccg", "anli_plus"]
    intermediate = {"none": [], **{name: [name] for name in names[: conditions - 1]}}
    made = recipe(intermediate=intermediate, targets=["xnli", "pawsx"], seeds=list(range(1, seeds + 1)))
    return make_plan(made, "model", lambda task: f"data of {task}")


def state(phase: Phase, word: str, seconds: float | None = None, step: int = 0, at: float = NOW) -> PhaseState:
    status = PhaseStatus(state=word, seconds=seconds, world_size=4, at=at, steps=100)
    return PhaseState(phase, status, step, word == "running")


def test_what_is_left_follows_phases_of_the_same_tasks() -> None:
    phases = {phase.label: phase for phase in study().phases}
    states = [state(phase, "done", 60.0) for name, phase in phases.items() if name.startswith("none/")]
    states += [state(phases["mnli/seed1/intermediate"], "done", 100.0)]
    left = [name for name in phases if not name.startswith("none/") and name != "mnli/seed1/intermediate"]
    states += [state(phases[name], "pending") for name in left]
    ahead = outlook(states, NOW)
    # Four finished minutes and 100 s on four ranks; the other seed's intermediate phase and four targets are left.
    assert ahead.hours_so_far == pytest.approx((4 * 60 + 100) * 4 / 3600)
    assert ahead.hours_to_go == pytest.approx((100 + 4 * 60) * 4 / 3600)
    # Nothing runs: when it is done depends on when somebody starts it.
    assert ahead.seconds_left is None


def test_phases_that_run_go_on_side_by_side_and_count_by_their_steps() -> None:
    first, second = [phase for phase in study().phases if phase.label.startswith("none/seed1")]
    running = [state(phase, "running", step=25, at=NOW - 50) for phase in (first, second)]
    # A quarter of the steps took 50 s.
    assert outlook(running, NOW).seconds_left == pytest.approx(2 * 150 / 2)
    assert outlook([state(first, "running"), state(second, "pending")], NOW).seconds_left is None
    over = outlook([state(first, "done", 30.0), state(second, "done", 40.0)], NOW)
    assert (over.seconds_left, over.hours_to_go) == (0.0, 0.0)


def status_of(plan: Plan, states: dict[str, str]) -> RunStatus:
    rows = [StatusRow(p.label, p.id, states.get(p.label, "done"), "", f"about {p.label}") for p in plan.phases]
    return RunStatus(Path("runs/big"), tuple(rows), plan, Outlook(1.5, 2.0, 90.0))


def test_a_large_study_is_a_table_and_lines_of_what_needs_a_look() -> None:
    plan = study(conditions=10, seeds=3)
    broken = {"mnli/seed2/xnli": "failed", "qqp/seed1/pawsx": "running", "ccg/seed3/xnli": "queued"}
    text = status_of(plan, broken).text()
    assert len(plan.phases) > 80 and len(text.splitlines()) < 22
    assert (
        text.splitlines()[0] == f"runs/big: {len(plan.phases) - 3} of {len(plan.phases)} phases done, 1 min 30 s left"
    )
    assert "1.50 rank-hours so far" in text and "about 2.00 to go" in text
    table = {line.split()[0]: line.split()[1:] for line in text.splitlines() if "/3" in line}
    assert table["mnli"] == ["3/3", "failed", "2/3", "3/3"] and table["qqp"] == ["3/3", "3/3", "running", "2/3"]
    assert table["none"] == ["-", "3/3", "3/3"] and table["ccg"] == ["3/3", "2/3", "3/3"]
    # What waits its turn needs no look; what failed and what runs has its line.
    assert "about mnli/seed2/xnli" in text and "about qqp/seed1/pawsx" in text and "about ccg/seed3/xnli" not in text
    assert len(status_of(plan, broken).text(by_phase=True).splitlines()) > len(plan.phases)
    assert not any(phase.id in text for phase in plan.phases)


def test_columns_stand_below_their_heads() -> None:
    lines = aligned([["condition", "xnli"], ["none", "0/3"], ["a_long_condition", "12/12"]])
    assert lines == ["condition          xnli", "none                0/3", "a_long_condition  12/12"]
