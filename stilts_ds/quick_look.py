"""The recipe's `limit`: one key in place of the four that say how many examples are used."""

from __future__ import annotations

from typing import Any

# Sections of a recipe and the keys in them that count examples. Several sections may say how many select; the last
# two only where the recipe has them, since they win over the others.
ALWAYS = (
    ("data", "max_train_examples"),
    ("evaluation", "max_examples"),
    ("evaluation", "max_bitext"),
    ("intermediate_training", "eval_examples"),
    ("target_training", "eval_examples"),
)
WHERE_GIVEN = (("multitask_training", "eval_examples"), ("mlm_training", "eval_examples"))


def cap_examples(values: Any) -> Any:
    """The values of a recipe with no more than `limit` examples anywhere; as they are without `limit`.

    Smaller numbers stay. Steps are not touched: with epochs they follow from the examples.
    """
    # What is no recipe at all, or no number, is refused by the checks that follow.
    if not isinstance(values, dict) or not isinstance(values.get("limit"), int):
        return values
    limit, capped = values["limit"], dict(values)
    by_task = capped.get("task_training")
    if isinstance(by_task, dict):
        capped["task_training"] = {task: _capped(section, "eval_examples", limit) for task, section in by_task.items()}
    for section, key in ALWAYS:
        capped[section] = _capped({key: None, **_given(capped, section)}, key, limit)
    for section, key in WHERE_GIVEN:
        if section in capped:
            capped[section] = _capped(capped[section], key, limit)
    return capped


def _given(values: dict[str, Any], section: str) -> Any:
    given = values.get(section)
    return {} if given is None else given


def _capped(section: Any, key: str, limit: int) -> Any:
    if not isinstance(section, dict) or key not in section:
        return section
    number = section[key]
    return {**section, key: min(number, limit) if isinstance(number, int) else limit}
