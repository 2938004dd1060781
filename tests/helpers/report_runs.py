"""Runs made up for the tests of the report: real tasks and languages, random predictions of a chosen quality."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stilts_ds.config import Recipe, parse_recipe, recipe_yaml
from stilts_ds.evaluate.result import Result
from stilts_ds.evaluate.score import score_file
from stilts_ds.evaluate.score_run import settings_of
from stilts_ds.execute.programs import Program, Verdict, write_verdicts
from stilts_ds.families.files import write_shared_texts
from stilts_ds.families.generate.likelihood import CANDIDATES, Likelihood, likelihood_path
from stilts_ds.families.generate.predictions import verdicts_path
from stilts_ds.families.generate.record import Gold
from stilts_ds.families.generate.score import WrittenProgram
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.planner import make_plan
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.run_dir import Provenance, RunDir, hash_file, read_json, write_atomically, write_json, write_sealed
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task

Skill = Callable[[str, str, str], float]  # condition, task, language -> share of right answers
QUICK = ComparisonSettings(resamples=2000)
HOSTILE = '<img src=x onerror=alert("x")> & a|b_$'
TARGETS = ("xnli", "udpos", "xquad", "bucc2018", "tatoeba")
LANGUAGES = {
    "xnli": ["en", "de", "sw", "zh"], "udpos": ["en", "de", "yo"], "xquad": ["en", "el", "zh"],
    "bucc2018": ["de", "zh"], "tatoeba": ["de", "jv"],
}  # fmt: skip


def table(run: RunDir, name: str) -> dict[str, Any]:
    """A table of a report, from results.json."""
    found: dict[str, Any] = read_json(run.results)["statistics"]["tables"][name]
    return found


def better_after_mnli(condition: str, task: str, language: str) -> float:
    return 0.8 if condition == "mnli" and task in ("xnli", "xquad", "tatoeba") else 0.5


def build_run(
    folder: Path,
    skill: Skill = better_after_mnli,
    intermediate: Mapping[str, Sequence[str]] | None = None,
    targets: Sequence[str] = TARGETS,
    languages: Mapping[str, list[str]] | str | None = None,
    seeds: Sequence[int] = (1,),
    model: str = "facebook/tiny",
    examples: int = 200,
    benchmark: int | None = None,
) -> RunDir:
    """Write a finished run: recipe, plan, labels, and each phase's predictions, results, metrics and status.

    `benchmark` examples are in each test set of the benchmark (None: as many as are scored here).
    """
    conditions = intermediate or {"none": [], "mnli": ["mnli"], HOSTILE: ["squad_v1"]}
    values = {
        "name": "study", "output_dir": str(folder), "seeds": list(seeds), "model": {"name_or_path": model},
        "data": {"source": "hub"}, "intermediate": {c: list(t) for c, t in conditions.items()},
        "targets": list(targets), "evaluation": {"languages": languages or {t: LANGUAGES[t] for t in targets}},
    }  # fmt: skip
    recipe, run = parse_recipe(values, "test"), RunDir(folder)
    plan = plan_of(values)
    write_atomically(run.recipe, recipe_yaml(recipe))
    plan.save(run.plan)
    for phase in plan.phases:
        _write_phase(run, recipe, phase, skill, languages or LANGUAGES, examples, benchmark or examples)
    return run


def plan_of(values: dict[str, Any]) -> Plan:
    """The plan of a recipe whose conditions may have names that no plan takes, but a run folder could hold."""
    names = {f"condition{i}": name for i, name in enumerate(values["intermediate"])}
    plain = {**values, "intermediate": {i: values["intermediate"][name] for i, name in names.items()}}
    planned = make_plan(parse_recipe(plain, "test"), "0123456789abcdef", lambda task: task)
    phases = [phase.model_copy(update={"condition": names[phase.condition]}) for phase in planned.phases]
    # The commit of the day would change the bytes that a test compares.
    made = Provenance(git_commit="c0ffee", versions={"stilts-ds": "0.1.0"}, model_hash="0123456789")
    use = {names[i]: ids for i, ids in planned.use.items()}
    return planned.model_copy(update={"phases": tuple(phases), "use": use, "provenance": made})


def _write_phase(
    run: RunDir, recipe: Recipe, phase: Phase, skill: Skill, languages: Any, examples: int, benchmark: int
) -> None:
    folder = run.phase(phase.id)
    folder.set_status("done", seconds=120.0, world_size=2)
    if phase.train:
        write_metrics(folder.metrics, phase, 100 * skill(phase.condition, phase.train[0], "en"))
        write_atomically(folder.encoder / "config.json", "{}")
        write_atomically(folder.encoder / "stilts.json", '{"init": "/home/someone/model"}')
        write_atomically(folder.heads, "heads")
        files = {name: hash_file(folder.root / name) for name in ("encoder/config.json", "heads.safetensors")}
        write_sealed(folder.heads_json, {"heads": [], "step": 1, "files": files})
    for name in phase.evaluate:
        task = get_task(name)
        scored = list(task.languages) if languages == "all" else languages[name]
        result = _predict(run, recipe, phase, task, scored, skill, examples)
        result.model_copy(update={"benchmark": dict.fromkeys(scored, benchmark)}).save(folder.result(name))


def write_metrics(path: Path, phase: Phase, dev: float, steps: int = 30) -> None:
    lines = [
        {"step": s, "train/loss": 2.0 / s + 0.1 * phase.seed, "memory/device_peak_gib": 1.5}
        for s in range(1, steps + 1)
    ]
    lines.append({"step": steps, "eval/any/en/accuracy": dev, "selection": dev})
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def _predict(
    run: RunDir, recipe: Recipe, phase: Phase, task: Task, codes: list[str], skill: Skill, examples: int
) -> Result:
    files = family_of(task).files(task)
    scores = {}
    for code in codes:
        file = files.name("test", code)
        labels, predictions = run.labels / task.name / file, run.phase(phase.id).predictions / task.name / file
        gold = gold_values(task, code, examples)
        files.write_labels(labels, gold)
        if task.shared_text and family_of(task).writes_shared_texts:
            write_shared_texts(labels, [f"premise {i // 3}" for i in range(examples)])
        dice = random.Random(f"{phase.id} {task.name} {code}")
        share = skill(phase.condition, task.name, code)
        files.write(predictions, guesses(task, gold, share, dice))
        if task.family == "generate":
            _write_verdicts(predictions, gold, share, dice)
        scores[code] = score_file(predictions, labels, task, code)
    main = {code: main_metric(task).of_scores(found) for code, found in scores.items()}
    missing = tuple(code for code in task.languages if code not in codes)
    mean = sum(main.values()) / len(main)
    return Result(
        task=task.name, split="test", pivot=task.pivot, condition=phase.condition, seed=phase.seed, phase=phase.id,
        languages=scores, main=main, missing=missing, unlabelled=(), mean=None if missing else mean,
        mean_of_present=mean, settings=settings_of(recipe, task, recipe.evaluation),
        examples=dict.fromkeys(codes, examples), benchmark={},
        provenance=Provenance(git_commit="c0ffee", platform="test", versions={}),
    )  # fmt: skip


def _write_verdicts(predictions: Path, gold: Sequence[Gold], share: float, dice: random.Random) -> None:
    """No program passes; what needs no right program is the better, the larger the share."""
    write_verdicts(verdicts_path(predictions), [Verdict(g.id, 0, "python", "failed") for g in gold])
    seen = {g.id: Likelihood(dice.randint(0, round(40 * share)), 40, 1 if dice.random() < share else 10, CANDIDATES)
            for g in gold}  # fmt: skip
    write_json(likelihood_path(predictions), {name: asdict(likelihood) for name, likelihood in seen.items()})


def layout(task: Task) -> str:
    """What stands in a task's files."""
    return task.predictions or task.family


def gold_values(task: Task, code: str, examples: int) -> Any:
    dice = random.Random(f"{task.base_name} {code} {examples}")
    if layout(task) == "pair":
        return [dice.choice(task.labels) for _ in range(examples)]
    if layout(task) in ("nearest", "choice", "label_lines"):
        return dice.sample(range(examples), examples)
    if layout(task) == "tag":
        return [[dice.choice(task.labels) for _ in range(dice.randint(3, 12))] for _ in range(examples)]
    if layout(task) == "generate":
        return [Gold(f"{code}/{i}", "def f(): return 1\n") for i in range(examples)]
    if layout(task) == "pairs":
        return [(f"{code}-{i}", f"en-{i}") for i in range(examples)]
    if task.answer_rules == "multichecklist":  # four questions a case
        return [
            Span(f"animal.{i // 4}.{i % 4}", "what?", f"She has a dog {i}.", (Answer(f"a dog {i}", 8),))
            for i in range(examples)
        ]
    return [Span(f"q{i}", "why?", f"because of item {i}", (Answer(f"item {i}", 11),)) for i in range(examples)]


def guesses(task: Task, gold: Any, share: float, dice: random.Random) -> Any:
    """Right with probability `share`, each by itself."""

    def right() -> bool:
        return dice.random() < share

    if layout(task) == "pair":
        return [g if right() else next(label for label in task.labels if label != g) for g in gold]
    if layout(task) in ("nearest", "choice", "label_lines"):
        return [g if right() else (g + 1) % len(gold) for g in gold]
    if layout(task) == "tag":
        return [[t if right() else dice.choice(task.labels) for t in tags] for tags in gold]
    if layout(task) == "generate":
        programs = [Program(g.id, "f = 0\n" if right() else "f =\n", "assert f", entry="f") for g in gold]
        return [WrittenProgram(program, None) for program in programs]
    if layout(task) == "pairs":
        return [(a, b if right() else f"en-9999{b[3:]}") for a, b in gold if dice.random() < 0.9]
    return {q.id: q.answers[0].text if right() else "nothing at all" for q in gold}


def name_files(run: RunDir) -> None:
    """Say in a run's results which files were scored, as those of a real run do."""
    for phase in Plan.load(run.plan).phases:
        for task in phase.evaluate:
            path = run.phase(phase.id).result(task)
            result = Result.load(path)
            files = family_of(get_task(task)).files(get_task(task))
            labels = {code: run.labels / task / files.name("test", code) for code in result.main}
            result.model_copy(update={"data": {code: hash_file(file) for code, file in labels.items()}}).save(path)
