"""Targets: prediction and label files, submissions, and the files of a run that `stilts` reads back."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fuzz_mutate import Dice, damage_json, damage_json_lines, damage_text
from fuzz_target import Once, Target
from report_runs import build_run, gold_values
from stilts_launcher import status
from stilts_launcher.backends.slurm import Slurm
from stilts_launcher.cluster import Profile
from stilts_launcher.submit import submit_plan

from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import score_file, score_folder
from stilts_ds.evaluate.submission import validate_submission
from stilts_ds.families.registry import family_of
from stilts_ds.phase_status import Best, TaskBest
from stilts_ds.plan_file import Plan
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, write_json
from stilts_ds.tasks.benchmarks import XTREME as BENCHMARK
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task

SCORED = (
    ("xnli", "de"),
    ("xcopa", "et"),
    ("panx", "de"),
    ("udpos", "de"),
    ("xquad", "de"),
    ("mlqa", "de"),
    ("bucc2018", "de"),
    ("tatoeba", "de"),
)


def predictions_of(task: Task, gold: Any) -> Any:
    return {q.id: q.answers[0].text for q in gold} if task.family == "span" else gold


def write_pair(folder: Path, task: Task, code: str, examples: int = 6) -> tuple[Path, Path]:
    """A label file and a prediction file that is all right."""
    files = family_of(task).files(task)
    gold = [0, 1, 1, 0] if task.family == "choice" else gold_values(task, code, examples)
    file = Path(task.name) / files.name("test", code)
    paths = folder / "labels" / file, folder / "predictions" / file
    files.write_labels(paths[0], gold)
    files.write(paths[1], predictions_of(task, gold))
    return paths[0], paths[1]


def damaged(dice: Dice, path: Path, original: bytes) -> None:
    if path.suffix == ".json":
        path.write_bytes(damage_json(dice, json.loads(original)))
    elif path.suffix == ".jsonl":
        path.write_bytes(damage_json_lines(dice, [json.loads(line) for line in original.splitlines()]))
    else:
        path.write_bytes(damage_text(dice, original))


def check_scores(scores: Any) -> None:
    if isinstance(scores, dict):
        for value in scores.values():
            check_scores(value)
    elif isinstance(scores, float):
        assert math.isfinite(scores) and -1e-9 <= scores <= 100 + 1e-9, scores


def make_scorer(name: str, code: str, folder: Path) -> Once:
    task = get_task(name)
    labels, predictions = write_pair(folder, task, code)
    originals = {path: path.read_bytes() for path in (labels, predictions)}
    whole = score_file(predictions, labels, task, code)
    assert all(score == 100 for score in whole.values())
    files = family_of(task).files(task)
    gold = files.read_labels(labels, task.labels)

    def once(dice: Dice) -> None:
        path = dice.choice((labels, predictions))
        damaged(dice, path, originals[path])
        try:
            found = score_file(predictions, labels, task, code)
            check_scores(found)
            assert score_folder(folder / "predictions", folder / "labels", "test", {name: task})["missing"]
            same = path == predictions and files.read(path, task.labels) == predictions_of(task, gold)
            assert not same or found == whole
        finally:
            path.write_bytes(originals[path])

    return once


def make_submission(folder: Path) -> Once:
    tasks = {name: dataclasses.replace(get_task(name), languages=("de",), test_sizes={}) for name in BENCHMARK.tasks}
    for task in tasks.values():
        write_pair(folder / "made", task, "de")
    sent = folder / "sent"
    shutil.copytree(folder / "made" / "predictions", sent)
    paths = sorted(path for path in sent.rglob("*") if path.is_file())
    assert not validate_submission(sent, tasks, {})

    def once(dice: Dice) -> None:
        path = dice.choice(paths)
        original = path.read_bytes()
        damaged(dice, path, original)
        try:
            if problems := validate_submission(sent, tasks, {}):
                raise UserError("\n".join(problems))
        finally:
            path.write_bytes(original)

    return once


# --- a run folder ----------------------------------------------------------------------------------------------------


def small_run(folder: Path) -> RunDir:
    run = build_run(
        folder / "run",
        intermediate={"none": [], "mnli": ["mnli"]},
        targets=["xnli", "tatoeba"],
        languages={"xnli": ["en", "de"], "tatoeba": ["de"]},
        examples=5,
    )
    phases = [phase.id for phase in Plan.load(run.plan).phases]
    write_json(run.jobs / "jobs.json", {"submitted": 1.0, "jobs": {name: f"{i}_0" for i, name in enumerate(phases)}})
    run.phase(phases[-1]).set_status("failed", error="it broke", seconds=3.5)
    best = Best(step=5, of=9, selection=71.0, tasks={"mnli": TaskBest(score=71.0, best=72.0, best_step=7)})
    first = next(name for name in phases if name.startswith("intermediate"))
    run.phase(first).set_status("done", seconds=3.0, world_size=2, best=best)
    (run.logs / phases[-1]).mkdir(parents=True)
    (run.logs / phases[-1] / "rank-0.log").write_text("some words\n")
    return run


def report(run: RunDir) -> None:
    write_report(run, ComparisonSettings(resamples=20))
    # What names could stand in; behind it is the page's own script.
    page = run.report.with_suffix(".html").read_text(encoding="utf-8").partition("</main>")[0]
    assert "<script" not in page.lower() and "<img" not in page.lower()
    check_json(run.results)


def check_json(path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{path.name} holds {word}, which is no JSON")

    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def shown(text: str) -> None:
    text.encode()


READ_BACK: dict[str, Callable[[RunDir], None]] = {
    "report": report,
    "status": lambda run: shown(status.run_status(run).text()),
    "logs": lambda run: shown(status.run_logs(run, None, None, 5)),
    "submit": lambda run: shown(submit_plan(run, Plan.load(run.plan), Profile(), dry_run=True)),
}


def make_run(verb: str, folder: Path) -> Once:
    """Damage one file of a run and read the run back; nothing is written outside of it."""
    Slurm.queue = lambda self: {}  # type: ignore[method-assign]  # there is no Slurm here: nothing is queued
    run = small_run(folder)
    READ_BACK[verb](run)
    used = {"report": ("plan.json", "recipe.yaml", "status.json", "metrics.jsonl", "results/*.json", "test-*.tsv"),
            "status": ("plan.json", "jobs.json", "status.json", "metrics.jsonl"),
            "logs": ("plan.json", "jobs.json", "status.json"),
            "submit": ("plan.json", "jobs.json", "status.json")}[verb]  # fmt: skip
    files = {pattern: sorted(path for path in run.root.rglob(pattern)) for pattern in used}
    assert all(files.values())

    def once(dice: Dice) -> None:
        path = dice.choice(files[dice.choice(used)])
        original = path.read_bytes()
        damaged(dice, path, original)
        try:
            READ_BACK[verb](run)
        finally:
            path.write_bytes(original)
            strangers = {one.name for one in folder.iterdir()} - {"run"}
            assert not strangers, strangers

    return once


TARGETS = (
    *(Target(f"scoring {name}", 30, partial(make_scorer, name, code)) for name, code in SCORED),
    Target("submissions", 40, make_submission),
    Target("run folder: report", 15, partial(make_run, "report")),
    Target("run folder: status", 40, partial(make_run, "status")),
    Target("run folder: logs", 30, partial(make_run, "logs")),
    Target("run folder: submit", 20, partial(make_run, "submit")),
)
