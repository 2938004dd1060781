"""Values and paths are read as they are meant, and a fault is blamed on the file or the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_recipe import recipe, written

from stilts_ds.config import load_recipe
from stilts_ds.errors import UserError
from stilts_ds.recipe_paths import resolve_paths


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["engine.stage=3"], "^command line, 'engine.stage=3': unknown key 'engine.stage'; did you mean zero_stage"),
        (["engin.zero_stage=3"], "^command line, 'engin.zero_stage=3': unknown key 'engin'; did you mean engine"),
        (["name=a", "seeds=[-1]"], r"^command line, 'seeds=\[-1\]': seeds: seeds must be"),
        (["data.seed=x"], "^command line, 'data.seed=x': data.seed: "),
        (["evaluation.languages.panx=[[]]"], r"^command line, 'evaluation.languages.panx=\[\[\]\]': "),
        (["target_training.learning_rat=1"], "study.yaml, with 'target_training.learning_rat=1' of the command line: "),
        (["engine.dtype=bf16", "engine.zero_stage=0"], "study.yaml, with engine.dtype=bf16 engine.zero_stage=0: "),
        (["seeds=1,2"], r"^command line, 'seeds=1,2': seeds: .*; write a list in brackets, such as \[1, 2\]"),
    ],
)
def test_a_fault_of_the_command_line_is_not_blamed_on_the_file(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    path = written(tmp_path, "name: study\ntargets: [xnli]\n")
    with pytest.raises(UserError, match=message):
        load_recipe(path, overrides)


def test_a_fault_of_the_file_is_not_blamed_on_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, "name: study\ntargets: [xnli]\nengine: {zero_stage: 7, dtype: fp32}\n")
    with pytest.raises(UserError, match="study.yaml: engine.zero_stage: "):
        load_recipe(path, ["engine.dtype=bf16", "seeds=[2]"])


@pytest.mark.parametrize(
    "text, override, key, value",
    [
        ("evaluation: {languages: {panx: [sv, no, da]}}", "", "evaluation.languages", {"panx": ["sv", "no", "da"]}),
        ("evaluation: {languages: {panx: [on, No, y]}}", "", "evaluation.languages", {"panx": ["on", "No", "y"]}),
        ("", "evaluation.languages.panx=[sv, no]", "evaluation.languages", {"panx": ["sv", "no"]}),
        ("", "evaluation.languages.panx=no", "evaluation.languages", {"panx": ["no"]}),
        ("data: {train_split: {no: dev, 7: no}}", "", "data.train_split", {"no": "dev", "7": "no"}),
        ("intermediate: {1: [], 2024-01-01: [mnli]}", "", "intermediate", {"1": [], "2024-01-01": ["mnli"]}),
        ("model: {revision: 0123456}", "", "model.revision", "0123456"),
        ("model: {revision: 1234567}", "", "model.revision", "1234567"),
        ("model: {revision: 1.10}", "", "model.revision", "1.10"),
        ("model: {revision: 12:30:00}", "", "model.revision", "12:30:00"),
        ("", "model.revision=0x1F", "model.revision", "0x1F"),
        ("", "name=007", "name", "007"),
        ("", "name=2024-11-05", "name", "2024-11-05"),
        ("output_dir: 2024", "", "output_dir", Path("2024")),
        ("seeds: [010]", "", "seeds", [10]),
        ("seeds: 3", "", "seeds", [3]),
        ("", "seeds=1", "seeds", [1]),
        ("", "targets=panx", "targets", ["panx"]),
        ("", "intermediate.mnli=mnli", "intermediate", {"mnli": ["mnli"]}),
        ("engine:", "engine.zero_stage=3", "engine.zero_stage", 3),
        ("engine: {offload_optimizer: off, gradient_checkpointing: yes}", "", "engine.gradient_checkpointing", True),
        ("x: &x [no]\nevaluation: {languages: {panx: *x, udpos: *x}}", "x", "", None),
    ],
)
def test_values_are_read_as_they_are_meant(tmp_path: Path, text: str, override: str, key: str, value: Any) -> None:
    path = written(tmp_path, f"{text}\nname: study\ntargets: [xnli]\n" if "output" in text else
                   f"name: study\ntargets: [xnli]\n{text}\n")  # fmt: skip
    if not key:  # an anchor under a key that no recipe has
        with pytest.raises(UserError, match="unknown key 'x'"):
            load_recipe(path)
        return
    found: Any = load_recipe(path, [override] if override else [])
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)


def test_lists_that_stand_at_several_places_are_read_as_meant(tmp_path: Path) -> None:
    text = "name: study\ntargets: [xnli]\nevaluation: {languages: {panx: &some [no, sv], udpos: *some}}\n"
    made = load_recipe(written(tmp_path, text))
    assert made.evaluation.languages == {"panx": ["no", "sv"], "udpos": ["no", "sv"]}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"targets": ["xnli", "panx", "xnli"]}, "targets: 'xnli' stands there twice; name each once"),
        ({"intermediate": {"all": ["mnli", "mnli"]}}, "intermediate: all: 'mnli' stands there twice"),
        ({"evaluation": {"languages": {"panx": ["de", "de"]}}}, "evaluation: panx: 'de' stands there twice"),
    ],
)
def test_what_is_named_twice_is_not_counted_twice(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(**values)


def test_paths_are_filled_in_and_recorded_as_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "models" / "xlmr").mkdir(parents=True)
    made = resolve_paths(
        recipe(
            output_dir="$SCRATCH/runs",
            model={"name_or_path": "models/xlmr"},
            engine={"ds_config": "~/z1.json"},
            data={"xtreme": "${SCRATCH}/xtreme", "text": "text", "cache": "~/cache"},
        )
    )
    assert made.output_dir == tmp_path / "scratch" / "runs"
    assert made.model.name_or_path == str(tmp_path / "models" / "xlmr")
    assert made.engine.ds_config == tmp_path / "home" / "z1.json"
    assert (made.data.xtreme, made.data.text, made.data.cache) == (
        tmp_path / "scratch" / "xtreme", tmp_path / "text", tmp_path / "home" / "cache")  # fmt: skip
    assert resolve_paths(made) == made

    def model_of(name: str) -> str:
        return resolve_paths(recipe(model={"name_or_path": name})).model.name_or_path

    assert model_of("~/xlmr") == str(tmp_path / "home" / "xlmr")
    assert model_of("./none") == str(tmp_path / "none")
    assert model_of("x" * 5000) == "x" * 5000  # no file system takes it: no file, and refused where it is looked for
    assert (model_of("FacebookAI/xlm-roberta-base"), model_of("toy")) == ("FacebookAI/xlm-roberta-base", "toy")


@pytest.mark.parametrize("values, key", [
    ({"output_dir": "$NOT_SET_HERE/runs"}, "output_dir"),
    ({"data": {"xtreme": "/data/${NOT_SET_HERE}"}}, "data.xtreme"),
    ({"model": {"name_or_path": "$NOT_SET_HERE/xlmr"}}, "model.name_or_path"),
    ({"engine": {"ds_config": "$NOT_SET_HERE/z.json"}}, "engine.ds_config"),
])  # fmt: skip
def test_a_variable_that_is_not_set_is_refused(values: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}: .*: \$NOT_SET_HERE is not set; set it, or write the path without"):
        resolve_paths(recipe(**values))


def test_a_home_that_nobody_has_is_refused() -> None:
    with pytest.raises(UserError, match="^output_dir: ~nobody-of-this-name/x: there is no home folder"):
        resolve_paths(recipe(output_dir="~nobody-of-this-name/x"))
