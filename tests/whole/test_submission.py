"""A submission is complete and well formed before it is sent, or everything wrong with it is listed."""

import dataclasses
import random
import shutil
from pathlib import Path

import pytest
import ranks
from scoring_cases import MOCK, XTREME

from stilts_ds.errors import UserError
from stilts_ds.evaluate import submission
from stilts_ds.families.bitext.record import Bitext, Sentence
from stilts_ds.families.files import Expected
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.registry import family_of
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.tag.record import Tagged
from stilts_ds.tasks.benchmarks import XTREME as BENCHMARK
from stilts_ds.tasks.registry import TASKS
from stilts_ds.tasks.spec import Task

RECORDS = {
    "pair": [Pair(str(i), "a", "b", None) for i in range(3)],
    "tag": [Tagged("1", ("a", "b"), None), Tagged("2", ("c",), None)],
    "span": [Span("q1", "?", "c", (Answer("c", 0),)), Span("q2", "?", "c", ())],
    "bitext": [
        Bitext("b", [Sentence(f"xx-{i}", "t") for i in range(4)], [Sentence(f"en-{i}", "t") for i in range(3)], None)
    ],
}
VALUES = {
    "tag": [["X", "X"], ["X"]],
    "span": {"q1": "c", "q2": ""},
    "pairs": [("xx-0", "en-2")],
    "nearest": [3, 0, 1],
}
TAGS = {"udpos": ("X",), "panx": ("X",)}


def tasks() -> dict[str, Task]:
    replaced = {}
    for name, task in XTREME.items():
        labels = TAGS.get(name, task.labels)
        replaced[name] = dataclasses.replace(task, languages=task.languages[:2], labels=labels)
    return replaced


def expected() -> dict[tuple[str, str], Expected]:
    return {
        (name, language): family_of(task).files(task).expect(RECORDS[task.family])
        for name, task in tasks().items()
        for language in task.languages
    }


def folders(run: Path) -> dict[str, Path]:
    return {name: run / name for name in BENCHMARK.tasks}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name, task in tasks().items():
        files = family_of(task).files(task)
        what = task.predictions or task.family
        values = VALUES[what] if what in VALUES else [task.labels[0]] * 3
        for file in submission.submission_files(task).values():
            files.write(tmp_path / "run" / name / file, values)
            files.write(tmp_path / "run" / name / file.replace("test", "dev"), values)
    return tmp_path / "run"


def test_whole_submission_is_written(run: Path, tmp_path: Path) -> None:
    written = submission.write_submission(folders(run), tmp_path / "out", tasks(), expected())
    assert len(written) == 18
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(BENCHMARK.tasks)
    assert [p.name for p in sorted((tmp_path / "out" / "xquad").iterdir())] == ["test-en.json", "test-es.json"]
    assert submission.validate_submission(tmp_path / "out", tasks(), expected()) == []


def test_each_task_is_gathered_from_its_folder_in_plain_form(run: Path, tmp_path: Path) -> None:
    other = (run / "xnli").rename(tmp_path / "later")
    (other / "test-ar.tsv").write_bytes(b"\xef\xbb\xbfneutral\r\nneutral\r\nneutral\r\n")
    submission.write_submission({**folders(run), "xnli": other}, tmp_path / "out", tasks(), expected())
    assert (tmp_path / "out" / "xnli" / "test-ar.tsv").read_bytes() == b"neutral\nneutral\nneutral\n"


def test_everything_wrong_is_listed(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.rmtree(run / "mlqa")
    (run / "xnli" / "test-bg.tsv").unlink()
    (run / "xnli" / "test-ar.tsv").write_text("neutral\nno\nneutral\n")
    (run / "pawsx" / "test-de.tsv").write_text("0\n1\n")
    (run / "udpos" / "test-af.tsv").write_text("X\nX\nX\n")
    (run / "xquad" / "test-en.json").write_text('{"q1": "c"}')
    (run / "bucc2018" / "test-de.tsv").write_text("xx-0\ten-2\nxx-1\ten-9\n")
    (run / "tatoeba" / "test-ar.tsv").write_text("0\n1\n4\n")
    (out / "notes").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        submission.write_submission(folders(run), out, tasks(), expected())
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{out} cannot be submitted yet (9 problems):" and len(lines) == 10
    for message in (
        "mlqa: no prediction for en es",
        "xnli: no prediction for bg",
        "xnli/test-ar.tsv, line 2: unknown label 'no'",
        "pawsx/test-de.tsv, line 3: is missing: 2 lines for 3 examples",
        "udpos/test-af.tsv, line 3: sentence 1 has 3 tags for 2 words",
        "xquad/test-en.json, line 1: 1 of 2 questions have no answer: 'q2'",
        "bucc2018/test-de.tsv, line 2: the id 'en-9' names no sentence",
        "tatoeba/test-ar.tsv, line 3: the index 4 is beyond the last choice, 3",
        "notes does not belong to a submission",
    ):
        assert any(message in line for line in lines), message


def test_all_nine_tasks_are_needed(tmp_path: Path) -> None:
    some = {name: task for name, task in tasks().items() if name != "panx"}
    with pytest.raises(UserError, match="needs the task 'panx'"):
        submission.validate_submission(tmp_path, some, {})


@pytest.mark.data("xtreme_mock")
def test_mock_submission_is_valid_apart_from_an_extra_task() -> None:
    problems = submission.validate_submission(MOCK / "predictions", XTREME, {})
    assert problems == [f"{MOCK / 'predictions' / 'mewslix'} does not belong to a submission; remove it"]


# --- sizes ----------------------------------------------------------------------------------------------------------


def sized(sizes: dict[str, dict[str, int]]) -> dict[str, Task]:
    return {name: dataclasses.replace(task, test_sizes=sizes.get(name, {})) for name, task in tasks().items()}


def test_another_size_than_the_benchmarks_is_refused_whatever_the_runs_data_are(run: Path, tmp_path: Path) -> None:
    wrong = sized({"udpos": {"af": 425, "ar": 2}, "xquad": {"en": 1_190, "es": 1_190}, "bucc2018": {"de": 9_580}})
    with pytest.raises(UserError) as caught:
        submission.write_submission(folders(run), tmp_path / "out", wrong, expected())
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        "udpos: other numbers of examples than in the benchmark's test set: af 2 instead of 425; predict the whole "
        "files (docs/data_files.md)",
        "xquad: other numbers of examples than in the benchmark's test set: en es 2 instead of 1,190; predict the "
        "whole files (docs/data_files.md)",
    ]


def test_right_sizes_pass_and_unknown_ones_are_told(run: Path, tmp_path: Path) -> None:
    known = sized({"udpos": {"af": 2, "ar": 2}, "xnli": {"ar": 3}, "bucc2018": {"de": 9_580, "fr": 9_086}})
    submission.write_submission(folders(run), tmp_path / "out", known, expected())
    unknown = submission.unknown_test_sizes(known)
    assert unknown["xnli"] == ["bg"] and "udpos" not in unknown
    assert unknown["bucc2018"] == ["de", "fr"]  # a file of mined pairs does not tell how many sentences were mined


def test_the_real_literals_leave_only_mined_pairs_unknown() -> None:
    real = {name: TASKS[name] for name in BENCHMARK.tasks}
    assert submission.unknown_test_sizes(real) == {"bucc2018": ["de", "fr", "ru", "zh"]}


def test_files_of_an_earlier_submission_do_not_pass_for_this_ones(run: Path, tmp_path: Path) -> None:
    submission.write_submission(folders(run), tmp_path / "out", tasks(), expected())
    (run / "xnli" / "test-ar.tsv").unlink()
    with pytest.raises(UserError, match="xnli: no prediction for ar"):
        submission.write_submission(folders(run), tmp_path / "out", tasks(), expected())


# --- Tatoeba in the order in which the benchmark grades it ----------------------------------------------------------


def graded_by_xtreme(lines: list[int], english: list[str]) -> float:
    """Accuracy as XTREME computes it: its label file stands in the order of the sorted English sentences."""
    labels = sorted(range(len(english)), key=lambda i: english[i].strip())  # line i of one file translates line i
    return 100 * sum(a == b for a, b in zip(lines, labels)) / len(labels)


ENGLISH = ["Why?", " Come in.", "apples", "Zebras run.", "Come in!", "42 is it."]
ENCODERS = {
    "perfect": [0, 1, 2, 3, 4, 5],
    "random": [3, 1, 5, 0, 4, 2],
    "always the next": [1, 2, 3, 4, 5, 0],
}


@pytest.mark.parametrize("encoder, score", [("perfect", 100.0), ("random", 100 * 2 / 6), ("always the next", 0.0)])
def test_a_submission_scores_what_its_encoder_scores(encoder: str, score: float, run: Path, tmp_path: Path) -> None:
    """The run answers the English lines in the file's order, the benchmark grades them sorted: 0.0 for a perfect
    encoder if they were sent as they are."""
    bitext = Bitext("t", [Sentence(str(i), "x") for i in range(6)],
                    [Sentence(str(i), text) for i, text in enumerate(ENGLISH)], None)  # fmt: skip
    asked = expected()
    task = tasks()["tatoeba"]
    for language in task.languages:
        asked["tatoeba", language] = family_of(task).files(task).expect([bitext])
        family_of(task).files(task).write(run / "tatoeba" / f"test-{language}.tsv", ENCODERS[encoder])
    submission.write_submission(folders(run), tmp_path / "out", tasks(), asked)
    sent = [int(line) for line in (tmp_path / "out" / "tatoeba" / "test-ar.tsv").read_text().split()]
    assert graded_by_xtreme(sent, ENGLISH) == score
    kept = [int(line) for line in (run / "tatoeba" / "test-ar.tsv").read_text().split()]
    assert kept == ENCODERS[encoder]  # the run's own file stays in its order
    if encoder == "perfect":
        assert graded_by_xtreme(kept, ENGLISH) < 50


REAL = ranks.SHARED / "data" / "xtreme" / "tatoeba"


@pytest.mark.data("xtreme/tatoeba")
@pytest.mark.parametrize(("language", "iso3"), [("de", "deu"), ("te", "tel"), ("th", "tha")])
def test_real_files_are_graded_as_they_were_scored(language: str, iso3: str, run: Path, tmp_path: Path) -> None:
    """A perfect, a random and a shuffled encoder, with the benchmark's own size."""
    english = (REAL / f"tatoeba.{iso3}-eng.eng").read_text(encoding="utf-8").splitlines()
    count = TASKS["tatoeba"].test_sizes[language]
    dice = random.Random(language)
    shuffled = list(range(count))
    shuffled[: count // 2] = shuffled[1 : count // 2] + [0]  # half of the answers move on by one, none stays right
    encoders = {
        "perfect": (list(range(count)), 100.0),
        "random": (answers := [dice.randrange(count) for _ in range(count)],
                   100 * sum(i == a for i, a in enumerate(answers)) / count),
        "shuffled": (shuffled, 100 * (count - count // 2) / count),
    }  # fmt: skip
    bitext = Bitext("t", [Sentence(str(i), "x") for i in range(count)],
                    [Sentence(str(i), text) for i, text in enumerate(english)], None)  # fmt: skip
    task = dataclasses.replace(TASKS["tatoeba"], languages=(language,))
    files = family_of(task).files(task)
    asked = {**expected(), ("tatoeba", language): files.expect([bitext])}
    for answers, score in encoders.values():
        files.write(run / "tatoeba" / f"test-{language}.tsv", answers)
        submission.write_submission(folders(run), tmp_path / "out", {**tasks(), "tatoeba": task}, asked)
        sent = files.read(tmp_path / "out" / "tatoeba" / f"test-{language}.tsv", ())
        assert graded_by_xtreme(sent, english) == score
        (tmp_path / "out" / "tatoeba" / f"test-{language}.tsv").unlink()
