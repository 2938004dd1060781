"""The recipe's JSON schema, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from stilts_ds.config import Recipe, TrainingPart


def recipe_schema() -> dict[str, Any]:
    """The schema of Recipe, in which the parts that override training settings need not hold all of them."""
    full = Recipe.model_json_schema()
    training = TrainingPart.model_json_schema()
    # An override names only the settings that differ, so none of them is required.
    training["required"] = []
    for key in ("intermediate_training", "target_training", "multitask_training", "mlm_training"):
        full["properties"][key] = {**full["properties"][key], **training}
    # Its keys are names of tasks, which a schema cannot list: translated and noisy ones are made as they are named.
    full["properties"]["task_training"]["additionalProperties"] = training
    return full
