"""Test sets whose two texts are in different languages: the diagonal is the ordinary set, and labels are the same."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from reader_files import empty_source, put, rows
from report_runs import QUICK, build_run, table

from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.errors import UserError
from stilts_ds.report.write import write_report
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task

ENGLISH = "one premise\tfirst\tneutral\none premise\tsecond\tentailment\n"
GERMAN = "eine Prämisse\terste\tneutral\neine Prämisse\tzweite\tentailment\n"


@pytest.fixture()
def source(tmp_path: Path) -> DataSource:
    source = empty_source(tmp_path)
    put(source, "xnli", "xnli/test-en.tsv", ENGLISH)
    put(source, "xnli", "xnli/test-de.tsv", GERMAN)
    return source


def test_the_first_text_is_one_languages_and_the_second_the_others(source: DataSource) -> None:
    pairs = rows(source, "xnli+de", "test", "en")
    assert [(pair.text_a, pair.text_b, pair.label) for pair in pairs] == [
        ("one premise", "erste", "neutral"),
        ("one premise", "zweite", "entailment"),
    ]


def test_the_diagonal_is_the_ordinary_set_to_the_hash(source: DataSource) -> None:
    assert rows(source, "xnli+de", "test", "de") == rows(source, "xnli", "test", "de")
    crossed, plain = (find_origin(get_task(name), "test", "de", source) for name in ("xnli+de", "xnli"))
    assert crossed.hash == plain.hash != find_origin(get_task("xnli+de"), "test", "en", source).hash


def test_there_are_as_many_cells_as_pairs_of_languages() -> None:
    cells = {name: len(get_task(name).languages) ** 2 for name in ("xnli", "pawsx", "mlqa")}
    assert cells == {"xnli": 225, "pawsx": 49, "mlqa": 49}
    assert all(get_task(f"mlqa+{code}").languages == get_task("mlqa").languages for code in get_task("mlqa").languages)
    [file] = get_task("mlqa+de").local["test"]
    assert file.path == "mlqa/MLQA_V1/test/test-context-{language}-question-de.json"
    assert (get_task("xnli+de").train_on, get_task("pawsx+de").train_on, get_task("mlqa+de").train_on) == (
        "mnli", "pawsx", "squad_v1",
    )  # fmt: skip


@pytest.mark.parametrize(
    "name, message",
    [
        ("xquad+de", "the languages of xquad are not parallel row by row"),
        ("xnli+xx", "xnli has no language 'xx'"),
        ("xnli+de@typo-5", "a noisy text is in one language; give xnli@typo-5"),
    ],
)
def test_sets_that_cannot_be_crossed_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_task(name)


def test_rows_that_are_not_parallel_are_refused(source: DataSource) -> None:
    put(source, "xnli", "xnli/test-de.tsv", "a\tb\tneutral\n")
    with pytest.raises(UserError, match="en and de have different numbers of rows"):
        rows(source, "xnli+de", "test", "en")
    put(source, "xnli", "xnli/test-de.tsv", GERMAN.replace("entailment", "contradiction"))
    with pytest.raises(UserError, match="1 of 2 rows have another label in de; the rows are not parallel"):
        rows(source, "xnli+de", "test", "en")


def test_rows_that_were_labelled_otherwise_in_one_language_are_left_out_and_counted(source: DataSource) -> None:
    put(source, "xnli", "xnli/test-en.tsv", ENGLISH * 20)
    put(source, "xnli", "xnli/test-de.tsv", GERMAN * 19 + GERMAN.replace("neutral", "contradiction"))
    tally = Counter[str]()
    pairs = list(read_examples(get_task("xnli+de"), "test", "en", source, tally))
    assert len(pairs) == 39 and tally == {"another label in de": 1}
    assert (pairs[37].label, pairs[38].label, pairs[38].text_b) == ("entailment", "entailment", "zweite")


@pytest.mark.processes  # a report asks the system which processor it is
def test_every_pair_of_languages_stands_in_the_report(tmp_path: Path) -> None:
    targets, languages = ("xnli", "xnli+de", "xnli+en"), ["en", "de", "sw"]
    run = build_run(tmp_path, lambda *_: 0.7, {"none": []}, targets, dict.fromkeys(targets, languages), examples=60)
    write_report(run, QUICK)
    pairs = table(run, "pairs-xnli-none")
    assert list(pairs) == languages and list(pairs["sw"]) == ["en", "de", "mixed"]
    assert pairs["en"]["mixed"]["score"] == pairs["en"]["de"]["score"]
    section = run.report.read_text(encoding="utf-8").partition("every pair of languages")[2]
    [row] = [line for line in section.splitlines() if line.startswith("| de |")][:1]
    assert ["*" in cell for cell in row.split("|")[2:5]] == [False, True, False], "equal languages are marked"
    assert pairs["sw"]["mixed"]["score"] == pytest.approx((pairs["sw"]["en"]["score"] + pairs["sw"]["de"]["score"]) / 2)


@pytest.mark.parametrize(
    "name, split, codes, number",
    [("xnli", "dev", ("en", "de", "fr", "sw", "zh"), 2490), ("pawsx", "test", ("en", "de", "ko"), 2000)],
)
def test_every_cell_of_real_sets_has_the_labels_of_both_languages(
    name: str, split: str, codes: tuple[str, ...], number: int, shared_data: Path
) -> None:
    """All pairs of the languages at hand: 25 of XNLI's 225 cells, 9 of PAWS-X's 49."""
    source = DataSource("local", xtreme=shared_data / "xtreme")
    plain = {code: rows(source, name, split, code) for code in codes}
    for first, second in itertools.product(codes, codes):
        tally = Counter[str]()
        cell = list(read_examples(get_task(f"{name}+{second}"), split, first, source, tally))
        # A row without a label in one language has that of the other.
        labelled = [(a, b, {a.label, b.label} - {None}) for a, b in zip(plain[first], plain[second])]
        kept = [(a.text_a, b.text_b, labels) for a, b, labels in labelled if len(labels) < 2]
        assert [(pair.text_a, pair.text_b, {pair.label} - {None}) for pair in cell] == kept
        assert len(cell) + sum(tally.values()) == number and len(cell) > 0.97 * number
        if first == second:
            crossed, ordinary = (
                find_origin(get_task(task), split, first, source) for task in (f"{name}+{first}", name)
            )
            assert crossed.hash == ordinary.hash and len(cell) == number


def test_mlqas_pairs_share_their_answers_with_the_ordinary_set_of_the_context(
    shared_data: Path, tmp_path: Path
) -> None:
    """MLQA's file of German questions on English contexts, made of the two ordinary files by the questions' ids."""
    files = shared_data / "xtreme/mlqa/MLQA_V1/dev"
    german = json.loads((files / "dev-context-de-question-de.json").read_text(encoding="utf-8"))
    asked = {qa["id"]: qa["question"] for entry in german["data"] for p in entry["paragraphs"] for qa in p["qas"]}
    english = json.loads((files / "dev-context-en-question-en.json").read_text(encoding="utf-8"))
    for paragraph in (p for entry in english["data"] for p in entry["paragraphs"]):
        known = [qa for qa in paragraph["qas"] if qa["id"] in asked]
        paragraph["qas"] = [{**qa, "question": asked[qa["id"]]} for qa in known]
    source = empty_source(tmp_path)
    put(source, "mlqa", "mlqa/MLQA_V1/dev/dev-context-en-question-de.json", json.dumps(english))
    crossed = rows(source, "mlqa+de", "dev", "en")
    plain = {span.id: span for span in rows(DataSource("local", xtreme=shared_data / "xtreme"), "mlqa", "dev", "en")}
    assert len(crossed) == 512
    for span in crossed:
        assert (span.context, span.answers) == (plain[span.id].context, plain[span.id].answers)
        assert span.question == asked[span.id] != plain[span.id].question
