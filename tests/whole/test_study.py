"""The shipped studies: how many phases each has, with the settings of the paper, and nothing twice."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ranks
from conftest import stilts

from stilts_ds.config import Recipe, load_recipe, parse_recipe
from stilts_ds.errors import UserError
from stilts_ds.plan_file import Phase
from stilts_ds.planner import make_plan
from stilts_ds.tasks.registry import get_task

pytestmark = pytest.mark.processes

NINE = ("anli_plus", "mnli", "qqp", "squad_v1", "squad_v2", "hellaswag", "ccg", "cosmosqa", "commonsenseqa")
TARGETS = ["xnli", "pawsx", "udpos", "panx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba"]


def planned(recipe: Recipe) -> list[Phase]:
    """The plan's phases, with each task's name in place of the hash of its data."""
    return list(make_plan(recipe, "model", lambda task: task).phases)


def study(**more: Any) -> Recipe:
    return parse_recipe({"name": "study", "targets": ["tatoeba"], **more}, "test.yaml")


def test_the_complete_study_has_each_phase_once() -> None:
    """22 conditions: none, nine tasks, all nine, and each of these 11 with masked language modelling.

    Train tasks of the nine targets: mnli (XNLI), pawsx, udpos, panx, squad_v1 (XQuAD and MLQA), tydiqa: six. BUCC and
    Tatoeba share one retrieval phase; that of the pretrained encoder is the same for all seeds.
    """
    recipe = load_recipe("xstilts")
    assert recipe.targets == TARGETS and recipe.seeds == [1, 2, 3]
    singles = [[task] for task in NINE]
    without = [[], *singles, list(NINE)]
    assert sorted(recipe.intermediate.values()) == sorted([*without, *([*tasks, "mlm"] for tasks in without)])
    phases = planned(recipe)
    assert len({phase.id for phase in phases}) == len(phases) == 63 + 396 + 64
    assert Counter(phase.kind for phase in phases) == {
        "intermediate": (22 - 1) * 3,
        "target": 22 * 3 * 6,
        "retrieval": (22 - 1) * 3 + 1,
    }
    plain = [phase for phase in phases if phase.condition == "none"]
    assert len(plain) == 3 * 6 + 1 and not any(phase.init for phase in plain)


def test_the_other_studies() -> None:
    """5 conditions of one seed: 4 intermediate, 5 x 6 target, 5 retrieval. 3 conditions: 2, 3 x 6, 3."""
    single, large = (Counter(phase.kind for phase in planned(load_recipe(name))) for name in
                     ("xstilts_single_gpu", "xlmr_xl_zero3"))  # fmt: skip
    assert single == {"intermediate": 4, "target": 30, "retrieval": 5}
    assert large == {"intermediate": 2, "target": 18, "retrieval": 3}
    said = (ranks.ROOT / "stilts_ds/recipes/xstilts_single_gpu.yaml").read_text(encoding="utf-8")
    assert f"\n# {4 + 30 + 5} phases in place of 523." in said


# Batch size and epochs of phase 2 and of phase 3, as the paper's appendix has them.
PHASE_2 = {
    "anli_plus": (24, 2), "mnli": (24, 2), "qqp": (24, 3), "squad_v1": (8, 3), "squad_v2": (8, 3),
    "hellaswag": (24, 7), "ccg": (24, 15), "cosmosqa": (4, 15), "commonsenseqa": (4, 10),
}  # fmt: skip
PHASE_3 = {"xnli": (32, 2), "pawsx": (32, 5), "udpos": (32, 10), "panx": (32, 10), "xquad": (16, 2), "tydiqa": (16, 2)}


def test_the_paper_s_settings() -> None:
    phases = [phase for phase in planned(load_recipe("xstilts")) if phase.train]
    for phase in phases:
        made = phase.setting()
        assert (made.adam_epsilon, made.weight_decay, made.warmup_ratio, made.max_grad_norm) == (1e-8, 0.01, 0.1, 1.0)
        assert (made.eval_steps, made.eval_examples, made.early_stopping_patience) == (1000, 500, 30)
        wanted = 3e-6 if phase.kind == "target" else 5e-6 if "mlm" in phase.train else 1e-5
        assert made.learning_rate == wanted, phase.title
        question = {"squad_v1", "squad_v2", "tydiqa"} & set(phase.train)
        for task in phase.train:
            alone = len(set(phase.train) - {"mlm"}) <= 1
            long = bool(question) if alone else task in question
            rows = phase.setting(task)
            assert rows.max_seq_length == (384 if long else 256), (phase.title, task)
            assert (rows.window_step, rows.max_query_length, rows.pair_truncation_side) == (128, 64, "right")
    found = {phase.condition: (s.train_batch_size, s.num_train_epochs)
             for phase in phases if phase.kind == "intermediate" for s in [phase.setting()]}  # fmt: skip
    del found["mlm"]
    expected = {**PHASE_2, "multitask": (24, 3)}
    assert found == {**expected, **{f"{name}_mlm": value for name, value in expected.items()}}
    targets = {phase.evaluate[0]: (s.train_batch_size, s.num_train_epochs)
               for phase in phases if phase.kind == "target" for s in [phase.setting()]}  # fmt: skip
    assert targets == PHASE_3


def test_a_plan_without_its_data_is_shown_and_says_what_is_lacking(tmp_path: Path) -> None:
    """The hub's pinned revisions need no network; CCGbank is local only, and is not here; Cosmos QA's branch moves."""
    said = stilts("plan", "xstilts", cwd=tmp_path, HF_HOME=str(tmp_path / "hf"))
    assert said.startswith("xstilts: 523 phases (63 intermediate, 396 target, 64 retrieval)")
    # One screen: a line for each condition. It was 2,891 lines.
    assert len(said.splitlines()) < 40 and re.search(
        r"^multitask_mlm +0/3 .* about [\d,]+ +unknown$", said, re.MULTILINE
    )
    by_phase = stilts("plan", "xstilts", "--phases", cwd=tmp_path, HF_HOME=str(tmp_path / "hf"))
    names = re.findall(r"^([\w+-]+/(?:seed\d/)?[\w+]+)  \[[^]]+\]$", by_phase, re.MULTILINE)
    assert len(set(names)) == len(names) == 523
    assert "  ccg: data.intermediate is not set; the hub has not got its files" in said
    assert "  allenai/cosmos_qa: the revision refs/convert/parquet moves, and its commit is not known: " in said
    assert not (tmp_path / "runs/xstilts/plan.json").exists()
    folder = tmp_path / "own" / "ccg"
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("rain\tN\n\n", encoding="utf-8")
    (tmp_path / "hf" / "datasets" / "allenai___cosmos_qa" / "default" / "0.0.0" / ("a" * 40)).mkdir(parents=True)
    local = f"data.intermediate={folder.parent}"
    said = stilts("plan", "xstilts", local, cwd=tmp_path, HF_HOME=str(tmp_path / "hf"))
    # What is still lacking changes no name, so the plan is kept: BUCC is in local files only, whatever the source.
    assert "This cannot run yet:\n  bucc2018: data.xtreme is not set" in said
    assert said.rstrip().endswith("'targets=[xnli,pawsx,udpos,panx,xquad,mlqa,tydiqa,tatoeba]'")
    assert (tmp_path / "runs/xstilts/plan.json").exists()


def test_the_control_of_text_alone_is_an_intermediate_phase_and_never_the_baseline() -> None:
    recipe = study(intermediate={"mlm": ["mlm"], "none": []}, mlm_training={"learning_rate": 7e-6})
    first, after, plain = planned(recipe)
    assert (first.kind, first.train, first.setting().train_batch_size) == ("intermediate", ("mlm",), 8)
    assert first.setting().learning_rate == 7e-6
    assert (after.init, after.condition) == (first.id, "mlm") and (plain.init, plain.condition) == ("", "none")


def test_rows_of_each_of_several_tasks_are_cut_as_the_task_s_own() -> None:
    conditions = {"both": ["squad_v1", "squad_v2", "mnli", "qqp"]}
    more = {
        "intermediate_training": {"window_step": 96, "pair_truncation_side": "right"},
        "task_training": {"squad_v2": {"doc_stride": 64}, "qqp": {"pair_truncation_side": "left"}},
    }
    [phase] = [phase for phase in planned(study(intermediate=conditions, **more)) if phase.kind == "intermediate"]
    rows = {task: phase.setting(task).rows_in_use() for task in phase.train}
    lengths = {"max_query_length": 64}
    right, question, pair = {"pair_truncation_side": "right"}, {"max_seq_length": 384}, {"max_seq_length": 256}
    assert rows == {
        "squad_v1": {**lengths, **question, **right, "window_step": 96},
        "squad_v2": {**lengths, **question, **right, "doc_stride": 64},
        "mnli": {**lengths, **pair, **right, "window_step": 96},
        "qqp": {**lengths, **pair, "window_step": 96},
    }
    assert phase.lengths == rows and Phase(**phase.to_json()) == phase


def test_where_rows_are_cut_names_a_phase_and_what_is_not_in_force_does_not() -> None:
    def ids(**training: Any) -> list[str]:
        return [phase.id for phase in planned(study(targets=["xquad"], target_training=training))]

    plain = ids()
    assert ids(window_step=None, pair_truncation_side="left") == ids(doc_stride=128) == plain
    others = [ids(window_step=128), ids(window_step=96), ids(max_query_length=32), ids(doc_stride=96)]
    assert len({tuple(names) for names in (plain, *others)}) == 5
    assert ids(pair_truncation_side="right") == plain  # questions have no such side


def test_settings_of_a_phase_with_one_task_are_the_task_s_also_with_text_or_translations_beside_it() -> None:
    conditions = {"a": ["squad_v1"], "b": ["squad_v1", "mlm"], "c": ["squad_v1", "squad_v1.de"], "d": ["squad_v1.de"]}
    more = {"task_training": {"squad_v1": {"num_train_epochs": 9}}, "multitask_training": {"train_batch_size": 77}}
    phases = [p for p in planned(study(intermediate=conditions, **more)) if p.kind == "intermediate"]
    for phase in phases:
        made = phase.setting()
        assert (made.train_batch_size, made.num_train_epochs, made.max_seq_length, phase.lengths) == (8, 9, 384, {})


def test_several_tasks_take_the_multitask_part_and_keep_their_own_lengths() -> None:
    more = {
        "intermediate_training": {"train_batch_size": 20, "learning_rate": 2e-5},
        "multitask_training": {"train_batch_size": 40, "num_train_epochs": 3},
        "mlm_training": {"num_train_epochs": 4},
        "task_training": {"qqp": {"max_seq_length": 64, "num_train_epochs": 9}},
    }
    conditions = {"two": ["squad_v1", "qqp"], "three": ["squad_v1", "qqp", "mlm"]}
    two, three = (p for p in planned(study(intermediate=conditions, **more)) if p.kind == "intermediate")
    made = two.setting()
    assert (made.train_batch_size, made.num_train_epochs, made.learning_rate) == (40, 3, 2e-5)
    assert three.setting().num_train_epochs == 4
    assert [two.setting(name).max_seq_length for name in ("squad_v1", "qqp")] == [384, 64]
    assert three.setting("mlm").max_seq_length == 256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"intermediate": {"a": ["mnli", "mnli"]}}, "'mnli' stands there twice"),
        ({"intermediate": {"a": ["xnli.de"]}}, "'xnli.de': only English intermediate tasks come in translation"),
        ({"intermediate": {"a": ["mlm.de"]}}, "'mlm.de': only English intermediate tasks"),
        ({"intermediate": {"a": ["mnli.en"]}}, "letters other than 'en'"),
        ({"intermediate": {"a": ["mnli.German"]}}, "a code of two or three letters"),
        ({"intermediate": {"a": ["mnlli.de"]}}, "unknown task 'mnlli'; did you mean mnli"),
        ({"targets": ["mnli.de"]}, "mnli.de is training data; score mnli"),
        ({"task_training": {"mnli.de": {}}}, "task_training: mnli.de follows mnli; give that one"),
        ({"data": {"train_split": {"mnli.de": "dev"}}}, "data.train_split: mnli.de follows mnli"),
        ({"evaluation": {"languages": {"xnly": ["de"]}}}, "languages: unknown task .xnly.; did you mean xnli"),
        (
            {"data": {"source": "hub"}, "evaluation": {"languages": {"udpos": ["de", "pl"]}}},
            "evaluation.languages.udpos: 'pl' is no language of udpos in xtreme; it has af, ar, ",
        ),
        ({"task_training": {"xnli": {}}}, "task_training: xnli is trained on mnli; give that one"),
        ({"data": {"train_split": {"mlqa": "dev"}}}, "split: mlqa is trained on squad_v1; give that one"),
        ({"evaluation": {"splits": {"xquad": "dev"}}}, "xquad has no split .dev. of its own; it has test"),
        ({"intermediate": {"a": ["mnli", "qqp"]}, "sampling": {"weights": {"mnli": 2}}}, "no weight for qqp"),
        (
            {"intermediate": {"a": ["mnli", "qqp"]}, "sampling": {"weights": {"mnli": 2, "qqp": 1, "ccg": 1}}},
            "weights.ccg: no condition mixes ccg",
        ),
        ({"intermediate": {"a": ["mnli", "mlm"]}, "sampling": {"weights": {"mnli": 2}}}, "no weight for mlm"),
    ],
)
def test_what_cannot_be_planned_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        planned(study(**settings))


def test_a_translation_shares_everything_but_the_train_split() -> None:
    english, german = get_task("mnli"), get_task("mnli.de")
    assert (german.head_name, german.labels, german.family) == (english.head_name, english.labels, english.family)
    assert (german.origin, german.train_language, german.pivot) == ("mnli", "de", "en")
    assert get_task("qqp.sw").head_name == "qqp" and english.train_language == "en"
