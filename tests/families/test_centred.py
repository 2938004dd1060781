"""Retrieval among centred vectors: a second column, which tells an offset of a language from lost content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clock_bitext import HOURS, MEANINGS, OFFSETS, OffsetVectors, TwelveSentences
from report_runs import QUICK, build_run, name_files, table

import stilts_ds
from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import score_folder
from stilts_ds.families.base import Prediction
from stilts_ds.families.bitext import BITEXT
from stilts_ds.families.bitext.head import centred
from stilts_ds.families.metrics import scores_of
from stilts_ds.families.ranking.predictions import centred as centre_languages
from stilts_ds.families.ranking.predictions import pool_languages, rank
from stilts_ds.families.ranking.record import Candidate, Query, gold
from stilts_ds.families.registry import family_of
from stilts_ds.plan_file import Plan
from stilts_ds.report.load import load_run
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json, write_json
from stilts_ds.tasks.registry import get_task

CENTRED, PLAIN = EvaluationPart(retrieval_centering="language"), EvaluationPart()


def predicted(task: str, folder: Path, evaluation: EvaluationPart, *splits: str) -> tuple[Any, dict[str, Any]]:
    """The last split's predictions and all that is kept."""
    kept: dict[str, Any] = {}
    values: Any = None
    for name in splits:
        split: Any = TwelveSentences(get_task(task), name)
        asked = Prediction(split, "", (), TrainingPart(), evaluation, OffsetVectors(), folder, kept)  # type: ignore[arg-type]
        values = BITEXT.predict(BITEXT, asked)
    return values, kept


def test_the_mean_of_a_side_is_taken_off() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 6.0], [2.0, 1.0]])
    assert torch.equal(centred(rows, "de"), torch.tensor([[-1.0, -1.0], [1.0, 3.0], [0.0, -2.0]]))
    for nothing_left in (rows[:1], torch.ones(3, 2), torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])):
        with pytest.raises(UserError, match=r"a de sentence is the mean of its side.*retrieval_centering at none"):
            centred(nothing_left, "de")


def test_an_offset_hides_neighbours_and_centring_shows_them(tmp_path: Path) -> None:
    """By hand: every English vector is nearest to the German one that leans its way most, (5, 1), a quarter turn."""
    values, kept = predicted("tatoeba", tmp_path, CENTRED, "test")
    assert values == [3] * HOURS and kept == {"centred-test-de.json": list(range(HOURS))}
    # Without the setting nothing is computed, and what stood there goes.
    assert predicted("tatoeba", tmp_path, PLAIN, "test") == (values, {"centred-test-de.json": None})


def test_mining_has_a_threshold_of_its_own_among_centred_vectors(tmp_path: Path) -> None:
    values, kept = predicted("bucc2018", tmp_path, CENTRED, "dev", "test")
    plain, kept_plain = predicted("bucc2018", tmp_path, PLAIN, "dev", "test")
    assert values == plain
    assert set(kept["centred-test-de.json"]) == {(f"de-{i}", f"en-{i}") for i in range(HOURS)}
    assert kept["threshold-centred-de.json"]["dev_f1"] == 100 > kept["threshold-de.json"]["dev_f1"]
    assert set(kept["drawn-f1-centred-test-de.json"]) == {100.0}
    own = {name: value for name, value in kept.items() if "centred" not in name}
    assert own == {name: value for name, value in kept_plain.items() if value is not None}


def test_ranked_candidates_lose_the_mean_of_their_language(tmp_path: Path) -> None:
    """A query of LAReQA whose right candidates are in two languages, which lie apart."""
    task = get_task("lareqa")
    ids = [f"{code}_{i}" for i in range(HOURS) for code in ("de", "en")]
    pool = [Candidate(id, "") for id in ids]
    assert pool_languages(task, pool) == [id[:2] for id in ids] and pool_languages(task, [Candidate("Q42", "")]) == []
    bank = np.stack([np.concatenate([OFFSETS[id[:2]], 0.1 * MEANINGS[int(id[3:])]]) for id in ids])
    queries = np.stack([np.concatenate([OFFSETS["de"], 0.1 * meaning]) for meaning in MEANINGS])
    records = [Query(str(i), "", (f"de_{i}", f"en_{i}"), "", pool) for i in range(HOURS)]

    def score(left: np.ndarray, right: np.ndarray) -> dict[str, float]:
        ranked = rank(records, pool, left.astype(np.float32), right.astype(np.float32), whole=True)
        metrics = family_of(task).metrics(task).values()
        return scores_of(metrics, [gold(record) for record in records], ranked, "de")

    plain = score(queries, bank)
    # Both right answers come first, in no order of languages: of two, one is in the query's own.
    codes = [id[:2] for id in ids]
    beside = score(centre_languages(queries, ["de"] * HOURS), centre_languages(bank, codes))
    assert beside["map"] == 100 > plain["map"] and (plain["own_language"], beside["own_language"]) == (100, 50)
    assert np.allclose(np.linalg.norm(centre_languages(bank, codes), axis=1), 1)
    with pytest.raises(UserError, match="a vector of en is the mean of its language"):
        centre_languages(bank[:3], codes[:3])


def test_kept_files_that_are_damaged_are_named(tmp_path: Path) -> None:
    assert BITEXT.centred(tmp_path, "test", "de") is None
    for damaged in ({"a": 1}, [-1], [0, ["a", "b"]], [["a"]], [True]):
        write_json(tmp_path / "centred-test-de.json", damaged)
        with pytest.raises(UserError, match=r"centred-test-de.json holds no indices or pairs"):
            BITEXT.centred(tmp_path, "test", "de")
    for right in ([2, 0], [("a", "b")]):
        write_json(tmp_path / "centred-test-de.json", right)
        assert BITEXT.centred(tmp_path, "test", "de") == right


def with_centred(run: RunDir, right_after_mnli: bool) -> None:
    """Add perfect centred predictions of Tatoeba to every condition but, unless wanted, mnli, where half are right."""
    task = get_task("tatoeba")
    files = family_of(task).files(task)
    for phase in Plan.load(run.plan).phases:
        for code in ["de", "jv"] if "tatoeba" in phase.evaluate else []:
            gold = files.read_labels(run.labels / "tatoeba" / files.name("test", code), ())
            half = [g if right_after_mnli or i % 2 or phase.condition != "mnli" else (g + 1) % len(gold)
                    for i, g in enumerate(gold)]  # fmt: skip
            write_json(run.phase(phase.id).predictions / "tatoeba" / f"centred-test-{code}.json", half)
            path = run.phase(phase.id).result("tatoeba")
            result = read_json(path)
            result["languages"][code]["accuracy_centred"] = 50.0 if half != gold else 100.0
            write_json(path, result)


def test_the_report_has_a_second_column_and_the_same_first(tmp_path: Path) -> None:
    run = build_run(tmp_path, intermediate={"none": [], "mnli": ["mnli"]}, targets=("bucc2018", "tatoeba"))
    write_report(run, QUICK)
    before = {name: table(run, name) for name in ("matrix", "languages-tatoeba")}
    assert "centred" not in read_json(run.results)["statistics"]["tables"]
    with_centred(run, right_after_mnli=False)
    printed = write_report(run, QUICK)
    assert "centred: with the mean vector of each language taken off" in printed
    assert {name: table(run, name) for name in before} == before
    after = table(run, "centred")
    # BUCC has no centred predictions here, so it has no column there.
    assert list(after["mnli"]) == ["tatoeba", "tatoeba, centred"]
    for condition in ("none", "mnli"):
        assert after[condition]["tatoeba"]["score"] == before["matrix"][condition]["tatoeba"]["score"]
    cell = after["mnli"]["tatoeba, centred"]
    assert (after["none"]["tatoeba, centred"]["score"], cell["score"], cell["gain"]) == (100.0, 50.0, -50.0)
    assert -60 < cell["low"] < -50 < cell["high"] < -40 and cell["significant"]
    for text in (printed, run.report.read_text(), run.report.with_suffix(".html").read_text()):
        assert "tatoeba, centred" in text
    assert 'centred,mnli,"tatoeba, centred",50.0' in run.report.with_suffix(".csv").read_text()
    scores = stilts_ds.load(run.root).scores()
    kept = scores[(scores.metric == "accuracy_centred") & (scores.condition == "mnli")]
    assert set(kept.score) == {50.0} and not kept.main.any()


def test_runs_side_by_side_compare_the_second_column(tmp_path: Path) -> None:
    run = build_run(tmp_path, intermediate={"none": [], "mnli": ["mnli"]}, targets=("tatoeba",))
    name_files(run)
    with_centred(run, right_after_mnli=False)
    compared = stilts_ds.compare(f"{run.root}:none", f"{run.root}:mnli", resamples=500).set_index("task")
    row = compared.loc["tatoeba, centred"]
    assert (row.baseline_score, row.score, row.gain) == (100.0, 50.0, -50.0) and row.significant
    assert "average" not in compared.index  # of one target there is none, and this is no second one


def test_a_file_that_is_not_what_was_scored_is_named(tmp_path: Path) -> None:
    run = build_run(tmp_path, intermediate={"none": [], "mnli": ["mnli"]}, targets=("tatoeba",))
    with_centred(run, right_after_mnli=True)
    [path, *_] = sorted(run.root.glob("phases/*/predictions/tatoeba/centred-test-de.json"))
    write_json(path, read_json(path)[::-1])
    with pytest.raises(UserError, match="the results of .* say 100.0000"):
        write_report(run, QUICK)


def test_a_folder_of_predictions_is_scored_with_its_second_column(tmp_path: Path) -> None:
    run = build_run(tmp_path, intermediate={"none": [], "mnli": ["mnli"]}, targets=("tatoeba",))
    with_centred(run, right_after_mnli=True)
    folder = next(iter(sorted(run.root.glob("phases/retrieval-*/predictions"))))
    task = get_task("tatoeba")
    scored = score_folder(folder, run.labels, "test", {"tatoeba": task})["tatoeba"]
    assert scored["accuracy_centred"] == {"de": 100.0, "jv": 100.0} and scored["accuracy"]["de"] < 100
    write_json(folder / "tatoeba" / "centred-test-de.json", [0, 1])
    with pytest.raises(UserError, match="centred-test-de.json, line 3: is missing"):
        score_folder(folder, run.labels, "test", {"tatoeba": task})


def test_results_without_the_second_column_stand_apart_where_a_recipe_asks_for_it(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=("tatoeba",))
    assert not [note for note in load_run(run).missing if "not in the tables" in note]
    recipe = run.recipe.read_text().replace("retrieval_centering: none", "retrieval_centering: language")
    run.recipe.write_text(recipe)
    missing = [note for note in load_run(run).missing if "not in the tables" in note]
    assert missing and "retrieval_centering that is not recorded (recipe.yaml: language)" in missing[0]
