"""A run's submission to its benchmark: predictions in a folder for each task, checked before they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stilts_ds.config import Recipe
from stilts_ds.data.data import Data
from stilts_ds.display import number
from stilts_ds.errors import UserError, counted
from stilts_ds.evaluate.choose import ChosenPhase, choose_best, choose_condition, choose_seed
from stilts_ds.evaluate.submission import (
    describe_files,
    manifest_path,
    unknown_test_sizes,
    write_submission,
)
from stilts_ds.families.files import Expected
from stilts_ds.families.registry import family_of
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import RunDir, hash_file, provenance, write_json
from stilts_ds.tasks.benchmarks import get_benchmark
from stilts_ds.tasks.file_hashes import SHA256
from stilts_ds.tasks.spec import Task


def write_run_submission(
    run: RunDir, recipe: Recipe, output: Path, condition: str | None = None, best: bool = False, seed: int | None = None
) -> str:
    """Write the submission of one condition (default: the last), or of each target's best on English dev.

    A manifest beside `output` tells what was sent. Returns what to tell the user. Raises UserError listing everything
    that is missing, malformed or not the benchmark's.
    """
    _check_recipe(recipe)
    benchmark = get_benchmark(recipe.benchmark)
    plan = Plan.load(run.plan)
    chosen_seed = choose_seed(plan, seed)
    chosen = choose_best(run, plan, chosen_seed) if best else choose_condition(run, plan, condition, chosen_seed)
    # A run may score more than the benchmark: what is not its own has no place in the folder.
    chosen = {name: choice for name, choice in chosen.items() if name in benchmark.tasks}
    data = Data(recipe, run.root)
    tasks = {name: data.task(name) for name in chosen}
    manifest = manifest_path(output)
    manifest.unlink(missing_ok=True)  # what it told is no longer in the folder
    expected = {
        (name, code): of_language for name, task in tasks.items() for code, of_language in _expected(task, data).items()
    }
    folders = {name: run.phase(choice.phase.id).predictions / name for name, choice in chosen.items()}
    # The manifest is written after this check only: where it is, the folder beside it can be sent.
    written = write_submission(folders, output, tasks, expected, benchmark)
    unknown = unknown_test_sizes(tasks, benchmark)
    files = {name: _source_files(task, data) for name, task in tasks.items()}
    described = {name: _described(choice, output, tasks[name], files[name]) for name, choice in chosen.items()}
    write_json(manifest, {
        "run": plan.name,
        "model": plan.model,
        "seed": chosen_seed,
        "tasks": described,
        "size_unknown": unknown,
        "provenance": provenance(plan.provenance.model_hash).to_json(),
    })  # fmt: skip
    lines = [f"{counted(len(written), 'file')} written to {output}; every language and line is there"]
    lines += [_line(name, choice) for name, choice in chosen.items()]
    lines += [f"size unknown: {name} in {' '.join(codes)}" for name, codes in unknown.items()]
    lines += [f"not the published file: {path}" for path in _others(files)]
    lines.append(f"what was sent, with hashes: {manifest}")
    return "\n".join(lines)


def _check_recipe(recipe: Recipe) -> None:
    """Refuse what cannot be the benchmark's test sets."""
    limits = [k for k in ("max_examples", "max_bitext") if getattr(recipe.evaluation, k) is not None]
    if limits:
        raise UserError(f"evaluation.{limits[0]} leaves test rows out; run the recipe without it before submitting")
    if recipe.data.source == "hub" and "udpos" in recipe.targets:
        raise UserError(
            "udpos from the hub has other words than XTREME's files, and other sentences in five languages "
            "(docs/data_files.md); set data.source=local, with Universal Dependencies 2.5 in data.xtreme"
        )


def _line(name: str, choice: ChosenPhase) -> str:
    seed = "any seed" if choice.seed is None else f"seed {choice.seed}"
    dev = "" if choice.dev_score is None else f", English dev {number(choice.dev_score)}"
    return f"{name}: condition {choice.condition}, {seed}{dev} ({choice.chosen_by})"


def _described(choice: ChosenPhase, output: Path, task: Task, files: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "condition": choice.condition,
        "seed": choice.seed,
        "phase": choice.phase.id,
        "english_dev": choice.dev_score,
        "chosen_by": choice.chosen_by,
        "languages": describe_files(output, task),
        "data_files": files,
    }


def _expected(task: Task, data: Data) -> dict[str, Expected]:
    """What the test files of a task ask for, by language."""
    files = family_of(task).files(task)
    languages = data.languages(task, "test")[0]
    return {language: files.expect(data.evaluation(task, "test", language).records()) for language in languages}


def _source_files(task: Task, data: Data) -> dict[str, dict[str, Any]]:
    """The local files that the test sets were read from: SHA-256, and whether it is the published one (None: unknown).

    XTREME's script takes the answers out of XQuAD's files, so its copies are not the published ones and may be right.
    """
    files = {}
    for language in data.languages(task, "test")[0]:
        for path in data.origin(task, "test", language).files:
            relative = path.relative_to(data.source.folder_of(task)).as_posix()
            digest = hash_file(path)
            # Told, not refused: the user may know why a file differs.
            published = SHA256[relative] == digest if relative in SHA256 else None
            files[relative] = {"sha256": digest, "published": published}
    return files


def _others(files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [path for of_task in files.values() for path, about in of_task.items() if about["published"] is False]
