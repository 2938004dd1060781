"""The five studies of code: every recipe names what exists, explains itself, and has a small version."""

from __future__ import annotations

import pytest
import ranks

from stilts_ds.config import load_recipe
from stilts_ds.errors import UserError
from stilts_ds.named_tasks import check_tasks

QUESTIONS = [f"question_{number}" for number in range(5)]
FOLDER = ranks.ROOT / "stilts_ds" / "recipes"


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_recipe_and_its_small_version_ask_the_same(name: str) -> None:
    large, small = load_recipe(name), load_recipe(f"{name}_small")
    for recipe in (large, small):
        check_tasks(recipe)
        text = (FOLDER / f"{recipe.name}.yaml").read_text(encoding="utf-8")
        verb = "run" if recipe is small else "plan"
        # What it asks, and the command that asks it.
        assert text.startswith("# ") and f"#   stilts {verb} {recipe.name} " in text
        assert recipe.intermediate["none"] == []
    assert len(large.seeds) == 3 and len(small.seeds) in (1, 2, 3)  # as many as its page in docs/results has
    trained = {task for tasks in small.intermediate.values() for task in tasks}
    assert trained <= {task for tasks in large.intermediate.values() for task in tasks}
    # At full size XTREME-R is a recipe of its own.
    others = load_recipe("xtreme_r").targets if name == "question_0" else []
    assert set(small.targets) <= {*large.targets, *others}


def test_question_2_asks_about_every_code_task_and_the_papers_nine_targets() -> None:
    recipe = load_recipe("question_2")
    assert recipe.intermediate["codexglue"] == ["cosqa", "defect", "clone", "code_mlm", "lv_en_search"]
    assert recipe.targets == load_recipe("xstilts").targets


def test_the_other_half_of_question_4_is_refused_beside_humaneval_and_runs_without() -> None:
    family = "targets=[humaneval, humaneval_xl, multi_humaneval, code_retrieval]"
    with pytest.raises(UserError, match=r"is scored on problems of HumanEval \(0-163\).*mbxp and verify_mbxp"):
        check_tasks(load_recipe("question_4", [family]))
    check_tasks(load_recipe("question_4", [family, "intermediate={none: [], mbpp: [mbpp]}"]))
