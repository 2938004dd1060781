"""Tasks that users bring: read, checked, kept in plans, part of what a phase is named by."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml
from stilts_launcher.cli import main
from stilts_launcher.needs import check_files
from table_files import TASKS as TASKS_FILE
from table_files import reviews, write_csv, write_jsonl, write_tasks

from stilts_ds import task_files
from stilts_ds.config import parse_recipe
from stilts_ds.data.data import Data
from stilts_ds.data.reader import read_examples
from stilts_ds.errors import UserError
from stilts_ds.plan_file import Plan
from stilts_ds.planner import make_plan
from stilts_ds.sources.source import DataSource
from stilts_ds.task_files import add_definitions, add_recipe_tasks, add_tasks_from, definitions
from stilts_ds.tasks.registry import TASKS, get_task


@pytest.fixture(autouse=True)
def only_shipped_tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(before)


def recipe(tasks_file: Path, **keys: Any) -> Any:
    values = {"name": "mine", "data": {"source": "local"}, "tasks_from": [str(tasks_file)], "targets": ["reviews"]}
    return parse_recipe({**values, **keys}, "the test's recipe")


def changed(path: Path, key: str, value: Any, task: str = "reviews") -> Path:
    """The tasks file with one key of a task changed; None takes it out."""
    document = yaml.safe_load(TASKS_FILE)
    document["tasks"][task][key] = value
    if value is None:
        del document["tasks"][task][key]
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_tasks_file_gives_records_of_one_text_and_of_numbers(tmp_path: Path) -> None:
    add_tasks_from([write_tasks(tmp_path, 6)])
    for name, gold in (("reviews", ["bad", "good"]), ("rating", [1.0, 3.0])):
        for split, language in (("train", "en"), ("dev", "en"), ("test", "gn")):
            records = list(read_examples(get_task(name), split, language, DataSource()))
            assert [getattr(r, "label", getattr(r, "score", None)) for r in records[:2]] == gold
            assert get_task(name).train_language == "en" and f"{split}-0" in str(records[0])


def test_two_texts_words_and_questions_are_read_from_columns_too(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"a": "one", "b": "two", "l": 1, "w": ["Ann", "ran"], "t": ["B-PER", "O"], "q": "who?", "c": "Ann ran",
         "s": {"text": ["Ann"], "answer_start": [0]}, "n": "q7", "o": ["no", "yes", "so"], "r": "C"},
    ]  # fmt: skip
    write_jsonl(tmp_path / "all.jsonl", rows)
    files = {split: "all.jsonl" for split in ("train", "dev", "test")}
    shared = {"languages": ["en"], "files": files}
    tasks = {
        "twins": {"family": "pair", "columns": {"text": "a", "text_pair": "b", "label": "l"}, "labels": ["0", "1"]},
        "names": {"family": "tag", "columns": {"words": "w", "tags": "t"}},
        "asks": {"family": "span", "columns": {"question": "q", "context": "c", "answers": "s", "id": "n"}},
        "alike": {"family": "regression", "columns": {"text": "a", "text_pair": "b", "score": "l"}},
        "picks": {"family": "choice", "columns": {"prompt": "q", "choices": "o", "answer": "r"}},
        "halves": {"family": "choice", "columns": {"prompt": "q", "choices": "a, b", "answer": "l"}},
    }
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump({"tasks": {name: {**task, **shared} for name, task in tasks.items()}}))
    add_tasks_from([path])
    read = [next(read_examples(get_task(name), "test", "en", DataSource())) for name in tasks]
    twin, tagged, question, alike, pick, half = read
    assert (twin.text_a, twin.text_b, twin.label) == ("one", "two", "1")
    assert (tagged.words, tagged.tags) == (("Ann", "ran"), ("B-PER", "O"))
    assert (question.id, question.answers[0].text, question.impossible) == ("q7", "Ann", False)
    assert (alike.text, alike.text_pair, alike.score) == ("one", "two", 1.0)
    assert (pick.prompt, pick.choices, pick.label) == ("who?", ("no", "yes", "so"), 2)
    assert (half.choices, half.label) == (("one", "two"), 1)


CHOICE_FAULTS = [
    ({"o": "no or yes"}, r"column 'o' must hold a list of texts, not str; name the column of each choice"),
    ({"o": ["no", ""]}, r"column 'o' is empty"),
    ({"o": ["no", 3]}, r"column 'o' must hold text, not int"),
    ({"o": ["no"]}, r"1 choice, expected at least 2"),
    ({"r": 2}, r"label 2 is out of range for 2 choices, counted from 0"),
    ({"r": "C"}, r"label 2 is out of range for 2 choices, counted from 0"),
    ({"r": "yes"}, r"column 'r' must hold a whole number from 0 or a letter from A, not 'yes'"),
    ({"r": "\ufb06"}, r"column 'r' must hold a whole number from 0 or a letter from A"),  # its capital is ST
    ({"r": "\u0661"}, r"column 'r' must hold a whole number from 0 or a letter from A"),
    ({"r": None}, r"column 'r' must hold text, not NoneType"),
]


@pytest.mark.parametrize(("fault", "message"), CHOICE_FAULTS, ids=[f"{fault}" for fault, _ in CHOICE_FAULTS])
def test_a_faulty_choice_names_line_column_and_remedy(fault: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "all.jsonl", [{"q": "who?", "o": ["no", "yes"], "r": 0, **fault}])
    task = {"family": "choice", "languages": ["en"], "files": {s: "all.jsonl" for s in ("train", "dev", "test")}}
    task |= {"columns": {"prompt": "q", "choices": "o", "answer": "r"}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"tasks": {"picks": task}}))
    add_tasks_from([tmp_path / "my.yaml"])
    with pytest.raises(UserError, match=f"all.jsonl:1.*{message}"):
        list(read_examples(get_task("picks"), "test", "en", DataSource()))


FAULTS: list[tuple[str, Any, str]] = [
    ("famly", "pair", r"unknown key 'tasks.reviews.famly'"),
    ("family", "pairs", r"tasks.reviews: family: 'pairs' reads no tables; did you mean pair"),
    ("family", "text", r"tasks.reviews: family: 'text' reads no tables"),
    ("languages", ["en", "Guarani!"], r"'Guarani!' is no language code"),
    ("languages", ["en", "en"], r"a language stands there twice"),
    ("columns", {"text": "sentence"}, r"columns: 'label' is missing; name the column that holds it, as label: NAME"),
    ("columns", {"txt": "sentence", "label": "stars"}, r"columns: a pair task has no column 'txt'; did you mean text"),
    ("labels", ["bad"], r"labels: name the labels, at least two"),
    ("labels", ["bad", "bad"], r"labels: a label stands there twice"),
    ("family", "choice", r"a choice task has no column 'label'; known: answer, choices, id, prompt"),
    ("metrics", ["acuracy"], r"family 'pair' has no metric 'acuracy'; did you mean accuracy"),
    ("files", {"train": "a.csv", "dev": "dev.tsv", "test": "test.jsonl"}, r"'test.jsonl' is one file for 2 languages"),
    ("files", {"dev": "dev.tsv", "test": "test-{language}.jsonl"}, r"files: there is no train file"),
    ("files", {"train": "train.csv.gz", "dev": "dev.tsv"}, r"files: there is no test file to score"),
    ("files", {"train": "a.xlsx", "dev": "dev.tsv", "test": "{language}.csv"}, r"the ending .xlsx is no table's"),
    ("files", {"train": "{lang}.csv"}, r"'{lang}' is no hole that is filled"),
    ("train_on", "xnil", r"train_on: there is no task 'xnil'; did you mean xnli"),
    ("train_on", "mnli", r"train_on: it has a train file of its own"),
    ("training", {"learning_rat": 1}, r"unknown key 'learning_rat'"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), FAULTS)
def test_a_faulty_definition_names_file_and_key(key: str, value: Any, message: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "my.yaml", key, value)
    with pytest.raises(UserError, match=message) as problem:
        add_tasks_from([path])
    assert str(path) in str(problem.value)


def test_names_that_are_taken_are_refused(tmp_path: Path) -> None:
    for name, message in (("xnli", "is a task that is shipped"), ("a@b", "is no name of a task")):
        path = tmp_path / "my.yaml"
        path.write_text(TASKS_FILE.replace("reviews:", f"{name}:"))
        with pytest.raises(UserError, match=message):
            add_tasks_from([path])
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(TASKS_FILE)
    with pytest.raises(UserError, match="a.yaml has a task 'reviews', too"):
        add_tasks_from([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    with pytest.raises(UserError, match="is neither YAML nor Python"):
        add_tasks_from([tmp_path / "my.json"])


def test_a_target_of_new_languages_may_be_trained_on_a_shipped_task(tmp_path: Path) -> None:
    labels = sorted(TASKS["mnli"].labels, reverse=True)  # another order is another head
    entry = {"family": "pair", "languages": ["gn", "quy"], "files": {"test": "{language}.csv"}, "train_on": "mnli"}
    entry |= {"columns": {"text": "p", "text_pair": "h", "label": "l"}, "labels": labels, "pivot": "en"}
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump({"tasks": {"americas": entry}}))
    with pytest.raises(UserError, match="give this task the same family and labels"):
        add_tasks_from([path])
    path.write_text(yaml.safe_dump({"tasks": {"americas": entry | {"labels": list(TASKS["mnli"].labels)}}}))
    add_tasks_from([path])
    assert get_task("americas").head_name == TASKS["mnli"].head_name and not get_task("americas").sizes


def test_a_test_split_without_labels_is_said_to_be_one(tmp_path: Path) -> None:
    write_tasks(tmp_path, 6)
    rows = [{"sentence": row["sentence"]} for row in reviews("test", 6)]
    write_jsonl(tmp_path / "test-en.jsonl", rows)
    add_tasks_from([tmp_path / "my_tasks.yaml"])
    with pytest.raises(UserError, match=r"test-en.jsonl:1: there is no column 'stars'.*found: sentence"):
        list(read_examples(get_task("reviews"), "test", "en", DataSource()))
    add_tasks_from([changed(tmp_path / "my_tasks.yaml", "unlabelled", ["test"])])
    records = list(read_examples(get_task("reviews"), "test", "en", DataSource()))
    assert [record.label for record in records] == [None] * 6


def test_an_unknown_label_names_line_column_and_the_nearest(tmp_path: Path) -> None:
    write_tasks(tmp_path, 6)
    write_csv(tmp_path / "train.csv.gz", [*reviews("train", 2), {"sentence": "x", "stars": "god", "rating": 1}])
    add_tasks_from([tmp_path / "my_tasks.yaml"])
    with pytest.raises(UserError, match=r"train.csv.gz:4: column 'stars': unknown label 'god'; did you mean good"):
        list(read_examples(get_task("reviews"), "train", "en", DataSource()))


def test_definition_and_files_name_a_phase_and_titles_do_not(tmp_path: Path) -> None:
    path = write_tasks(tmp_path, 6)

    def phase_id() -> str:
        study = recipe(path)
        add_recipe_tasks(study)
        return make_plan(study, "model", Data(study, tmp_path / "run").hash_of).phases[0].id

    first = phase_id()
    assert phase_id() == first
    changed(path, "title", "Reviews of things")
    assert phase_id() == first
    names = {first}
    for key, value in (
        ("labels", ["good", "bad"]),
        ("columns", {"text": "stars", "label": "stars"}),
        ("main_score", "f1"),
        ("training", {"train_batch_size": 16}),
    ):
        changed(path, key, value)
        if key == "main_score":
            document = yaml.safe_load(path.read_text())
            document["tasks"]["reviews"]["metrics"] = ["accuracy", "f1"]
            path.write_text(yaml.safe_dump(document))
        names.add(phase_id())
    path.write_text(TASKS_FILE)
    write_csv(tmp_path / "train.csv.gz", reviews("train", 14))
    names.add(phase_id())
    assert len(names) == 6


def test_a_plan_keeps_its_tasks_as_data_and_plans_of_shipped_tasks_stay(tmp_path: Path) -> None:
    study = recipe(write_tasks(tmp_path, 6))
    add_recipe_tasks(study)
    plan = make_plan(study, "model", Data(study, tmp_path / "run").hash_of)
    plan.save(tmp_path / "plan.json")
    task = TASKS.pop("reviews")
    # As on another machine: the tasks file is gone, and the plan says what it held.
    assert Plan.load(tmp_path / "plan.json") == plan and TASKS["reviews"] == task
    shipped = recipe(tmp_path, tasks_from=[], targets=["xnli"])
    assert "tasks" not in make_plan(shipped, "model", lambda name: name).to_json()


def test_two_runs_that_mean_different_things_by_a_name_are_not_mixed(tmp_path: Path) -> None:
    add_tasks_from([write_tasks(tmp_path, 6)])
    kept = definitions(["reviews"])
    add_definitions(kept, "runs/a/plan.json")
    kept["reviews"]["labels"] = ["good", "bad"]
    with pytest.raises(
        UserError, match="runs/b/plan.json: its task 'reviews' is not the 'reviews' that was read before"
    ):
        add_definitions(kept, "runs/b/plan.json")
    with pytest.raises(UserError, match=r"runs/c/plan.json: tasks.reviews.family"):
        add_definitions({"reviews": {**kept["reviews"], "family": 3}}, "runs/c/plan.json")


def test_a_python_file_runs_only_where_it_is_named(tmp_path: Path) -> None:
    write_tasks(tmp_path, 6)
    program = tmp_path / "more.py"
    program.write_text(
        "from stilts_ds.tasks.spec import Local, Task\n"
        "files = {split: (Local('table', f'{split}-en.jsonl'),) for split in ('train', 'dev', 'test')}\n"
        "TASKS = [Task(name='made', family='pair', role='target', languages=('en',), metrics=('accuracy',),\n"
        "              main_score='accuracy', local=files, labels=('bad', 'good'), directory='.',\n"
        "              columns={'text': 'sentence', 'label': 'stars'})]\n"
    )
    add_tasks_from([program])
    kept = definitions(["made"])
    assert next(read_examples(get_task("made"), "test", "en", DataSource())).label == "bad"
    # A run's plan holds what the program made, so that reading a run runs nothing.
    TASKS.pop("made")
    program.write_text("raise SystemExit('it ran')")
    add_definitions(kept, "plan.json")
    assert get_task("made").labels == ("bad", "good")
    for text, message in (
        ("TASKS = 3", "more.py: TASKS must be a list"),
        ("x = 1\ny = x / 0", "more.py:2: ZeroDivisionError"),
    ):
        program.write_text(text)
        with pytest.raises(UserError, match=message):
            add_tasks_from([program])


def test_installed_packages_offer_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tasks_from([write_tasks(tmp_path, 6)])
    offered = [TASKS.pop("reviews")]
    (tmp_path / "offering.py").write_text("TASKS = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    import offering  # type: ignore[import-not-found]

    offering.TASKS = offered
    entry = EntryPoint("mine", "offering:TASKS", task_files.GROUP)
    monkeypatch.setattr(task_files, "entry_points", lambda group: [entry] if group == task_files.GROUP else [])
    task_files.add_installed_tasks.cache_clear()
    add_recipe_tasks(recipe(tmp_path, tasks_from=[]))
    assert get_task("reviews").labels == ("bad", "good")
    TASKS.pop("reviews")
    task_files.add_installed_tasks.cache_clear()
    bad = EntryPoint("gone", "offering:NOTHING", task_files.GROUP)
    monkeypatch.setattr(task_files, "entry_points", lambda group: [bad])
    with pytest.raises(UserError, match="stilts.tasks: gone cannot be loaded"):
        add_recipe_tasks(recipe(tmp_path, tasks_from=[]))
    task_files.add_installed_tasks.cache_clear()


def test_every_missing_file_is_named_at_once_with_what_goes_on_without_it(tmp_path: Path) -> None:
    study = recipe(
        write_tasks(tmp_path, 6),
        targets=["reviews", "rating", "xnli"],
        intermediate={"none": [], "mnli": ["mnli"]},
        data={"source": "local", "xtreme": str(tmp_path), "intermediate": str(tmp_path)},
    )
    add_recipe_tasks(study)
    (tmp_path / "test-gn.jsonl").unlink()
    with pytest.raises(UserError) as problem:
        check_files(study, Data(study, tmp_path / "run"))
    lines = str(problem.value).split("\n")
    assert lines[0] == "19 things are missing or cannot be used:"  # of MNLI 2, of XNLI 15, of the two tasks 2
    assert len(lines) == 21 and all(line.startswith("- ") for line in lines[1:-1])
    override = "evaluation.languages=present 'targets=[reviews,rating]' 'intermediate={none: []}'"
    assert lines[-1] == f"to go on without them: {override}"
    less = recipe(tmp_path / "my_tasks.yaml", targets=["reviews"], evaluation={"languages": "present"})
    check_files(less, Data(less, tmp_path / "run"))


def test_a_task_without_a_dev_file_is_selected_on_part_of_its_train_file(tmp_path: Path) -> None:
    path = write_tasks(tmp_path, 30)
    changed(path, "files", {"train": "train.csv.gz", "test": "test-{language}.jsonl"})
    study = recipe(path)
    add_recipe_tasks(study)
    with pytest.raises(UserError, match=r"reviews has no dev file; .*or set data.dev_split.reviews=train"):
        check_files(study, Data(study, tmp_path / "run"))
    held_out = recipe(path, data={"source": "local", "dev_split": {"reviews": "train"}})
    check_files(held_out, Data(held_out, tmp_path / "run"))


def test_the_command_shows_examples_before_anything_is_paid_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tasks(tmp_path, 6)
    options = ["--show", "1", "--split", "test", "--language", "gn", "--tasks-from", str(path)]
    assert main(["tasks", "reviews", *options]) == 0
    shown = capsys.readouterr().out
    assert "test-gn:1" in shown and 'the grim thing test-0, "in gn"' in shown and "label     bad" in shown
    assert main(["tasks", "--tasks-from", str(path)]) == 0
    assert "rating" in capsys.readouterr().out
