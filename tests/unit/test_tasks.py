"""The task literals: exact counts, and that every one can be served by readers and converters."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import ranks

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.execute.languages import ALIASES
from stilts_ds.families.registry import family_of
from stilts_ds.tasks import checklist, intermediate, programming, retrieval, targets, understanding
from stilts_ds.tasks.languages import LANGUAGES, XTREME, XTREME_R, iso3_of, name_of
from stilts_ds.tasks.registry import TASKS, get_task
from stilts_ds.tasks.spec import Local, Task

ROOT = ranks.ROOT
LANGUAGE_COUNTS = {
    "xnli": 15, "pawsx": 7, "udpos": 33, "panx": 40, "xquad": 11, "mlqa": 7, "tydiqa": 9, "bucc2018": 4, "tatoeba": 36,
    "xcopa": 11,
}  # fmt: skip
SIZES = {
    "anli_plus": (1_104_934, 22_857), "mnli": (392_702, 9_815), "qqp": (363_846, 40_430), "squad_v1": (87_599, 10_570),
    "squad_v2": (130_319, 11_873), "hellaswag": (39_905, 10_042), "ccg": (38_015, 5_484), "cosmosqa": (25_262, 2_985),
    "commonsenseqa": (9_741, 1_221),
}  # fmt: skip
SCORED = (*targets.TASKS, *retrieval.TARGETS, *checklist.TASKS, *programming.TARGETS, *understanding.TARGETS)
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def entries(task: Task) -> list[Local]:
    found = []
    for entry in (entry for split in task.local.values() for entry in split):
        step: Local | None = entry
        while step is not None:
            found.append(step)
            step = step.otherwise
    return found


def test_the_paper_has_nine_intermediate_and_nine_target_tasks() -> None:
    assert [task.name for task in intermediate.TASKS] == [*SIZES, "mlm", "siqa"]
    assert [task.name for task in targets.TASKS] == list(LANGUAGE_COUNTS)
    ranked = [*retrieval.INTERMEDIATE, *retrieval.TARGETS]
    assert [task.name for task in ranked] == ["reqa_squad", "wikipedia_links", "lareqa", "mewslix"]
    assert [task.name for task in checklist.TASKS] == ["multichecklist"]
    code = [task.name for task in (*programming.INTERMEDIATE, *programming.TARGETS)]
    in_python = ["mbpp", "humaneval_solutions", "humaneval", "mbxp", "multi_humaneval", "humaneval_xl"]
    assert code == in_python + [f"humaneval_xl_{language}" for language in programming.PROGRAMMING]
    understood = [task.name for task in (*understanding.INTERMEDIATE, *understanding.TARGETS)]
    assert understood == ["cosqa", "defect", "clone", "verify_mbpp", "mbpp_search", "lv_en_search", "code_mlm",
                          "verify_mbxp", "code_retrieval", "code_bitext", "lv_en"]  # fmt: skip
    assert len(TASKS) == 26 + len(code) + len(understood) == 54


def test_languages_per_task_and_overall() -> None:
    assert {task.name: len(task.languages) for task in targets.TASKS} == LANGUAGE_COUNTS
    nine = [task for task in targets.TASKS if task.name != "xcopa"]
    assert {code for task in nine for code in task.languages} == set(XTREME)
    assert set(TASKS["panx"].languages) == set(XTREME)
    assert (len(XTREME), len(XTREME_R)) == (40, 50)


@every_task
def test_literal_is_well_formed(task: Task) -> None:
    assert len(set(task.languages)) == len(task.languages) and set(task.languages) <= {*LANGUAGES, *ALIASES.values()}
    assert task.title and task.licence and task.url and task.metrics
    assert len(set(task.labels)) == len(task.labels)
    assert TrainingPart(**task.training)
    assert task.train_on == "" or task.train_on in TASKS
    assert task.role == ("target" if task in SCORED else "intermediate")


@every_task
def test_every_schema_has_a_reader(task: Task) -> None:
    readers = family_of(task).readers
    assert {entry.schema for entry in entries(task)} <= set(readers)
    assert {one.schema for split in task.hub.values() for one in split} <= set(family_of(task).converters)


@every_task
def test_hub_revisions_are_commits_or_explained(task: Task) -> None:
    for one in (one for split in task.hub.values() for one in split):
        assert re.fullmatch("[0-9a-f]{40}", one.revision) or "not pinned" in task.note


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_papers(name: str) -> None:
    assert (TASKS[name].sizes["train"], TASKS[name].sizes["dev"]) == SIZES[name]


def test_anli_plus_is_the_sum_of_its_parts() -> None:
    anli, mnli, snli = 16_946 + 45_460 + 100_459, 392_702, 549_367
    assert TASKS["anli_plus"].sizes == {"train": anli + mnli + snli, "dev": 3_200 + 9_815 + 9_842}


def test_shared_heads_agree_in_family_and_labels() -> None:
    assert {name for name, task in TASKS.items() if task.head_name == "nli"} == {"anli_plus", "mnli", "xnli"}
    spans = {name for name, task in TASKS.items() if task.head_name == "span"}
    assert spans == {"squad_v1", "xquad", "mlqa", "multichecklist"}
    for task in TASKS.values():
        for other in TASKS.values():
            if task.head_name == other.head_name:
                assert (task.family, task.labels) == (other.family, other.labels)


def test_only_retrieval_trains_nothing() -> None:
    assert {name for name, task in TASKS.items() if not task.trains} == {"bucc2018", "tatoeba", "code_bitext", "lv_en"}
    served = {name for name, task in TASKS.items() if task.train_on}
    assert served - {task.name for task in (*programming.TARGETS, *understanding.TARGETS)} == {
        "xnli", "xquad", "mlqa", "lareqa", "mewslix", "multichecklist"
    }  # fmt: skip


def test_get_task_suggests_the_nearest_name() -> None:
    assert get_task("xnli") is TASKS["xnli"]
    with pytest.raises(UserError, match="unknown task 'hellaswga'; did you mean hellaswag"):
        get_task("hellaswga")


def test_languages_have_distinct_codes() -> None:
    assert (iso3_of("zh"), iso3_of("sw"), iso3_of("fa"), name_of("fa")) == ("cmn", "swh", "pes", "Persian")
    assert len({language.iso3 for language in LANGUAGES.values()}) == len(LANGUAGES) == 52
    assert iso3_of("qaa") == name_of("qaa") == "qaa"


@pytest.mark.processes
def test_reading_imports_no_heavy_library() -> None:
    """Login nodes have neither torch nor DeepSpeed."""
    code = (
        "import sys, stilts_ds.data.reader, stilts_launcher.show.tasks\n"
        "print({'torch', 'transformers', 'deepspeed', 'datasets'} & set(sys.modules))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "launcher")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "set()"
