"""A test set is the benchmark's only if it has as many examples: in scores, report and published table."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ranks
from report_runs import build_run
from scoring_cases import MOCK, XTREME

from stilts_ds.config import parse_recipe
from stilts_ds.data.data import fitted_task
from stilts_ds.evaluate.score import score_folder
from stilts_ds.evaluate.score_tables import scores_markdown
from stilts_ds.evaluate.sizes import benchmark_sizes, other_sizes, sizes_text, unknown_sizes
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import hash_file, read_json
from stilts_ds.sources.files import read_lines
from stilts_ds.tasks import targets, treebanks
from stilts_ds.tasks.languages import iso3_of
from stilts_ds.tasks.registry import TASKS

LARGE = "FacebookAI/xlm-roberta-large"
QUICK = ComparisonSettings(resamples=200)
UD = ranks.SHARED / "data" / "xtreme"


# --- the literals ---------------------------------------------------------------------------------------------------


def test_every_language_of_every_target_has_a_size() -> None:
    for task in targets.TASKS:
        assert set(task.test_sizes) == set(task.languages), task.name


def test_sizes_are_those_of_the_published_data_sets() -> None:
    """Totals of all languages, from the metadata that docs/data_files.md names."""
    totals = {task.name: sum(task.test_sizes.values()) for task in targets.TASKS}
    assert totals == {
        "xnli": 75_150, "pawsx": 14_000, "udpos": 90_777, "panx": 262_300, "xquad": 13_090, "mlqa": 42_245,
        "tydiqa": 5_077, "bucc2018": 35_000, "tatoeba": 31_692, "xcopa": 5_500,
    }  # fmt: skip


def test_german_pos_has_four_treebanks_and_greek_only_modern_greek() -> None:
    sizes = TASKS["udpos"].test_sizes
    assert sizes["de"] == 977 + 18_459 + 1_922 + 1_000  # GSD, HDT, LIT, PUD
    assert sizes["el"] == 456  # the hub's rows add 2,353 sentences of Ancient Greek
    assert sizes["fr"] == 2_289 + 12 + 416 + 110 + 1_000 + 456 + 726  # FQB, what is left of FTB, GSD, ParTUT, PUD, ...


def test_the_treebanks_files_add_up_to_the_sizes_of_pos() -> None:
    sums = Counter[str]()
    for path, sentences in treebanks.SENTENCES.items():
        if path.startswith("ud-treebanks-v2.5/"):
            sums[Path(path).name.partition("_")[0]] += sentences
    sizes = dict(TASKS["udpos"].test_sizes)
    sizes["en"] += 500  # ESL has no words
    sizes["fr"] += 2_541 - 12  # FTB has few
    not_had = {"ar": 680, "de": 18_459, "hi": 1_684, "ru": 6_491}  # PADT, HDT, HDTB, SynTagRus
    assert {code: size - not_had.get(code, 0) for code, size in sizes.items()} == sums


@pytest.mark.data("xtreme")
def test_hashes_of_treebanks_are_those_of_the_files_at_hand() -> None:
    found = sorted(UD.glob("ud-treebanks-v2.5/*/*-ud-test.conllu"))
    assert len(found) == 4
    for file in found:
        assert treebanks.SHA256[file.relative_to(UD).as_posix()] == hash_file(file), file


@pytest.mark.data("xtreme")
def test_sizes_agree_with_the_files_at_hand() -> None:
    for code in ("de", "fr", "ja", "sw", "te", "zh", "th"):
        lines = list(read_lines(UD / "tatoeba" / f"tatoeba.{iso3_of(code)}-eng.eng"))
        assert TASKS["tatoeba"].test_sizes[code] == len(lines), code
    for code in ("en", "de", "fr", "sw", "zh"):
        assert TASKS["xnli"].test_sizes[code] == len(list(read_lines(UD / "xnli" / f"test-{code}.tsv")))
    for code in ("en", "de", "ko"):
        assert TASKS["pawsx"].test_sizes[code] == len(list(read_lines(UD / "pawsx" / f"test-{code}.tsv")))


def test_the_toy_world_has_no_benchmarks_sizes() -> None:
    values: dict[str, Any] = {"name": "t", "targets": ["xnli"], "data": {"source": "toy"}}
    assert fitted_task("xnli", parse_recipe(values, "test")).test_sizes == {}


# --- comparing ------------------------------------------------------------------------------------------------------


def test_sizes_are_compared_language_by_language() -> None:
    benchmark = benchmark_sizes(TASKS["udpos"], "test")
    assert other_sizes({"de": 977, "yo": 100, "fr": 10}, benchmark) == {"de": (977, 22_358), "fr": (10, 5_009)}
    assert unknown_sizes({"de": 977, "qaa": 5}, benchmark) == ("qaa",)
    assert benchmark_sizes(TASKS["udpos"], "dev") == {}


def test_languages_of_the_same_sizes_are_named_together() -> None:
    others = {"en": (200, 5_010), "de": (200, 5_010), "fr": (5, 7)}
    assert sizes_text(others) == "en de 200 instead of 5,010; fr 5 instead of 7"


# --- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.data("xtreme_mock")
def test_the_mock_labels_are_not_the_benchmarks() -> None:
    scores = score_folder(MOCK / "predictions", MOCK / "labels", "test", {name: TASKS[name] for name in XTREME})
    assert scores["all_task"] == pytest.approx(62.17319850507246, abs=1e-12)  # the score stands
    assert scores["complete"] is False and scores["unknown_sizes"] == {}
    assert scores["other_sizes"]["pawsx"]["ko"] == {"found": 10, "benchmark": 2_000}
    page = scores_markdown(scores, {name: TASKS[name] for name in XTREME})
    assert "## Not known to be the benchmark's test sets" in page
    assert "- pawsx: de en es fr ja ko zh 10 instead of 2,000 examples" in page


@pytest.mark.data("xtreme_mock")
def test_without_known_sizes_nothing_is_claimed() -> None:
    scores = score_folder(MOCK / "predictions", MOCK / "labels", "test", XTREME)  # literals without sizes
    assert (scores["complete"], scores["other_sizes"]) == (False, {})
    assert scores["unknown_sizes"]["pawsx"] == list(XTREME["pawsx"].languages)
    assert "- pawsx: size unknown in de en es fr ja ko zh" in scores_markdown(scores, XTREME)


# --- report ---------------------------------------------------------------------------------------------------------


def test_a_run_on_cut_data_keeps_its_scores_and_says_so(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=["pawsx"], languages="all", examples=20, benchmark=2_000, model=LARGE)
    write_report(run, QUICK)
    text = run.report.read_text(encoding="utf-8")
    assert "pawsx: not the benchmark's test set, by its number of examples: de en es fr ja ko zh 20 instead of" in text
    row = read_json(run.results)["rows"]["none"]
    assert row["complete"] is False and row["tasks"]["pawsx"]["mean"] is not None
    assert row["tasks"]["pawsx"]["other_sizes"]["ko"] == [20, 2_000] and row["tasks"]["pawsx"]["examples"]["ko"] == 20
    assert "†" in text and "86.4" not in text
    assert "No target compares with the published scores. pawsx: not the benchmark's test set: de en es" in text


def test_only_the_targets_of_the_benchmarks_size_stand_beside_published_scores(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=["pawsx", "tatoeba"], languages="all", examples=20, model=LARGE)
    for path in run.root.glob("phases/*/results/tatoeba.json"):
        before, benchmark = path.read_text().split('"benchmark"')
        path.write_text(f'{before}"benchmark"' + benchmark.replace('"jv": 20', '"jv": 205'))
    write_report(run, QUICK)
    assert set(read_json(run.results)["statistics"]["tables"]["published"]["this run: none"]) == {"pawsx"}
    assert "tatoeba: not the benchmark's test set: jv 20 instead of 205 examples." in run.report.read_text("utf-8")


def test_a_result_without_sizes_is_not_called_whole(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=["pawsx"], languages="all", examples=20, model=LARGE)
    for path in run.root.glob("phases/*/results/pawsx.json"):
        value = read_json(path)
        del value["examples"], value["benchmark"]  # as earlier versions wrote it
        path.write_text(json.dumps(value))
    write_report(run, QUICK)
    assert read_json(run.results)["rows"]["none"]["complete"] is None
    assert "pawsx: size unknown in de en es fr ja ko zh." in run.report.read_text("utf-8")
