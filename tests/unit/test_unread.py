"""Settings that nothing reads are told by name; those that something reads are not."""

from __future__ import annotations

import pytest

from stilts_ds.config import load_recipe
from stilts_ds.model_files import fit_retrieval_length
from stilts_ds.shipped import shipped_recipes
from stilts_ds.unread import unread_settings


def unread(*overrides: str) -> list[str]:
    plain = [
        "evaluation.retrieval_layer=-1",
        "intermediate_training={}",
        "target_training={}",
        "intermediate={none: []}",
    ]
    return unread_settings(load_recipe("source_language", [*plain, *overrides]))


@pytest.mark.parametrize(
    "targets, changed, told",
    [
        ("xnli", ["retrieval_centering=language", "max_bitext=4"], ["max_bitext", "retrieval_centering"]),
        ("xnli, tatoeba", ["retrieval_centering=language", "max_bitext=4", "retrieval_layer=3"], []),
        ("xnli", ["max_answer_length=3", "null_threshold=0.5"], ["max_answer_length", "null_threshold"]),
        ("xquad", ["null_threshold=0.5", "max_answer_length=9"], []),
        ("lareqa", ["retrieval_layer=3", "retrieval_centering=language"], ["retrieval_layer"]),
        ("bucc2018", ["max_examples=3"], ["max_examples"]),
        ("xquad", ["generate={max_new_tokens: 9}"], ["generate"]),
        ("humaneval", ["generate={max_new_tokens: 9}", "max_examples=3"], []),
    ],
)
def test_settings_of_evaluation(targets: str, changed: list[str], told: list[str]) -> None:
    overrides = [f"evaluation.{setting}" for setting in changed]
    assert unread(f"targets=[{targets}]", *overrides) == [f"evaluation.{name}" for name in told]


@pytest.mark.parametrize(
    "changed, told",
    [
        (["targets=[tatoeba]", "target_training={max_steps: 5}"], ["target_training"]),
        (["targets=[xnli]", "target_training={max_steps: 5}"], []),
        (["targets=[xnli]", "intermediate_training={max_steps: 5}"], ["intermediate_training"]),
        (["targets=[xnli]", "mlm_training={max_steps: 5}", "intermediate={a: [mnli]}"], ["mlm_training"]),
        (["targets=[xnli]", "mlm_training={max_steps: 5}", "intermediate={a: [mlm]}"], []),
        (["targets=[xnli]", "multitask_training={max_steps: 5}", "intermediate={a: [mnli]}"], ["multitask_training"]),
        (["targets=[xnli]", "multitask_training={max_steps: 5}", "intermediate={a: [mnli, qqp]}"], []),
        (["targets=[xnli]", "sampling={unit: example}", "intermediate={a: [mnli]}"], ["sampling"]),
        (["targets=[xnli]", "sampling={unit: example}", "intermediate={a: [mnli, qqp]}"], []),
        (["targets=[panx]", "task_training={ccg: {max_steps: 5}, panx: {max_steps: 6}}"], ["task_training.ccg"]),
        # Without the section no plan could be made: pools are larger than a rank's share by default.
        (["targets=[wikipedia_links]", "target_training={pool_size: 8, per_device_train_batch_size: 8}"], []),
    ],
)
def test_sections_of_training(changed: list[str], told: list[str]) -> None:
    assert unread(*changed) == told


def test_what_limit_caps_is_not_told() -> None:
    assert unread("targets=[bucc2018]", "limit=7") == []


def test_a_length_that_the_model_lowers_is_not_told() -> None:
    asked = fit_retrieval_length(load_recipe("quickstart", ["targets=[xnli]", "evaluation={}"]))
    assert asked.evaluation.retrieval_max_seq_length < 512
    assert "evaluation.retrieval_max_seq_length" not in unread_settings(asked)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_set_nothing_that_they_do_not_read(name: str) -> None:
    assert unread_settings(load_recipe(name)) == []
