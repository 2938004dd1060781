"""What `stilts report` says about a run: right numbers, marks, gaps told, bad files named, the same bytes twice."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import ranks
import report_runs
from report_runs import HOSTILE, QUICK, build_run, table

from stilts_ds.errors import UserError
from stilts_ds.plan_file import Plan
from stilts_ds.report.load import read_curve
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import PhaseDir, RunDir, read_json, write_json
from stilts_ds.tasks.languages import LANGUAGES, XTREME_R

LARGE = "FacebookAI/xlm-roberta-large"
FILES = ("report.md", "report.html", "report.csv", "report.tex", "results.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = build_run(tmp_path_factory.mktemp("run") / "study")
    write_report(run, QUICK)
    return run


@pytest.fixture
def copy(finished: RunDir, tmp_path: Path) -> RunDir:
    """The same run, free to be damaged."""
    shutil.copytree(finished.root, tmp_path / "study")
    return RunDir(tmp_path / "study")


def result_of(run: RunDir, condition: str, task: str) -> tuple[Path, dict]:
    [found] = [
        p for p in sorted(run.root.glob(f"phases/*/results/{task}.json")) if read_json(p)["condition"] == condition
    ]
    return found, read_json(found)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", report_runs.TARGETS)
def test_gains_are_differences_of_the_results(finished: RunDir, task: str) -> None:
    ours, base = (result_of(finished, c, task)[1]["main"] for c in ("mnli", "none"))
    cell = table(finished, "matrix")["mnli"][task]
    assert cell["score"] == pytest.approx(fmean(ours.values()))
    assert cell["gain"] == pytest.approx(fmean(ours.values()) - fmean(base.values()))
    assert cell["low"] < cell["gain"] < cell["high"] and cell["p"] <= cell["p_adjusted"]
    for code, row in table(finished, f"languages-{task}").items():
        if code.rstrip("*") in ours:
            code = code.rstrip("*")
            assert row["mnli"]["gain"] == pytest.approx(ours[code] - base[code])


def test_real_gains_are_significant_and_others_are_marked(finished: RunDir) -> None:
    matrix = table(finished, "matrix")
    for task in ("xnli", "xquad", "tatoeba"):  # 50 % right before, 80 % after
        assert matrix["mnli"][task]["significant"] is True
    for task in report_runs.TARGETS:
        assert matrix[HOSTILE][task]["significant"] is False
    text = finished.report.read_text(encoding="utf-8")
    row = next(line for line in text.split("\n") if line.startswith("| &lt;img src"))
    gains = text.split(row)[1].split("\n")[1].split(" | ")
    assert all(re.fullmatch(r"[+-]\d+\.\d°", gain) for gain in gains[1:6]) and "° not significantly different" in text


def test_transfer_gap_of_the_run(finished: RunDir) -> None:
    main = result_of(finished, "none", "xnli")[1]["main"]
    gap = main["en"] - fmean(v for code, v in main.items() if code != "en")
    found = table(finished, "gap")
    assert found["none"]["xnli"]["score"] == pytest.approx(gap)
    assert "bucc2018" not in found["none"] and "gain" in found["mnli"]["xquad"]


def test_groups_are_means_over_targets_without_english(finished: RunDir) -> None:
    mains = [result_of(finished, "none", task)[1]["main"] for task in report_runs.TARGETS]
    small = [main[code] for main in mains for code in ("sw", "yo", "jv") if code in main]  # one of them a target
    assert table(finished, "wikipedia")["small"]["none"]["score"] == pytest.approx(fmean(small))
    large = [fmean(own) for main in mains if (own := [v for c, v in main.items() if c in ("de", "zh")])]
    assert table(finished, "wikipedia")["large"]["none"]["score"] == pytest.approx(fmean(large))
    assert "Austronesian" in table(finished, "family") and "Grek" in table(finished, "script")
    chinese = fmean(main["zh"] for main in mains if "zh" in main)
    assert table(finished, "script")["Hani"]["none"]["score"] == pytest.approx(chinese)


def test_csv_has_every_cell(finished: RunDir) -> None:
    with open(finished.root / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    matrix = [row for row in rows if row["table"] == "matrix"]
    assert len(matrix) == 4 * 6  # none, mnli, the hostile one, best per target; five targets and their average
    [cell] = [row for row in matrix if (row["row"], row["column"]) == ("mnli", "xnli")]
    expected = table(finished, "matrix")["mnli"]["xnli"]
    assert float(cell["gain"]) == expected["gain"] and cell["significant"] == "True"


def test_metadata_of_all_languages() -> None:
    assert len(XTREME_R) == 50
    assert {language.wikipedia for language in LANGUAGES.values()} == {"large", "medium", "small"}
    assert LANGUAGES["de"].wikipedia == "large" and LANGUAGES["yo"].wikipedia == "small"


# --- published scores ------------------------------------------------------------------------------------------------


def test_published_scores_stand_beside_a_complete_run_of_the_same_model(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=["pawsx", "tatoeba"], languages="all", examples=20, model=LARGE)
    write_report(run, QUICK)
    published = table(run, "published")
    assert published["XLM-R Large (XTREME leaderboard)"]["pawsx"]["score"] == 86.4
    own = read_json(run.results)["rows"]["none"]["tasks"]["pawsx"]["mean"]
    assert published["this run: none"]["pawsx"]["score"] == pytest.approx(own)
    assert "Beside the published scores of XLM-R Large" in run.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("facebook/tiny", "this run's model is facebook/tiny"),
        (LARGE, "No target compares with the published scores. xnli: not scored in ar bg el es fr hi ru th tr ur vi."),
    ],
)
def test_published_scores_are_not_shown_beside_what_does_not_compare(model: str, reason: str, tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=["xnli"], model=model, examples=20)
    write_report(run, QUICK)
    assert reason in run.report.read_text(encoding="utf-8") and "86.4" not in run.report.read_text(encoding="utf-8")


def test_pos_from_the_hub_and_the_toy_world_stand_beside_no_published_score(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=["pawsx", "udpos"], languages="all", examples=20, model=LARGE)
    write_report(run, QUICK)
    assert set(table(run, "published")["this run: none"]) == {"pawsx"}
    toy = Plan.load(run.plan).model_copy(update={"source": "toy"})
    toy.save(run.plan)
    write_report(run, QUICK)
    assert "this run's data are the toy world" in run.report.read_text(encoding="utf-8")


# --- what is missing, and what is broken -----------------------------------------------------------------------------


def test_a_phase_without_results_leaves_dashes_and_a_line(copy: RunDir) -> None:
    path, _ = result_of(copy, "mnli", "xnli")
    path.unlink()
    PhaseDir(path.parents[1]).set_status("failed", error="out of memory")
    said = write_report(copy, QUICK)
    matrix = table(copy, "matrix")
    assert matrix["mnli"]["xnli"] is None and matrix["mnli"]["average"] is None
    assert matrix["none"]["xnli"]["score"] and re.search(r"Missing: (1 thing|[2-9] things), listed in report.md", said)
    assert "mnli: lacks targets; its gains are over those that" in copy.report.read_text(encoding="utf-8")
    line = "No scores of xnli from the phase `target mnli (after mnli, seed 1)`, which is failed."
    assert line in copy.report.read_text(encoding="utf-8")
    page = (copy.root / "report.html").read_text(encoding="utf-8")
    assert "which is failed." in page and 'id="missing"' in page


def test_missing_languages_are_named_and_averages_marked(finished: RunDir) -> None:
    text = finished.report.read_text(encoding="utf-8")
    assert "xnli: not scored in 11 of 15 languages (ar bg el es fr hi ru th tr ur vi)." in text
    assert "† over the languages and examples scored" in text
    assert read_json(finished.results)["rows"]["none"]["complete"] is False


def test_a_language_that_one_condition_lacks_is_left_out_of_all_means(copy: RunDir) -> None:
    path, result = result_of(copy, "mnli", "xnli")
    del result["main"]["sw"]
    write_json(path, result)
    write_report(copy, QUICK)
    main = result_of(copy, "none", "xnli")[1]["main"]
    expected = fmean(v for code, v in main.items() if code != "sw")
    assert table(copy, "matrix")["none"]["xnli"]["score"] == pytest.approx(expected)
    assert "12 of 15 languages (ar bg el es fr hi ru th tr ur vi sw)" in copy.report.read_text(encoding="utf-8")


def test_without_labels_gains_are_shown_but_not_tested(copy: RunDir) -> None:
    shutil.rmtree(copy.labels / "xnli")
    write_report(copy, QUICK)
    cell = table(copy, "matrix")["mnli"]["xnli"]
    assert cell["gain"] > 10 and cell["p"] is None and cell["significant"] is None
    assert table(copy, "matrix")["mnli"]["xquad"]["significant"] is True
    assert re.search(r"\+\d+\.\d\? \|", copy.report.read_text(encoding="utf-8"))


def test_a_run_without_any_results_still_has_a_report(copy: RunDir) -> None:
    for path in copy.root.glob("phases/*/results/*.json"):
        path.unlink()
    write_report(copy, QUICK)
    assert all(cell is None for row in table(copy, "matrix").values() for cell in row.values())


def test_predictions_that_changed_after_scoring_are_found(copy: RunDir) -> None:
    path, result = result_of(copy, "mnli", "xnli")
    file = path.parents[1] / "predictions" / "xnli" / "test-de.tsv"
    words = file.read_text().split("\n")
    file.write_text("\n".join([*words[:100], *["neutral"] * (len(words) - 101), ""]))
    with pytest.raises(UserError, match=r"test-de.tsv scores .* but the results of .* say .*stilts score"):
        write_report(copy, QUICK)


@pytest.mark.parametrize(("content", "message"), [
    ("{", "is not valid JSON"), ("[]", "lacks 'task'"), ("{}", "lacks 'task'"),
    (lambda r: r | {"main": {"en": "good"}}, "must hold a score from 0 to 100"),
    (lambda r: r | {"main": {"en": 101.0}}, "must hold a score from 0 to 100"),
    (lambda r: {k: v for k, v in r.items() if k != "missing"}, "lacks 'missing'"),
])  # fmt: skip
def test_a_broken_result_file_is_named(content: object, message: str, copy: RunDir) -> None:
    path, result = result_of(copy, "mnli", "xnli")
    path.write_text(content if isinstance(content, str) else json.dumps(content(result)))  # type: ignore[operator]
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        write_report(copy, QUICK)


@pytest.mark.parametrize(("file", "content", "message"), [
    ("plan.json", '{"name": "x"}', "lacks 'model'"),
    ("plan.json", "oops", "is not valid JSON"),
    ("recipe.yaml", "a: [", "is not valid YAML"),
    ("phases/{}/status.json", "{}", "changed since it was written"),
    ("phases/{}/metrics.jsonl", '{"step": 1}\nnonsense\n{"step": 2}\n', "line 2"),
])  # fmt: skip
def test_other_broken_files_are_named(file: str, content: str, message: str, copy: RunDir) -> None:
    phase = next(p["id"] for p in read_json(copy.plan)["phases"] if p["train"])
    path = copy.root / file.format(phase)
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(path.name) + ".*" + re.escape(message)):
        write_report(copy, QUICK)


def test_the_cut_last_line_of_a_killed_run_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 2.0}\n{"step": 1, "selection": 50.0}\n{"step": 2, "train/lo')
    assert read_curve(path).loss == ((1, 2.0),) and read_curve(path).best_dev == 50.0


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_the_same_run_gives_the_same_bytes(finished: RunDir, copy: RunDir) -> None:
    before = {name: (finished.root / name).read_bytes() for name in FILES}
    moved = str(copy.root).encode(), str(finished.root).encode()
    write_report(copy, QUICK)
    after = {name: (copy.root / name).read_bytes().replace(*moved) for name in FILES}
    assert after == before


def test_no_user_text_becomes_markup(finished: RunDir) -> None:
    page = (finished.root / "report.html").read_text(encoding="utf-8")
    assert "<img" not in page and "&lt;img src" in page
    assert "<img" not in finished.report.read_text(encoding="utf-8")
    latex = (finished.root / "report.tex").read_text(encoding="utf-8")
    assert r"\textless{}img src" in latex and r"a\textbar{}b\_\$" in latex
    for block in finished.report.read_text(encoding="utf-8").split("\n\n"):  # one number of cells in every table
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.split("\n") if line.startswith("|")}
        assert len(bars) <= 1


def test_the_page_needs_nothing_from_outside(finished: RunDir) -> None:
    page = (finished.root / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)|url\(|@import|@font-face""", page)
    assert set(re.findall(r"https?://[^\s\"<]+", page)) == {"http://www.w3.org/2000/svg"}


def test_reporting_loads_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'matplotlib'}"
    program = f"import sys, stilts_ds.report.write; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], env=ranks.environment(), capture_output=True, text=True)
    assert shown.stdout.strip() == "[]", shown.stderr
