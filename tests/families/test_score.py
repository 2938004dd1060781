"""Scores of folders: the benchmark's own numbers, withheld averages, splits kept apart, all families."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scoring_cases import MOCK, XTREME, task

from stilts_ds.errors import UserError
from stilts_ds.evaluate import score, score_tables
from stilts_ds.families.pair import predictions as pair
from stilts_ds.families.registry import main_metric
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.tasks.benchmarks import XTREME as BENCHMARK
from stilts_ds.tasks.registry import get_task


@pytest.fixture(scope="module")
def mock_scores() -> dict[str, Any]:
    return score.score_folder(MOCK / "predictions", MOCK / "labels", "test", XTREME)


@pytest.mark.data("xtreme_mock")
def test_mock_submission_has_the_published_scores(mock_scores: dict[str, Any]) -> None:
    assert mock_scores["all_task"] == 62.17319850507246
    assert mock_scores["classification"] == 41.04761904761905
    assert mock_scores["tagging"] == 63.862698495741725
    assert mock_scores["qa"] == 80.37568011593986
    assert mock_scores["retrieval"] == 54.30555555555556
    assert mock_scores["missing"] == {} and mock_scores["split"] == "test"
    assert mock_scores["mlqa"]["avg_f1"] == pytest.approx(81.76870748299321, rel=1e-14)
    assert set(mock_scores["udpos"]) >= {"f1", "precision", "recall", "token_accuracy", "avg_token_accuracy"}


@pytest.mark.data("xtreme_mock")
def test_overall_does_not_depend_on_the_order_of_tasks(mock_scores: dict[str, Any]) -> None:
    backwards = dict(reversed(XTREME.items()))
    again = score.score_folder(MOCK / "predictions", MOCK / "labels", "test", backwards)
    assert {k: again[k] for k in ("all_task", "qa")} == {k: mock_scores[k] for k in ("all_task", "qa")}


@pytest.mark.data("xtreme_mock")
def test_missing_language_is_listed_and_its_averages_withheld(tmp_path: Path) -> None:
    shutil.copytree(MOCK / "predictions", tmp_path / "p")
    (tmp_path / "p" / "xnli" / "test-th.tsv").unlink()
    shutil.rmtree(tmp_path / "p" / "mlqa")
    scores = score.score_folder(tmp_path / "p", MOCK / "labels", "test", XTREME)
    assert scores["all_task"] is None and scores["classification"] is None and scores["qa"] is None
    assert scores["tagging"] == 63.862698495741725
    assert scores["xnli"]["avg_accuracy"] is None and scores["xnli"]["avg_metric"] is None
    assert len(scores["xnli"]["accuracy"]) == 14
    assert list(scores["missing"]["xnli"]) == ["th"] and len(scores["missing"]["mlqa"]) == 7
    assert "xnli/test-th.tsv" in scores["missing"]["xnli"]["th"]
    present = scores["mean_of_present"]
    assert present["xnli"]["languages"] == 14 and present["xnli"]["of"] == 15
    assert present["xnli"]["score"] == pytest.approx(sum(scores["xnli"]["accuracy"].values()) / 14)
    assert present["mlqa"] == {"score": None, "languages": 0, "of": 7}
    page = score_tables.scores_markdown(scores, XTREME)
    assert "| xnli | - |" in page and "- th: no predictions: " in page


PAIRS = list("0110")
TAGGED = [["NOUN", "NOUN", "X"]]
SPANS = [Span("q", "?", "die rote 红楼", (Answer("die rote", 0), Answer("红楼", 9)))]
CHUNKS = "f1 precision recall token_accuracy"
ANSWERS = "exact_match f1"
NO_CHUNK = {"f1": 0.0, "precision": 0.0, "recall": 0.0, "token_accuracy": pytest.approx(200 / 3)}
HALF_RIGHT = {"exact_match": 0.0, "f1": pytest.approx(200 / 3)}
MLQA = {"answer_rules": "mlqa"}


@pytest.mark.parametrize(
    "family, metrics, main_score, more, gold, predicted, language, expected, main",
    [
        ("pair", "accuracy", "accuracy", {}, PAIRS, list("0100"), "de", {"accuracy": 75.0}, 75.0),
        ("pair", "accuracy f1", "accuracy", {}, PAIRS, list("0011"), "en", {"accuracy": 50.0, "f1": 50.0}, 50.0),
        ("pair", "accuracy f1", "accuracy_f1", {}, PAIRS, list("0100"), "en",
         {"accuracy": 75.0, "f1": pytest.approx(200 / 3)}, (75 + 200 / 3) / 2),
        ("choice", "accuracy", "accuracy", {}, [1], [1], "en", {"accuracy": 100.0}, 100.0),
        ("tag", "accuracy", "accuracy", {}, TAGGED, [["NOUN", "X", "X"]], "en", {"accuracy": pytest.approx(200 / 3)},
         200 / 3),
        ("tag", CHUNKS, "f1", {}, TAGGED, [["NOUN", "NOUN", "NOUN"]], "de", NO_CHUNK, 0.0),
        ("span", ANSWERS, "exact_match_f1", {}, SPANS, {"q": "rote"}, "de", HALF_RIGHT, 100 / 3),
        ("span", ANSWERS, "exact_match_f1", MLQA, SPANS, {"q": "rote"}, "de", {"exact_match": 100.0, "f1": 100.0},
         100.0),
        ("span", ANSWERS, "exact_match_f1", MLQA, SPANS, {"q": "红"}, "zh", HALF_RIGHT, 100 / 3),
        ("bitext", "accuracy", "accuracy", {}, [3, 1], [3, 2], "fr", {"accuracy": 50.0}, 50.0),
        ("bitext", "f1 precision recall", "f1", {}, [("a", "b")], [["a", "b"]], "fr",
         {"f1": 100.0, "precision": 100.0, "recall": 100.0}, 100.0),
    ],
)  # fmt: skip
def test_one_language_of_every_family(
    family: str,
    metrics: str,
    main_score: str,
    more: dict[str, str],
    gold: Any,
    predicted: Any,
    language: str,
    expected: dict[str, float],
    main: float,
) -> None:
    of_family = task("t", family, language, metrics, main_score, **more)
    scores = score.score_values(of_family, gold, predicted, language)
    assert scores == expected
    assert main_metric(of_family).of_scores(scores) == pytest.approx(main)


def test_qqp_selects_by_the_mean_of_accuracy_and_f1() -> None:
    main = main_metric(get_task("qqp"))
    units = main.count(PAIRS, list("0100"), "en")
    assert main.score(units) == pytest.approx((75 + 200 / 3) / 2) and main.parts == ("accuracy", "f1")
    with pytest.raises(ValueError, match="accuracy_f1 is no ratio of sums"):
        main.ratio(units)


def test_positive_class_is_the_last_label() -> None:
    asked = task("t", "pair", "en", "accuracy f1", "accuracy", ("no", "yes"))
    assert score.score_values(asked, ["no", "yes"], ["yes", "yes"], "en")["f1"] == pytest.approx(200 / 3)


def test_unknown_metrics_are_refused() -> None:
    with pytest.raises(UserError, match="has no metric 'acuracy'; did you mean accuracy"):
        score.score_values(task("t", "pair", "en", "acuracy", "accuracy"), PAIRS, list("0000"), "en")
    with pytest.raises(UserError, match="has no metric 'acuracy'; did you mean accuracy"):
        main_metric(task("t", "pair", "en", "accuracy", "acuracy"))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    labels, predictions = tmp_path / "labels", tmp_path / "predictions"
    for split, right in (("dev", "0110"), ("test", "0000")):
        pair.FILE.write_labels(labels / "t" / f"{split}-de.tsv", list("0110"))
        pair.FILE.write(predictions / "t" / f"{split}-de.tsv", list(right))
    return predictions, labels


TINY = {"t": task("t", "pair", "de", "accuracy", "accuracy", ("0", "1"))}


def test_splits_are_never_mixed(folders: tuple[Path, Path]) -> None:
    assert score.score_folder(*folders, "dev", TINY)["t"]["avg_metric"] == 100.0
    assert score.score_folder(*folders, "test", TINY)["t"]["avg_metric"] == 50.0
    (folders[0] / "t" / "test-de.tsv").unlink()
    scores = score.score_folder(*folders, "test", TINY)
    assert scores["mean_of_tasks"] == {"score": None, "tasks": []} and list(scores["missing"]["t"]) == ["de"]
    with pytest.raises(UserError, match="unknown split 'tets'; did you mean test"):
        score.score_folder(*folders, "tets", TINY)


@pytest.mark.data("xtreme_mock")
def test_only_the_whole_benchmark_has_its_overall_scores(mock_scores: dict[str, Any]) -> None:
    assert sorted(name for names in BENCHMARK.groups.values() for name in names) == sorted(XTREME)
    part = {name: XTREME[name] for name in ("pawsx", "xnli", "xquad")}
    scores = score.score_folder(MOCK / "predictions", MOCK / "labels", "test", part)
    assert (scores["all_task"], scores["qa"]) == (None, None)
    assert scores["classification"] == mock_scores["classification"]
    mean = sum(mock_scores[name]["avg_metric"] for name in part) / 3
    assert scores["mean_of_tasks"]["tasks"] == list(part) and scores["mean_of_tasks"]["score"] == pytest.approx(mean)
    assert "It is not XTREME's score" in score_tables.scores_markdown(scores, part)


def test_unlabelled_language_is_listed(folders: tuple[Path, Path]) -> None:
    (folders[1] / "t" / "test-de.tsv").unlink()
    scores = score.score_folder(*folders, "test", TINY)
    assert scores["missing"]["t"]["de"].startswith("no labels: ")


def test_a_line_too_many_is_named(folders: tuple[Path, Path]) -> None:
    (folders[0] / "t" / "test-de.tsv").write_text("0\n" * 5)
    with pytest.raises(UserError, match="predictions/t/test-de.tsv, line 5: one line too many"):
        score.score_folder(*folders, "test", TINY)


def test_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        score.score_folder(tmp_path / "none", tmp_path, "test", TINY)


def test_score_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    scores = score.score_folder(*folders, "dev", TINY, {"pooling": "mean", "hidden_states": 14})
    score_tables.write_scores(tmp_path / "out", scores, TINY)
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "scores.csv").read_text())))
    assert [row["score"] for row in rows] == ["", "", "100.0", "100.0", "100.0"]  # the overall scores are XTREME's
    assert rows[2] == {
        "split": "dev",
        "task": "t",
        "group": "classification",
        "metric": "accuracy",
        "language": "de",
        "score": "100.0",
    }
    page = (tmp_path / "out" / "scores.md").read_text()
    assert page.startswith("# Scores on the dev split\n")
    assert "- pooling: mean\n- hidden_states: 14\n" in page and "| accuracy | 100.00 | 100.00 |" in page


def test_what_a_score_s_page_quotes_makes_no_cells_links_or_formulas(tmp_path: Path) -> None:
    """Reasons and settings may quote paths and lines of somebody's files."""
    labels = tmp_path / "l" / "xnli" / "test-de.tsv"
    labels.parent.mkdir(parents=True)
    labels.write_text("neutral\n")
    tasks = {"xnli": XTREME["xnli"]}
    folder = tmp_path / "<b>](x)|"
    folder.mkdir()
    scores = score.score_folder(folder, tmp_path / "l", "test", tasks)
    assert "<b>](x)|" in scores["missing"]["xnli"]["de"]
    scores["settings"] = {"split": "\x1b[2J|<script>"}
    page = score_tables.scores_markdown(scores, tasks)
    assert "&lt;b&gt;]\\(x)\\|" in page and "x1b[2J\\|&lt;script&gt;" in page
    assert not any(mark in page for mark in ("<b>", "\x1b", "](x)", "<script>"))
    lines = score_tables.scores_csv({**scores, "split": "=1+1"}, tasks).splitlines()
    assert all(line.startswith("'=1+1,") for line in lines[1:])
