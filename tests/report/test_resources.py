"""Gains by how much there is to learn a language from: groups, how many languages they have, and correlations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_runs import QUICK, build_run, table

from stilts_ds.report.correlation import ranks, spearman_replicates
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json
from stilts_ds.tasks.benchmarks import XTREME_R
from stilts_ds.tasks.languages import XTREME_R as FIFTY
from stilts_ds.tasks.registry import TASKS
from stilts_ds.tasks.resources import CC100, JOSHI, RESOURCES, cc100_group, is_unseen, joshi_group, pretraining_of

CLASSES = {
    5: "ar de en es fr ja zh",
    4: "eu fa fi hi hu it ko nl pl pt ru tr vi",
    3: "af bg bn el et he id ka kk lt ms ro ta th tl uk ur",
    2: "ht mr pa sw wo yo",
    1: "az gu jv ml my qu te",
}
LOW = {  # languages of classes 0 to 2
    "xnli": "sw", "xcopa": "ht qu sw", "udpos": "mr te wo yo", "panx": "az gu jv ml mr my pa qu sw te yo", "xquad": "",
    "mlqa": "", "tydiqa": "sw te", "tatoeba": "az jv ml mr sw te", "mewslix": "", "lareqa": "",
}  # fmt: skip


def test_every_language_has_its_class_and_sizes() -> None:
    assert set(RESOURCES) == set(FIFTY)
    for joshi, codes in CLASSES.items():
        assert {code for code, one in RESOURCES.items() if one.joshi == joshi} == set(codes.split())
    assert {code for code in FIFTY if is_unseen(code, "XLM-R")} == {"ht", "qu", "wo", "yo"}
    assert {code for code in FIFTY if is_unseen(code, "mBERT")} == {"qu", "wo"}
    small = {code for code in FIFTY if cc100_group(code) == CC100[3]}
    assert small == {"jv", "my", "pa", "af", "sw", "gu", "eu"}
    assert (RESOURCES["en"].cc100, RESOURCES["en"].syntax, RESOURCES["de"].syntax) == (300.8, 0.0, 0.0975)


def test_low_resource_languages_of_each_target() -> None:
    for name, codes in LOW.items():
        languages = XTREME_R.fitted(TASKS[name]).languages
        assert {code for code in languages if joshi_group(code) == JOSHI[2]} == set(codes.split()), name


def test_a_model_is_known_by_its_name() -> None:
    assert pretraining_of("FacebookAI/xlm-roberta-large") == pretraining_of("models/mini-xlmr/") == "XLM-R"
    assert pretraining_of("google-bert/bert-base-multilingual-cased") == "mBERT"
    assert pretraining_of("xlm-r/other") == pretraining_of("google/gemma-3-1b") == ""


# --- correlation -----------------------------------------------------------------------------------------------------


def test_equal_values_share_their_ranks() -> None:
    assert ranks(np.array([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[3.5, 1, 3.5, 2]]


def test_spearman_by_hand() -> None:
    scale = np.array([1.0, 2, 3, 4, 5])
    gains = np.array([[5.0, 6, 7, 8, 7]])  # ranks 1 2 3.5 5 3.5
    rng = np.random.default_rng(1)
    expected = np.corrcoef([1, 2, 3, 4, 5], [1, 2, 3.5, 5, 3.5])[0, 1]
    drawn = spearman_replicates(scale, gains, 500, rng)
    assert drawn[0] == pytest.approx(expected, abs=1e-12) and drawn[0] == pytest.approx(0.8207826817)
    assert len(drawn) == 501 and np.nanstd(drawn[1:]) > 0.05  # other languages give other values
    assert np.isnan(spearman_replicates(scale, np.zeros((1, 5)), 3, rng)).all()


def test_the_interval_holds_the_noise_of_examples(tmp_path: Path) -> None:
    """A gain that follows the scale exactly, but for noise in its resamples, has an interval below 1."""
    scale = np.arange(12.0)
    sure = np.repeat(scale[None], 400, axis=0)
    noisy = sure + np.concatenate([np.zeros((1, 12)), np.random.default_rng(2).normal(0, 6, (399, 12))])
    low_sure = np.quantile(spearman_replicates(scale, sure, 500, np.random.default_rng(3))[1:], 0.025)
    low_noisy = np.quantile(spearman_replicates(scale, noisy, 500, np.random.default_rng(3))[1:], 0.025)
    assert low_sure == pytest.approx(1) and low_noisy < 0.6


# --- the report ------------------------------------------------------------------------------------------------------

TRAINED = ["en", "de", "es", "ru", "hi", "th", "el", "bg", "ur", "sw"]


def skill(condition: str, task: str, language: str) -> float:
    """After mnli a language gains the more, the less text it has."""
    gain = 0.3 - 0.06 * np.log(RESOURCES[language].cc100 or 1)
    return 0.5 + (gain if condition == "mnli" and task == "xnli" else 0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("resources") / "study"
    languages = {"xnli": TRAINED, "udpos": ["en", "de", "yo", "te"]}
    found = build_run(folder, skill, {"none": [], "mnli": ["mnli"]}, ("xnli", "udpos"), languages,
                      model="FacebookAI/xlm-roberta-large", examples=400)  # fmt: skip
    write_report(found, QUICK)
    return found


def test_a_planted_correlation_is_found(run: RunDir) -> None:
    found = {(one["target"], one["scale"]): one for one in read_json(run.results)["statistics"]["correlations"]}
    planted = found["xnli", "log CC-100 size"]
    assert planted["languages"] == 9 and planted["rho"] < -0.7  # without English
    assert -1 <= planted["low"] < planted["rho"] < planted["high"] < 0.3
    assert ("udpos", "log CC-100 size") not in found  # two languages with CC-100, and Yoruba without
    over_all = found["all targets", "URIEL distance"]
    assert over_all["languages"] == 11 and over_all["low"] < over_all["rho"] < over_all["high"]
    text = run.report.read_text()
    assert "## Gains and resources" in text and f"{planted['rho']:+.2f} [" in text


def test_groups_say_how_many_languages_they_have(run: RunDir) -> None:
    text = run.report.read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    cells = {row[0]: row[1:] for row in rows if len(row) == 3}
    assert cells["resource class (Joshi et al. 2020): low (classes 0 to 2)"] == ["1 (sw)", "2 (te yo)"]
    assert cells["XLM-R's pretraining: not in the pretraining"] == ["0", "1 (yo)"]
    assert cells["size of the language's part of CC-100: at most 2 GiB"] == ["1 (sw)", "0"]
    groups = table(run, "joshi")
    assert list(groups) == list(JOSHI) and list(table(run, "pretraining")) == [
        "in the pretraining",
        "not in the pretraining",
    ]
    assert "not in CC-100" in table(run, "cc100")
    [base] = [
        read_json(p)["main"]
        for p in run.root.glob("phases/*/results/udpos.json")
        if read_json(p)["condition"] == "none"
    ]
    assert table(run, "pretraining")["not in the pretraining"]["none"]["score"] == pytest.approx(base["yo"])
