"""The recipe: wrong keys are named, overrides win, and what is written reads back as the same recipe."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import ranks
import yaml
from pydantic import BaseModel, Field
from small_recipe import recipe, written
from stilts_launcher.cluster import Profile
from stilts_launcher.execute_settings import SettingsFile

from stilts_ds.config import EnginePart, Recipe, TrainingPart, load_recipe, parse_recipe, recipe_yaml
from stilts_ds.ds_files import ALLOWED, ALLOWED_ZERO, base_config
from stilts_ds.errors import UserError
from stilts_ds.named_tasks import check_tasks
from stilts_ds.recipe_paths import resolve_paths
from stilts_ds.shipped import shipped_recipes
from stilts_ds.tasks.registry import TASKS
from stilts_ds.yaml_files import apply_override


@pytest.mark.parametrize(
    "values, message",
    [
        ({"targts": ["xnli"]}, "unknown key 'targts'; did you mean targets"),
        ({"engin": {}}, "unknown key 'engin'; did you mean engine"),
        ({"engine": {"zero_stages": 2}}, "unknown key 'engine.zero_stages'; did you mean zero_stage"),
        ({"evaluation": {"max_bitxt": 3}}, "unknown key 'evaluation.max_bitxt'; did you mean max_bitext"),
        ({"target_training": {"learning_rat": 1}}, "'learning_rat'; did you mean learning_rate"),
        ({"intermediate_training": {"warmup": 1}}, "'warmup'; did you mean warmup_ratio"),
        ({"task_training": {"mnli": {"max_step": 1}}}, "'max_step'; did you mean max_steps"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_one(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as problem:
        recipe(**values)
    assert message in str(problem.value) and str(problem.value).startswith("test.yaml: ")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"targets": []}, "targets: "),
        ({"name": "../elsewhere"}, "name: "),
        ({"name": ".hidden"}, "name: "),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"seeds": [-1]}, "not negative"),
        ({"seeds": []}, "seeds: "),
        ({"engine": {"zero_stage": 4}}, "engine.zero_stage: "),
        ({"engine": {"zero_stage": 0, "dtype": "bf16"}}, "use engine.zero_stage=1"),
        ({"engine": {"zero_stage": 3, "torch_compile": True}}, "needs engine.zero_stage 0, 1 or 2"),
        ({"engine": {"zero_stage": 0, "offload_optimizer": True}}, "needs engine.zero_stage 1, 2 or 3"),
        ({"target_training": {"learning_rate": 0}}, "learning_rate"),
        ({"target_training": {"max_seq_length": "many"}}, "max_seq_length"),
        ({"model": {"dropout": 1.5}}, "model.dropout: "),
        ({"data": {"source": "web"}}, "data.source: "),
        ({"sampling": {"temperature": 0}}, "sampling.temperature: "),
        (
            {"evaluation": {"n_best": 3}},
            "evaluation: there is no n_best any more, nothing depended on it; leave",
        ),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="test.yaml: ") as problem:
        recipe(**values)
    assert message in str(problem.value)


def test_a_recipe_of_an_earlier_version_is_read_with_its_retired_setting() -> None:
    earlier = {"evaluation": {"n_best": 20, "max_answer_length": 9}}
    assert recipe(**earlier) == recipe(evaluation={"max_answer_length": 9})


def test_missing_keys_are_named() -> None:
    with pytest.raises(UserError, match="key 'targets' is missing"):
        parse_recipe({"name": "study"}, "test.yaml")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_is_accepted_at_every_other_stage(stage: int) -> None:
    assert recipe(engine={"zero_stage": stage, "dtype": "bf16"}).engine.dtype == "bf16"


@pytest.mark.parametrize(
    "override, path, value",
    [
        ("seeds=[1,2]", ("seeds",), [1, 2]),
        ("seeds=[1, 2]", ("seeds",), [1, 2]),
        ("engine.zero_stage=3", ("engine", "zero_stage"), 3),
        ("model.revision=null", ("model", "revision"), None),
        ("model.revision=", ("model", "revision"), None),
        ("model.name_or_path='a=b'", ("model", "name_or_path"), "a=b"),
        ("model.name_or_path=a=b", ("model", "name_or_path"), "a=b"),
        ('name="7"', ("name",), "7"),
        ("data.train_split={copa: dev}", ("data", "train_split"), {"copa": "dev"}),
        ("task_training.mnli.max_steps=5", ("task_training", "mnli", "max_steps"), 5),
        ("engine.offload_optimizer=true", ("engine", "offload_optimizer"), True),
    ],
)
def test_an_override_is_read_as_yaml(override: str, path: tuple[str, ...], value: Any) -> None:
    values: dict[str, Any] = {}
    apply_override(values, override)
    found: Any = values
    for key in path:
        found = found[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("override", ["engine.zero_stage", "=3", "seeds=[1,", "name.part=1", "seeds: [1]"])
def test_an_override_of_wrong_form_is_refused(override: str) -> None:
    with pytest.raises(UserError) as problem:
        apply_override({"name": "study"}, override)
    assert override in str(problem.value)


def test_the_command_line_wins_over_the_file_and_the_last_word_over_the_first(tmp_path: Path) -> None:
    path = written(tmp_path, "name: study\ntargets: [xnli]\nengine: {zero_stage: 2, dtype: bf16}\n")
    assert load_recipe(path).engine.zero_stage == 2
    changed = load_recipe(path, ["engine.zero_stage=3", "engine.zero_stage=1", "target_training.learning_rate=1e-4"])
    assert changed.engine.zero_stage == 1 and changed.engine.dtype == "bf16"
    assert changed.target_training == {"learning_rate": 1e-4}


@pytest.mark.parametrize(
    "text, message", [("- a\n- b\n", "must hold keys"), ("a: [", "not valid YAML"), ("", "must hold keys")]
)
def test_a_file_that_is_no_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(written(tmp_path, text))


def test_unknown_recipes_are_answered_with_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean quickstart"):
        load_recipe("quickstrat")
    with pytest.raises(UserError, match="shipped recipes: .*quickstart"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_a_phase_takes_defaults_then_the_task_then_the_phase_then_the_tasks_own_part() -> None:
    made = recipe(
        intermediate_training={"learning_rate": 3e-5, "max_steps": 7},
        target_training={"learning_rate": 5e-5, "max_seq_length": 96},
        task_training={"mnli": {"learning_rate": 9e-5}},
    )
    literal = {"max_seq_length": 384, "doc_stride": 99, "learning_rate": 1e-3}
    first = made.training("intermediate", literal, "squad")
    assert (first.learning_rate, first.max_steps, first.max_seq_length, first.doc_stride) == (3e-5, 7, 384, 99)
    second = made.training("target", literal, "mnli")
    assert (second.learning_rate, second.max_steps, second.max_seq_length, second.doc_stride) == (9e-5, -1, 96, 99)
    several = made.training("intermediate", {}, "")
    assert several.doc_stride == TrainingPart().doc_stride


def test_the_section_that_wins_says_how_windows_are_cut() -> None:
    literal = {"doc_stride": 99}
    made = recipe(intermediate_training={"window_step": 7}, multitask_training={"doc_stride": 55},
                  task_training={"squad_v1": {"window_step": None}, "squad_v2": {"doc_stride": 33}})  # fmt: skip

    def windows(task: str, several: bool = False) -> dict[str, Any]:
        in_use = made.training("intermediate", literal, task, several).in_use()
        return {key: in_use[key] for key in ("doc_stride", "window_step") if key in in_use}

    assert windows("tydiqa") == {"window_step": 7}
    assert windows("squad_v1") == {"doc_stride": 99}
    assert windows("squad_v2") == {"doc_stride": 33}
    assert windows("tydiqa", several=True) == {"doc_stride": 55}


@pytest.mark.parametrize("section", ["intermediate_training", "target_training"])
def test_a_section_gives_one_rule_for_windows(section: str) -> None:
    both = {"window_step": 8, "doc_stride": 8}
    with pytest.raises(UserError, match=rf"{section}.*give doc_stride \(.*\) or window_step \(.*\), not both"):
        recipe(**{section: both})
    with pytest.raises(UserError, match="task_training.*not both"):
        recipe(task_training={"squad_v1": both})


@pytest.mark.parametrize("part", [{"window_step": 0}, {"window_step": 1.5}, {"pair_truncation_side": "end"}])
def test_windows_that_do_not_move_and_sides_that_do_not_exist_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"intermediate_training.*{next(iter(part))}"):
        recipe(intermediate_training=part)


def test_settings_that_are_not_in_force_change_no_name() -> None:
    rows = {"max_seq_length": 256, "doc_stride": 128, "max_query_length": 64}
    assert TrainingPart().rows_in_use() == rows and list(TrainingPart().rows_in_use()) == list(rows)
    everything = TrainingPart().model_dump()
    assert everything.pop("window_step") is None and everything.pop("pair_truncation_side") == "left"
    assert everything.pop("keep_head") is False and everything.pop("robust") is None
    assert TrainingPart().in_use() == everything
    given = TrainingPart(window_step=128, pair_truncation_side="right")
    assert given.rows_in_use() == {
        "max_seq_length": 256, "window_step": 128, "max_query_length": 64, "pair_truncation_side": "right",
    }  # fmt: skip
    assert TrainingPart(**given.in_use()) == given


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_tasks_own_settings_are_training_settings(name: str) -> None:
    made = recipe().training("target", TASKS[name].training, name)
    assert made.model_dump(include=set(TASKS[name].training)) == dict(TASKS[name].training)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_read_back_unchanged(name: str) -> None:
    made = resolve_paths(load_recipe(name, ["seeds=[3,1]"]))
    check_tasks(made)
    assert parse_recipe(yaml.safe_load(recipe_yaml(made)), "written") == made
    assert made.output_dir.is_absolute()


def test_a_resolved_recipe_with_every_kind_of_value_reads_back() -> None:
    made = resolve_paths(
        recipe(
            name="a.b_c-1",
            data={"xtreme": "~/xtreme", "cache": "cache", "train_split": {"copa": "dev"}},
            evaluation={"languages": {"xnli": ["en", "no"]}},
            launch={"nproc": 2},
            execute={"readable": ["node_modules"]},
            model={"revision": "1e5"},
            intermediate={"none": [], "mnli+no": ["mnli"]},
            task_training={"mnli": {"learning_rate": "2e-5"}},
        )
    )
    back = parse_recipe(yaml.safe_load(recipe_yaml(made)), "written")
    assert back == made
    assert back.evaluation.languages == {"xnli": ["en", "no"]} and back.model.revision == "1e5"
    assert back.data.xtreme is not None and back.data.xtreme.is_absolute() and "~" not in str(back.data.xtreme)
    assert back.execute.readable[0].is_absolute()


def test_a_recipe_does_not_change_once_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        recipe().name = "other"  # type: ignore[misc]


def keys(part: type[BaseModel]) -> set[str]:
    """Every key of a section and of the sections inside it."""
    found = set(part.model_fields)
    for field in part.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= keys(field.annotation)
    return found


def undescribed(part: type[BaseModel]) -> list[str]:
    """Settings, here and in the sections inside, that no description explains; a section's is its docstring."""
    missing = []
    for name, field in part.model_fields.items():
        inside = sections_in(field.annotation)
        described = bool(field.description) or any(vars(section).get("__doc__") for section in inside)
        missing += [] if described else [f"{part.__name__}.{name}"]
        for section in inside:
            missing += undescribed(section)
    return missing


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation names, also as one of several or inside a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in sections_in(part)]


@pytest.mark.parametrize("schema", [Recipe, TrainingPart, Profile, SettingsFile])
def test_every_setting_is_described(schema: type[BaseModel]) -> None:
    """Editors show the description while a recipe or a cluster profile is written."""
    assert undescribed(schema) == []


def test_a_setting_without_a_description_would_be_found() -> None:
    class Inner(BaseModel):
        size: int = 1

    class Outer(BaseModel):
        inner: Inner | None = Field(None, description="a section")
        bare: Inner = Inner()

    assert undescribed(Outer) == ["Inner.size", "Outer.bare", "Inner.size"]


def schema_keys(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(schema_keys, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", ())) | set().union(*map(schema_keys, schema.values()))


@pytest.mark.processes
def test_the_printed_schema_covers_every_key_and_refuses_others() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "stilts_launcher.cli", "schema"],
        env=ranks.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    schema = json.loads(shown.stdout)
    assert keys(Recipe) | keys(TrainingPart) <= schema_keys(schema)
    assert schema["additionalProperties"] is False
    for part in ("intermediate_training", "target_training", "multitask_training", "mlm_training"):
        assert set(schema["properties"][part]["properties"]) == set(TrainingPart.model_fields)
        assert schema["properties"][part]["additionalProperties"] is False


@pytest.mark.parametrize("text, message", [
    ("a: &a [*a]", "a value that holds itself"), ("name: x\nname: y", "the key 'name' stands there twice"),
    ("a: " + "[" * 3000, "nested too deeply"),
    ("a: " + "{a: " * 3000, "nested too deeply"),
    ("- " * 3000, "nested too deeply"), ("\n".join(["a0: &a0 [x, x]", *(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))]), "more than 20000 values"),
    ('a: "\\ud800"', "a lone surrogate"), ('a: "\\0"', "a NUL character"), ("? [a]\n: b", "a key must be a word"),
])  # fmt: skip
def test_yaml_that_no_recipe_is_ends_at_once(text: str, message: str, tmp_path: Path) -> None:
    """Aliases of aliases, values inside themselves and deep nesting take neither time nor memory."""
    with pytest.raises(UserError, match=message) as refusal:
        load_recipe(written(tmp_path, text))
    assert "study.yaml" in str(refusal.value)


def own_file(folder: Path, **config: Any) -> EnginePart:
    path = folder / "own.json"
    path.write_text(json.dumps(config))
    return EnginePart(zero_stage=2, ds_config=path)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"train_batch_size": 8}, "'train_batch_size' may not stand there: the recipe sets it; remove it (docs"),
        (
            {"data_types": {"grad_accum_dtype": "fp32"}},
            "'data_types' may not stand there: engine.dtype says how numbers",
        ),
        ({"zero_force_ds_cpu_optimizer": False}, "it is false always"),
        (
            {"elasticity": {"enabled": True}},
            "'elasticity' may not stand there: it may change results or what checkpoints",
        ),
        ({"progressive_layer_drop": {"enabled": True}}, "'progressive_layer_drop' may not stand there"),
        (
            {"zero_optimization": {"mics_shard_size": 2}},
            "'zero_optimization.mics_shard_size' may not stand there: checkp",
        ),
        (
            {"zero_optimization": {"zero_quantized_gradients": True}},
            "zero_quantized_gradients' may not stand there: it",
        ),
        (
            {"zero_optimization": {"round_robin_gradients": True}},
            "a start that continues from a checkpoint comes to other",
        ),
        ({"zero_optimization": {"compute_grad_norm": False}}, "it must stay true, because the norm tells which step"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "engine.offload_optimizer sets it"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, 'offload_param\' cannot be {"device": "nvme"}'),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "offload_param needs engine.zero_stage=3"),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, 'reduce_bucket_size\' cannot be "auto"'),
        ({"zero_optimization": {"overlap_comm": 1}}, "'zero_optimization.overlap_comm' cannot be 1"),
        ({"zero_optimization": {"stage": 3}}, "ZeRO stage 3, but engine.zero_stage=2; set both alike"),
        ({"zero_optimization": []}, "'zero_optimization' cannot be []"),
        ({"communication_data_type": "int8"}, "'communication_data_type' cannot be \"int8\""),
    ],
)
def test_an_own_deepspeed_file_sets_only_what_is_tried(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        base_config(own_file(tmp_path, **config))
    assert str(tmp_path / "own.json") in str(error.value)


def test_an_own_deepspeed_file_may_set_buckets_and_stage(tmp_path: Path) -> None:
    zero = {"reduce_bucket_size": 5e7, "overlap_comm": True}
    config = base_config(own_file(tmp_path, communication_data_type="fp32", zero_optimization=zero))
    assert config == {"communication_data_type": "fp32", "zero_optimization": {**zero, "stage": 2}}
    assert base_config(own_file(tmp_path)) == {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize("stage", range(4))
def test_shipped_deepspeed_files_set_what_an_own_one_may(stage: int, tmp_path: Path) -> None:
    shipped = base_config(EnginePart.model_validate({"zero_stage": stage}))
    own = own_file(tmp_path, **shipped).model_copy(update={"zero_stage": stage})
    assert base_config(own) == shipped


def test_the_recipe_page_lists_the_keys_that_an_own_deepspeed_file_may_set() -> None:
    page = (ranks.ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    told = page.split("### Your own DeepSpeed file")[1].split("\n## ")[0]
    for key in {*ALLOWED, *ALLOWED_ZERO} - {"zero_optimization", "stage"}:
        assert f"`{key}`" in told, key
