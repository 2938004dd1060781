"""`limit`: one key that caps every number of examples."""

from __future__ import annotations

import pytest
import yaml

from stilts_ds.config import load_recipe, parse_recipe, recipe_yaml
from stilts_ds.errors import UserError


def test_limit_caps_every_count_of_examples_and_nothing_else() -> None:
    whole, quick = (
        load_recipe("mini_xlmr"),
        load_recipe("mini_xlmr", ["limit=150", "task_training.mnli.eval_examples=500"]),
    )
    assert (quick.data.max_train_examples, quick.evaluation.max_examples, quick.evaluation.max_bitext) == (
        150,
        150,
        150,
    )
    # Smaller numbers of the recipe stay; a section that wins over others is capped as well.
    assert quick.target_training["eval_examples"] == quick.intermediate_training["eval_examples"] == 100
    assert quick.task_training["mnli"]["eval_examples"] == 150
    assert quick.target_training["max_steps"] == whole.target_training["max_steps"]
    assert parse_recipe(yaml.safe_load(recipe_yaml(quick)), "again") == quick
    assert load_recipe("xstilts", ["limit=7"]).training("target", {}, "mnli").eval_examples == 7


@pytest.mark.parametrize(("given", "told"), [("0", "limit"), ("many", "limit"), ("-3", "limit"), ("1.5", "limit")])
def test_a_limit_that_is_no_count_is_refused(given: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_recipe("quickstart", [f"limit={given}"])
