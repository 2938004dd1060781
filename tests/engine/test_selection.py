"""Which model a phase keeps: best mean on English dev, patience, each task's own best, and what takes no part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from stilts_ds.config import TrainingPart, parse_recipe
from stilts_ds.data.data import Data
from stilts_ds.engine import loop
from stilts_ds.engine.checkpoint import FIRST_START
from stilts_ds.engine.loop import train
from stilts_ds.engine.progress import Progress
from stilts_ds.engine.trainer import Trainer
from stilts_ds.errors import UserError
from stilts_ds.evaluate import selection
from stilts_ds.families.registry import family_of
from stilts_ds.phase_status import Best, TaskBest
from stilts_ds.plan_file import Phase
from stilts_ds.tasks.registry import get_task

# Dev scores of three tasks at five evaluations; the means are 40, 50, 50, 45, 60.
HISTORY = [
    {"selection": 40.0, "selection/a": 30.0, "selection/b": 50.0, "eval/a/en/accuracy": 30.0},
    {"selection": 50.0, "selection/a": 20.0, "selection/b": 80.0},
    {"selection": 50.0, "selection/a": 40.0, "selection/b": 60.0},
    {"selection": 45.0, "selection/a": 45.0, "selection/b": 45.0},
    {"selection": 60.0, "selection/a": 42.0, "selection/b": 78.0},
]


def test_the_best_mean_is_kept_and_each_task_s_own_best_is_noted() -> None:
    progress, better = Progress(), []
    for number, scores in enumerate(HISTORY, start=1):
        progress.step = 10 * number
        better.append(progress.record_evaluation(scores))
        if number == 4:
            assert (progress.best_step, progress.since_best, progress.best_score) == (20, 2, 50.0)
    assert better == [True, True, False, False, True]  # equal is not better
    assert progress.chosen() == Best(
        step=50, of=50, selection=60.0,
        tasks={
            "a": TaskBest(score=42.0, best=45.0, best_step=40),
            "b": TaskBest(score=78.0, best=80.0, best_step=20),
        },
    )  # fmt: skip


class FakeTrainer(Trainer):
    """A trainer whose dev scores are given; counts steps and evaluations."""

    def __init__(self, setup: Any, lineage: Any) -> None:
        self.setup, self.evaluated = setup, []
        self.mixture: Any = SimpleNamespace(total_steps=setup.total)
        self.saver: Any = SimpleNamespace(wait=lambda: None, overdue=lambda minutes: False)
        setup.trainer = self

    def resume(self, *_: Any) -> Progress:
        return self.setup.progress

    def take_step(self, progress: Progress) -> None:
        self.setup.steps += 1

    def flush(self, progress: Progress) -> None: ...

    def save(self, *_: Any, **__: Any) -> None: ...

    def close(self) -> None: ...

    def select(self, progress: Progress) -> None:
        self.evaluated.append(progress.step)
        progress.record_evaluation({"selection": self.setup.scores.get(progress.step, 0.0)})


@pytest.mark.parametrize(
    ("every", "patience", "scores", "evaluated", "best"),
    [
        (0, 1, {7: 5.0}, [7], 7),  # once, at the end
        (2, 30, {2: 1.0, 4: 3.0, 6: 2.0, 7: 2.5}, [2, 4, 6, 7], 4),  # the end counts, also between two evaluations
        (2, 1, {2: 3.0, 4: 2.0, 6: 9.0}, [2, 4], 2),  # one evaluation without a better one is enough
        (1, 2, {1: 3.0, 2: 2.0, 3: 4.0, 4: 1.0, 5: 4.0, 6: 9.0}, [1, 2, 3, 4, 5], 3),  # a better one starts anew
    ],
)
def test_training_stops_after_patience_evaluations_without_a_better_one(
    every: int,
    patience: int,
    scores: dict[int, float],
    evaluated: list[int],
    best: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = TrainingPart(eval_steps=every, early_stopping_patience=patience, logging_steps=100, save_steps=0)
    setup = SimpleNamespace(setting=setting, total=7, scores=scores, steps=0, progress=Progress(), world=None)
    setup.folder = SimpleNamespace(checkpoints=None)
    monkeypatch.setattr(loop.checkpoint, "find", lambda *_: (None, FIRST_START))
    never = SimpleNamespace(stop_or_save=lambda wanted: False)
    for name, fake in (("Trainer", FakeTrainer), ("Asking", lambda *_, **__: never)):
        monkeypatch.setattr(loop, name, fake)
    progress = train(setup)  # type: ignore[arg-type]
    assert setup.trainer.evaluated == evaluated and setup.steps == evaluated[-1]
    assert progress.best_step == best


# --- translations ----------------------------------------------------------------------------------------------------


def study(folder: Path, **more: Any) -> Data:
    """English MNLI with three train rows and two dev rows, German with one train row."""

    def write(path: Path, texts: list[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"pairID": t, "sentence1": t, "sentence2": t, "gold_label": "neutral"} for t in texts]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write(folder / "en/mnli/multinli_1.0_train.jsonl", ["a", "b", "c"])
    write(folder / "en/mnli/multinli_1.0_dev_matched.jsonl", ["d", "e"])
    write(folder / "mt/de/mnli/multinli_1.0_train.jsonl", ["ä"])
    values = {
        "name": "study", "targets": ["xnli"], "intermediate": {"de": ["mnli.de"], "both": ["mnli", "mnli.de"]},
        "data": {"intermediate": str(folder / "en"), "translated": str(folder / "mt")} | more,
    }  # fmt: skip
    return Data(parse_recipe(values, "test"), folder)


def test_a_translated_task_trains_on_its_language_and_selects_on_english(tmp_path: Path) -> None:
    data = study(tmp_path)
    task = data.task("mnli.de")
    assert [r.text_a for r in data.split(task, "train", "de").records()] == ["ä"]
    assert [r.text_a for r in data.dev("mnli.de", TrainingPart()).records()] == ["d", "e"]
    assert [len(data.train(name, TrainingPart()).rows(TrainingPart())) for name in ("mnli", "mnli.de")] == [3, 1]
    assert data.labels("mnli.de") == get_task("mnli").labels
    first = data.hash_of("mnli.de")
    (tmp_path / "mt/de/mnli/multinli_1.0_train.jsonl").write_text("{}\n", encoding="utf-8")
    assert study(tmp_path).hash_of("mnli.de") == first  # written anew by study
    assert first != data.hash_of("mnli")


@pytest.mark.parametrize(
    ("remove", "name", "message"),
    [
        ("mt/de/mnli", "mnli.de",
         r"mnli.de: no train file for 'de': there is no .*mt/de/mnli/multinli_1.0_train.jsonl; it must"),
        ("", "mnli.sw", r"mnli.sw: data.translated: there is no folder .*mt/sw"),
        ("mt", "mnli.de", r"data.translated: there is no folder .*mt/de"),
        ("en/mnli/multinli_1.0_dev_matched.jsonl", "mnli.de", r"mnli: no dev file for 'en'"),
    ],
)  # fmt: skip
def test_what_is_missing_of_a_translation_is_named(remove: str, name: str, message: str, tmp_path: Path) -> None:
    data, gone = study(tmp_path), tmp_path / remove
    if remove:
        gone.unlink() if gone.is_file() else shutil.rmtree(gone)
    with pytest.raises(UserError, match=message):
        data.hash_of(name)


def test_a_folder_that_is_not_set_is_named(tmp_path: Path) -> None:
    data = study(tmp_path, translated=None)
    with pytest.raises(UserError, match=r"mnli.de: data.translated is not set"):
        data.hash_of("mnli.de")


# --- what the selecting number is made of ----------------------------------------------------------------------------


def dev(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *tasks: str) -> tuple[dict[str, float], list[str]]:
    """Scores of tasks whose evaluations are given: 60 for MNLI, 20 for QQP, 90 for text."""
    seen: list[str] = []

    def scores(predictor: Any, split: Any, *_: Any) -> tuple[dict[str, float], float]:
        seen.append(split.task.name)
        value = {"mlm": 90.0, "mnli": 60.0, "qqp": 20.0}[split.task.name]
        return {"masked_accuracy" if split.task.name == "mlm" else "accuracy": value}, value

    class OneSplit(NamedTuple):
        task: Any
        family: Any

    def dev_split(data: Data, name: str, setting: TrainingPart) -> OneSplit:
        return OneSplit(data.task(name), family_of(data.task(name)))

    monkeypatch.setattr(selection, "split_scores", scores)
    monkeypatch.setattr(Data, "tokenizer", None)
    monkeypatch.setattr(Data, "dev", dev_split)
    data = study(tmp_path)
    phase = Phase(
        id="id",
        kind="intermediate",
        condition="c",
        init="",
        train=tasks,
        evaluate=(),
        seed=1,
        training=TrainingPart().model_dump(),
        lengths={},
    )
    world: Any = SimpleNamespace(first=True)
    return selection.dev_scores(None, data, phase, world), seen


def test_text_beside_tasks_does_not_select_and_a_translation_counts_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found, seen = dev(monkeypatch, tmp_path, "mlm", "mnli", "mnli.de", "mnli.sw", "qqp")
    assert seen == ["mlm", "mnli", "qqp"]
    assert found == {
        "eval/mlm/masked_accuracy": 90.0, "selection/mlm": 90.0, "eval/mnli/en/accuracy": 60.0,
        "selection/mnli": 60.0, "eval/qqp/en/accuracy": 20.0, "selection/qqp": 20.0, "selection": 40.0,
    }  # fmt: skip
    assert dev(monkeypatch, tmp_path, "mnli.de")[0]["selection"] == 60.0
    assert dev(monkeypatch, tmp_path, "mlm")[0]["selection"] == 90.0
