"""Every registered family keeps the family contract, and a seventh is added by being registered."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import seventh_family
from family_contract import (
    PART,
    SETTING,
    Contract,
    Reference,
    Sample,
    over_outputs,
    over_pool,
    over_tokens,
    over_window,
)
from folding_tokenizer import folding
from table_files import write_tasks

from stilts_ds.config import ModelPart, parse_recipe
from stilts_ds.data.data import Data, fitted_task
from stilts_ds.families.base import Family
from stilts_ds.families.registry import FAMILIES, main_metric, metrics_of
from stilts_ds.rows.whitespace import SAMPLES, mark_whitespace
from stilts_ds.sources.source import DataSource
from stilts_ds.task_files import add_tasks_from
from stilts_ds.tasks.registry import TASKS, get_task
from stilts_ds.toy import intermediate
from stilts_ds.toy import world as world_module


def squared(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Squared errors: logits [m, 1], gold the bits of float32 numbers [m]."""
    return (logits[:, 0] - gold.astype(np.int32).view(np.float32).astype(np.float64)) ** 2


# The loss of each family by hand. A new family brings its own.
REFERENCES: dict[str, Reference] = {
    "pair": over_outputs, "choice": over_tokens, "span": over_window, "tag": over_outputs, "text": over_outputs,
    "ranking": over_pool, "generate": over_outputs, "regression": squared,
}  # fmt: skip
CHECKED = [
    "qqp",
    "hellaswag",
    "squad_v1",
    "squad_v2",
    "ccg",
    "panx",
    "mlm",
    "bucc2018",
    "tatoeba",
    "xnli",
    "mlqa",
    "reqa_squad",
    "mbpp",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world with few rows: a contract looks at some dozen of them."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intermediate, "TRAIN_ROWS", dict.fromkeys(intermediate.TRAIN_ROWS, 8))
        patch.setattr(intermediate, "DEV_ROWS", 60)
        patch.setattr(world_module, "TEXT_LINES", 200)
        world_module.write_world(folder, 3)
    return folder


def sample_of(name: str, world: Path) -> Sample:
    recipe = parse_recipe({"name": "x", "targets": ["xnli"], "data": {"source": "toy"}}, "the test's recipe")
    task = fitted_task(name, recipe)
    source = DataSource("local", world / "intermediate", world / "xtreme", world / "text")
    split = "dev" if "dev" in task.local else "test"
    english_only = FAMILIES[task.family].multilingual or "qab" not in task.languages
    language = task.pivot if english_only else "qab"
    if task.folder == "code":
        return Sample(
            TASKS[name], *exercises(world / "code"), REFERENCES[task.family], toy_that_keeps_white_space(world)
        )
    return Sample(task, source, split, language, REFERENCES.get(task.family))


def exercises(folder: Path) -> tuple[DataSource, str, str]:
    """MBPP's layout with exercises of ours."""
    (folder / "mbpp").mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "task_id": number,
            "text": f"Add {number}.",
            "code": f"def f(x):\r\n    return x + {number}",
            "test_setup_code": "",
            "test_list": [f"assert f(1) == {number + 1}"],
        }
        for number in range(511, 541)
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "mbpp" / "mbpp.jsonl").write_text(lines, encoding="utf-8")
    return DataSource(code=folder), "dev", "en"


def toy_that_keeps_white_space(world: Path) -> ModelPart:
    """A model folder whose tokenizer has the characters that stand for white space."""
    folding([mark_whitespace(text) for text in (*SAMPLES, "a §¶→·⇥ b 0123456789")]).save_pretrained(world / "model")
    return ModelPart(name_or_path=str(world / "model"))


def test_every_family_is_checked() -> None:
    # Regression has no shipped task; it is checked on one of a user.
    assert {TASKS[name].family for name in CHECKED} | {"regression"} == set(FAMILIES)


@pytest.mark.parametrize("name", ["rating", "reviews", "better"])
def test_tasks_of_users_keep_the_contract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stilts_ds.tasks.registry.TASKS", {**TASKS})
    add_tasks_from([write_tasks(tmp_path, 24)])
    task = get_task(name)
    rate = 0.5 if name == "rating" else 20.0  # of squared errors, one step of half the gradient is the answer
    sample = Sample(task, DataSource(), "dev", "en", REFERENCES[task.family], rate=rate)
    Contract(sample, tmp_path, 24).check_all()


@pytest.mark.parametrize("name", CHECKED)
def test_a_family_keeps_its_contract(name: str, world: Path, tmp_path: Path) -> None:
    sample = sample_of(name, world)
    limit = {"squad_v2": 60, "bucc2018": 120, "tatoeba": 60}.get(name, 24)
    Contract(sample, tmp_path, limit).check_all()


def test_every_literal_names_what_its_family_has() -> None:
    for task in TASKS.values():
        main = main_metric(task)
        names = {metric.name for metric in metrics_of(task)}
        assert main.name in names or set(main.parts) <= names, task.name


@pytest.fixture
def seventh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A family and a task of the test's own, registered; yields the folder with the task's files."""
    monkeypatch.setitem(FAMILIES, seventh_family.SENTENCE.name, seventh_family.SENTENCE)
    monkeypatch.setitem(TASKS, seventh_family.TASK.name, seventh_family.TASK)
    folder = tmp_path / "xtreme"
    seventh_family.write_files(folder)
    yield folder


def test_a_seventh_family_is_held_to_the_contract_by_being_registered(seventh: Path, tmp_path: Path) -> None:
    source = DataSource("local", xtreme=seventh)
    Contract(Sample(seventh_family.TASK, source, "dev", "de", over_outputs), tmp_path).check_all()


MOOD = """
MOOD = Task(
    name="mood",
    title="Moods",
    family="sentence",
    role="target",
    languages=("en", "de"),
    metrics=("accuracy",),
    main_score="accuracy",
    labels=("bad", "good"),
    local={"test": (Local("label_tsv", "mood/test-{language}.tsv"),)},
)
"""
PROGRAM = """
from stilts_launcher.cli import main
from stilts_ds.families.build import build_head
from stilts_ds.model.heads import HeadShape, HeadSpec

assert main(["tasks", "mood", "--show", "1", "--split", "test", "--language", "de", "--xtreme", "xtreme"]) == 0
head = build_head(HeadSpec("mood", "sentence", ("bad", "good")), HeadShape(8, 8, 0.0, 50, 1e-5))
print(sum(parameter.numel() for parameter in head.parameters()), "parameters")
"""


@pytest.mark.processes
def test_a_family_is_added_as_the_contributing_page_says(tmp_path: Path) -> None:
    """One folder and its line in the registry, in a copy of the checkout; then a task may name it."""
    page = (ranks.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = page.split("## Adding a family")[1].split("\n## ")[0]
    folder = ranks.ROOT / "tests" / "helpers" / "sentence_family"
    files = {path.name for path in folder.glob("*.py")}
    assert files == {"__init__.py", "record.py", "rows.py", "head.py", "predictions.py", "score.py"}
    assert all(f"`{name}`" in told for name in files)

    checkout = tmp_path / "checkout"
    without_caches = shutil.ignore_patterns("__pycache__")
    for name in ("stilts_ds", "launcher"):
        shutil.copytree(ranks.ROOT / name, checkout / name, ignore=without_caches)
    shutil.copytree(folder, checkout / "stilts_ds/families/sentence", ignore=without_caches)
    put_before(checkout / "stilts_ds/families/registry.py", "from stilts_ds.families.span import",
               "from stilts_ds.families.sentence import SENTENCE\n")  # fmt: skip
    put_before(checkout / "stilts_ds/families/registry.py", "PAIR, REGRESSION", "SENTENCE, ")
    put_before(checkout / "stilts_ds/tasks/targets.py", "TASKS = (", f"{MOOD}\n")
    put_before(checkout / "stilts_ds/tasks/targets.py", "XNLI, PAWSX, UDPOS", "MOOD, ")
    seventh_family.write_files(tmp_path / "xtreme")
    path = os.pathsep.join([str(checkout), str(checkout / "launcher"), str(ranks.ROOT / "kernels")])
    environment = ranks.environment() | {"PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "text      the grim thing number 0 in de\n  label     bad" in done.stdout
    assert "18 parameters" in done.stdout  # 8 for each of two labels, and a bias for each


def put_before(path: Path, anchor: str, text: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(anchor) == 1, f"{path} has changed: {anchor}"
    path.write_text(source.replace(anchor, f"{text}{anchor}"), encoding="utf-8")


def always_the_first(records: Any, rows: Any, outputs: Any, labels: Any, part: Any) -> list[str]:
    return [labels[0]] * len(outputs)


@pytest.mark.parametrize(
    "change, refused",
    [
        ({"target_count": lambda rows, item, probability: 2}, "check_targets"),
        ({"parameters": lambda hidden, labels, vocabulary, embedding: 1}, "check_parameters"),
        ({"decode": always_the_first}, "check_gold_decodes_to_100"),
    ],
)
def test_the_contract_refuses_a_family_that_breaks_it(
    change: dict[str, object], refused: str, seventh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = dataclasses.replace(seventh_family.SENTENCE.trained, **change)  # type: ignore[arg-type]
    broken: Family = dataclasses.replace(seventh_family.SENTENCE, head=head)
    monkeypatch.setitem(FAMILIES, broken.name, broken)
    contract = Contract(Sample(seventh_family.TASK, DataSource("local", xtreme=seventh), "dev", "de", over_outputs),
                        tmp_path)  # fmt: skip
    with pytest.raises(AssertionError):
        getattr(contract, refused)()


def test_evaluation_files_are_read_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing a split and predicting it parse its file once, however often records and rows are asked for."""
    from stilts_ds.families.registry import family_of

    recipe = parse_recipe({
        "name": "x", "targets": ["xnli"], "data": {"source": "local", "xtreme": str(world / "xtreme"),
                                                   "cache": str(tmp_path / "cache")},
    }, "the test's recipe")  # fmt: skip
    data = Data(recipe, tmp_path)
    task = dataclasses.replace(TASKS["xnli"], languages=("qab",), pivot="qaa")
    family = family_of(task)
    opened: list[Path] = []

    def counted(part):
        opened.append(part.path)
        return family.readers["pair_tsv"](part)

    readers = {**family.readers, "pair_tsv": counted}
    monkeypatch.setitem(FAMILIES, family.name, dataclasses.replace(family, readers=readers))
    for _ in range(2):
        split = data.evaluation(task, "test", "qab")
        split.family.evaluation_rows(split, SETTING, PART)
        assert len(split.records()) == len(split.rows(SETTING))
    assert len(opened) == 1
