"""Targets that another language than English trains: what they read, what they share, and the matrix of sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_recipe
from conftest import stilts
from reader_files import empty_source, put, rows
from report_runs import QUICK, build_run, table

from stilts_ds.config import Recipe
from stilts_ds.data.reader import find_origin
from stilts_ds.errors import UserError
from stilts_ds.named_tasks import check_tasks
from stilts_ds.planner import make_plan
from stilts_ds.report.write import write_report
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task, owner, tasks_named

TARGETS = ("panx", "panx~de", "panx~sw")
LANGUAGES = dict.fromkeys(TARGETS, ["en", "de", "sw", "zh", "yo"])


def recipe(targets: list[str], **more: object) -> Recipe:
    return small_recipe.recipe(targets=targets, **more)


def plan_ids(targets: list[str], **more: object) -> dict[str, str]:
    """What trains -> the id of its phase."""
    plan = make_plan(recipe(targets, **more), "model", lambda name: f"files of {name}")
    return {phase.train[0]: phase.id for phase in plan.phases if phase.kind == "target"}


def test_a_source_language_is_a_name() -> None:
    task = get_task("panx~de")
    assert (task.pivot, task.train_language, task.head_name, task.base_name) == ("de", "de", "panx", "panx")
    assert task.languages == get_task("panx").languages and task.trains and not task.train_on
    assert list(tasks_named(["panx~de", "xnli", "panx", "other"])) == ["xnli", "panx", "panx~de"]
    noisy = get_task("panx~de@typo-5")
    assert (noisy.train_on, noisy.plain_name, noisy.base_name) == ("panx~de", "panx~de", "panx")


def test_its_own_train_and_dev_split_are_read(tmp_path: Path) -> None:
    source = empty_source(tmp_path)
    for split in ("train", "dev"):
        for language, word in (("en", "house"), ("de", "Haus")):
            put(source, "panx", f"panx/{split}-{language}.tsv", f"{word}\tO\n{split}\tB-LOC\n\n")
    for split in ("train", "dev"):
        [record] = rows(source, "panx~de", split, "de")
        assert record.words == ("Haus", split)


def test_a_target_that_trains_on_another_task_reads_its_translation_and_its_own_dev_split(tmp_path: Path) -> None:
    source = empty_source(tmp_path)
    (tmp_path / "translated/de").mkdir(parents=True)
    translated = DataSource("local", xtreme=source.xtreme, translated=tmp_path / "translated")
    row = {"gold_label": "neutral", "sentence1": "ein Satz", "sentence2": "noch einer", "pairID": "1"}
    put(source, "xnli", "xnli/dev-de.tsv", "ein Satz der Auswahl\tnoch einer\tneutral\n")
    path = tmp_path / "translated/de" / get_task("mnli").local["train"][0].path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    [trained] = rows(translated, "xnli~de", "train", "de")
    [selecting] = rows(translated, "xnli~de", "dev", "de")
    assert (trained.text_a, selecting.text_a) == ("ein Satz", "ein Satz der Auswahl")
    assert get_task("xnli~de").head_name == "nli"
    assert owner(get_task("xquad~de"), "dev").name == "squad_v1.de"  # XQuAD has no dev split of its own
    assert owner(get_task("mlqa~de"), "dev").name == "mlqa~de"


def test_english_training_keeps_its_phase_and_each_source_has_its_own() -> None:
    alone = plan_ids(["panx"])
    both = plan_ids(["panx", "panx~de", "panx~sw", "panx@typo-5", "panx~de@typo-5"])
    assert both["panx"] == alone["panx"]
    assert list(both) == ["panx", "panx~de", "panx~sw"] and len(set(both.values())) == 3


def test_settings_of_a_task_hold_for_every_source_language() -> None:
    plain = plan_ids(["panx", "panx~de"])
    set_by_task = plan_ids(["panx", "panx~de"], task_training={"panx": {"learning_rate": 1e-4}})
    on_dev = plan_ids(["panx", "panx~de"], data={"train_split": {"panx": "dev"}})
    assert all(plain[name] != set_by_task[name] != on_dev[name] for name in plain)
    with pytest.raises(UserError, match="task_training: panx~de follows panx; give that one"):
        check_tasks(recipe(["panx", "panx~de"], task_training={"panx~de": {"learning_rate": 1e-4}}))


@pytest.mark.parametrize(
    "name, message",
    [
        ("panx~en", "a code of two or three letters other than 'en'"),
        ("tatoeba~de", "only targets that are trained have another source language"),
        ("mnli~de", "only targets that are trained have another source language"),
        ("panx~de", "panx~de is compared with panx, trained on English; score that, too"),
    ],
)
def test_a_source_that_cannot_train_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_tasks(recipe([name]))


def test_a_language_without_train_files_is_told_by_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"panx~xx: no train file for 'xx': there is no .*panx/train-xx.tsv"):
        find_origin(get_task("panx~xx"), "train", "xx", empty_source(tmp_path))


# --- the matrix -------------------------------------------------------------------------------------------------------


def german_is_best(condition: str, task: str, language: str) -> float:
    """German gives ten points more than English everywhere, Swahili as many, and thirty more in Swahili."""
    better = {"panx~de": 0.1, "panx~sw": 0.3 * (language == "sw")}.get(task, 0.0)
    return 0.5 + better


@pytest.mark.processes  # a report asks the system which processor it is
def test_the_matrix_of_sources_has_fair_means_and_tested_gains(tmp_path: Path) -> None:
    run = build_run(tmp_path, german_is_best, {"none": []}, TARGETS, LANGUAGES, examples=200)
    write_report(run, QUICK)
    matrix = table(run, "sources-panx-none")
    assert list(matrix) == ["en", "de", "sw"]
    assert list(matrix["en"]) == ["en", "de", "sw", "zh", "yo", "all", "no source"]
    for row in matrix.values():
        assert row["all"]["score"] == pytest.approx(sum(row[c]["score"] for c in ("en", "de", "sw", "zh", "yo")) / 5)
        assert row["no source"]["score"] == pytest.approx((row["zh"]["score"] + row["yo"]["score"]) / 2)
    assert matrix["de"]["no source"]["significant"] and matrix["de"]["no source"]["mean_gain"] > 0
    assert matrix["sw"]["sw"]["significant"] and not matrix["sw"]["no source"]["significant"]
    assert "gain" not in matrix["en"]["all"]
    assert list(table(run, "matrix")["none"]) == ["panx", "average"]  # other sources stand in no average


@pytest.mark.processes
def test_a_source_language_trains_selects_and_is_scored(tmp_path: Path) -> None:
    stilts(
        "run", "source_language_small", "targets=[panx, panx~qab, panx~qab@typo-5]", "target_training.max_steps=3",
        "evaluation.max_examples=20", cwd=tmp_path,
    )  # fmt: skip
    run = tmp_path / "runs/source_language_small"
    [phase] = run.glob("phases/target-panx.qab-*")
    dev = [json.loads(line) for line in (phase / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/panx~qab/qab/f1" in line for line in dev)
    result = json.loads((phase / "results/panx~qab.json").read_text())
    assert result["pivot"] == "qab" and set(result["languages"]) == {"qaa", "qab", "qac", "qad"}
    noisy = json.loads((phase / "results/panx~qab@typo-5.json").read_text())
    assert set(noisy["languages"]) == {"qaa", "qab", "qac", "qad"}
    assert list(table_of(run, "sources-panx-none")) == ["qaa", "qab"]


def table_of(run: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "results.json").read_text())["statistics"]["tables"][name]
    return found
