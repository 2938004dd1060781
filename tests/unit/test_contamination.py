"""Problems that a model has seen are not scored, however they came in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stilts_ds.config import parse_recipe
from stilts_ds.errors import UserError
from stilts_ds.named_tasks import check_tasks
from stilts_ds.tasks.registry import TASKS

FAMILY = [task.name for task in TASKS.values() if task.problems.get("test", "").startswith("HumanEval")]


def check(targets: list[str], **keys: Any) -> None:
    keys.setdefault("intermediate", {"none": []})
    check_tasks(parse_recipe({"name": "x", "targets": targets, **keys}, "the recipe"))


def refused(targets: list[str], problem: str, **keys: Any) -> None:
    with pytest.raises(UserError, match=problem):
        check(targets, **keys)


@pytest.mark.parametrize("target", FAMILY)
def test_all_of_humanevals_family_are_refused_with_the_problems_and_what_is_clean(target: str) -> None:
    assert len(FAMILY) == 16
    problem = rf"{target} is scored on problems of HumanEval \(0-163\), on which .*: leave one of them out"
    refused([target], rf"{problem}; mbxp and verify_mbxp can be scored", intermediate={"c": ["humaneval_solutions"]})


@pytest.mark.parametrize(
    "names", [["mnli", "humaneval_solutions"], ["humaneval_solutions.de"], ["mbpp", "humaneval_solutions"]]
)
def test_a_multitask_condition_and_a_translation_count(names: list[str]) -> None:
    refused(["humaneval_xl"], rf"on which intermediate.c trains \({names[-1]}\)", intermediate={"c": names})


def test_another_conditions_model_counts_and_a_clean_target_is_clean_of_all() -> None:
    both = {"a": ["humaneval_solutions"], "b": ["mbpp"]}
    refused(["mbxp", "code_retrieval"], "code_retrieval is scored .* intermediate.a trains", intermediate=both)
    check(["mbxp", "verify_mbxp"], intermediate=both)


def test_the_split_that_selects_counts() -> None:
    swapped = {"train_split": {"humaneval_solutions": "dev"}, "dev_split": {"humaneval_solutions": "train"}}
    condition = {"c": ["humaneval_solutions"]}
    refused(["humaneval"], r"HumanEval \(0-163\), on which intermediate.c", intermediate=condition, data=swapped)
    # Trained and selected on MBPP's 511-600 alone.
    check(["humaneval"], intermediate=condition, data={"train_split": {"humaneval_solutions": "dev"},
                                                       "dev_split": {"humaneval_solutions": "dev"}})  # fmt: skip


def test_mbpp_is_clean_of_all_since_only_its_test_exercises_are_scored() -> None:
    check([*FAMILY, "mbxp", "verify_mbxp"], intermediate={"c": ["mbpp", "verify_mbpp", "mbpp_search"]},
          sampling={"unit": "step"})  # fmt: skip
    assert {TASKS[name].problems["test"] for name in ("mbxp", "verify_mbxp")} == {"MBPP (11-510)"}


def exported(folder: Path, init: str, *tasks: str) -> str:
    folder.mkdir(parents=True)
    content = {"init": init, "phase": {"train": list(tasks)}, "step": 3}
    (folder / "stilts.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


def test_a_model_of_an_earlier_run_brings_what_it_was_trained_on(tmp_path: Path) -> None:
    first = exported(tmp_path / "first", "xlm-roberta-base", "humaneval_solutions")
    second = exported(tmp_path / "second", first, "mnli", "a_task_of_another_version")
    refused(
        ["humaneval_xl"], r"the model in .*second was trained \(humaneval_solutions\)", model={"name_or_path": second}
    )
    check(["mbxp"], model={"name_or_path": second})
    third = exported(tmp_path / "third", str(tmp_path / "third"), "mnli")  # a folder that names itself
    check(["humaneval_xl"], model={"name_or_path": third})
    (tmp_path / "third" / "stilts.json").write_text("{}", encoding="utf-8")
    refused(["humaneval_xl"], "third/stilts.json does not say what", model={"name_or_path": third})
