"""`retrieval_layer: sweep`: one pass gives all layers, dev chooses one before any training, and test takes no part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from clock_bitext import HOURS, MEANINGS, OffsetVectors, TwelveSentences
from report_runs import QUICK, build_run, table

from stilts_ds.config import EvaluationPart, TrainingPart, load_recipe
from stilts_ds.errors import UserError
from stilts_ds.evaluate.layers import LayerCurve, curve_inputs, kept_curve, layers_file, mean_by_layer
from stilts_ds.families.base import LayerScores, Prediction
from stilts_ds.families.bitext import BITEXT
from stilts_ds.named_tasks import check_tasks
from stilts_ds.plan_file import Plan
from stilts_ds.report.load import load_run
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import read_json, write_json, write_sealed
from stilts_ds.tasks.registry import get_task

SWEEP = EvaluationPart(retrieval_layer="sweep", retrieval_centering="language")


class LayeredVectors(OffsetVectors):
    """Hidden state 0 has no order at all, 1 meanings with an offset, 2 the meanings alone."""

    def vectors(self, rows: Any, evaluation: EvaluationPart) -> torch.Tensor:
        assert evaluation.retrieval_layer == "sweep"
        numbers = [int(sentence.id[3:]) for sentence in rows]
        moved = numbers if rows[0].id.startswith("en") else [(n + 5) % HOURS for n in numbers]
        return torch.stack([MEANINGS[moved], super().vectors(rows, evaluation), MEANINGS[numbers]], 1)


def test_a_dev_split_is_scored_at_every_layer(tmp_path: Path) -> None:
    def scores(task: str, evaluation: EvaluationPart) -> LayerScores | None:
        split: Any = TwelveSentences(get_task(task), "dev")
        return BITEXT.layer_scores(
            BITEXT, Prediction(split, "", (), TrainingPart(), evaluation, LayeredVectors(), tmp_path)  # type: ignore[arg-type]
        )  # fmt: skip

    both = scores("bucc2018", SWEEP)
    assert both is not None and len(both.plain) == 3
    assert both.plain[0] == 0 and both.plain[1] < both.plain[2] == 100
    assert both.centred == [0, 100, 100]
    plain = scores("bucc2018", EvaluationPart(retrieval_layer="sweep"))
    assert plain == LayerScores(both.plain, [])
    assert scores("tatoeba", SWEEP) is None  # it has no dev split to choose on


class VectorsOfFirstTokens(LayeredVectors):
    """Hidden state 0 of the first token: that of `<s>`, in every sentence."""

    def vectors(self, rows: Any, evaluation: EvaluationPart) -> torch.Tensor:
        layers = super().vectors(rows, evaluation)
        layers[:, 0] = layers[0, 0]
        return layers


def test_at_a_layer_that_tells_no_sentences_apart_nothing_is_found(tmp_path: Path) -> None:
    split: Any = TwelveSentences(get_task("bucc2018"), "dev")
    asked = Prediction(split, "", (), TrainingPart(), SWEEP, VectorsOfFirstTokens(), tmp_path)  # type: ignore[arg-type]
    scores = BITEXT.layer_scores(BITEXT, asked)
    assert scores is not None and scores.centred == [0, 100, 100]


def curve(**by_language: list[float]) -> LayerCurve:
    scores = {("bucc2018", code): LayerScores(plain, [90.0] * 3) for code, plain in by_language.items()}
    return LayerCurve.of(curve_inputs("w", SWEEP, {"bucc2018 de": "h"}), scores)


def test_the_best_mean_over_languages_is_chosen_and_of_equals_the_lowest() -> None:
    assert mean_by_layer(curve(de=[10.0, 30.0, 50.0], fr=[20.0, 60.0, 30.0]).plain) == [15.0, 45.0, 40.0]
    assert curve(de=[10.0, 30.0, 50.0], fr=[20.0, 60.0, 30.0]).best == 1
    assert curve(de=[40.0, 50.0, 20.0], fr=[40.0, 30.0, 60.0]).best == 0


def test_a_curve_of_other_inputs_or_damaged_is_made_again(tmp_path: Path) -> None:
    path, made = tmp_path / "layers.json", curve(de=[1.0, 2.0, 3.0])
    assert kept_curve(path, made.inputs) is None
    write_json(path, made.model_dump())  # as earlier versions did, without a seal
    assert kept_curve(path, made.inputs) == made
    write_sealed(path, made.model_dump())
    assert kept_curve(path, made.inputs) == made
    for change in (
        {"weights": "other"},
        {"data": {"bucc2018 de": "other"}},
        {"retrieval_pooling": "first"},
        {"max_bitext": 10},
    ):
        assert kept_curve(path, {**made.inputs, **change}) is None
    path.write_text(path.read_text().replace("2.0", "6.0"))
    assert kept_curve(path, made.inputs) is None
    with pytest.raises(UserError, match=r"layers.json changed since it was written"):
        LayerCurve.load(path)
    path.write_text(path.read_text()[:40])
    assert kept_curve(path, made.inputs) is None
    with pytest.raises(UserError, match=r"layers.json is not valid JSON"):
        LayerCurve.load(path)


def test_a_sweep_without_the_dev_sentences_of_bucc_is_refused() -> None:
    given = ["evaluation.retrieval_layer=sweep", "intermediate={none: []}"]
    # Where nothing is retrieved, no layer is read.
    for targets in ("[tatoeba,bucc2018]", "[xnli]"):
        check_tasks(load_recipe("quickstart", [*given, f"targets={targets}"]))
    for targets in ("[tatoeba]", "[tatoeba,xnli]"):
        with pytest.raises(UserError, match="sweep chooses the layer of tatoeba on BUCC's dev.*add bucc2018"):
            check_tasks(load_recipe("quickstart", [*given, f"targets={targets}"]))
    with pytest.raises(UserError, match=r"evaluation\.retrieval_layer"):
        load_recipe("quickstart", ["evaluation.retrieval_layer=sweeep"])


def test_the_report_has_the_curves_and_the_choice(tmp_path: Path) -> None:
    conditions = {"none": [], "mnli": ["mnli"]}
    run = build_run(tmp_path, intermediate=conditions, targets=("bucc2018", "tatoeba"), seeds=(1, 2, 3))
    write_report(run, QUICK)
    assert "layers" not in read_json(run.results)
    run.recipe.write_text(run.recipe.read_text().replace("retrieval_layer: -1", "retrieval_layer: sweep"))
    write_json(layers_file(run), curve(de=[10.0, 30.0, 50.0], fr=[20.0, 60.0, 30.0]).model_dump())
    after = [phase for phase in Plan.load(run.plan).phases if phase.kind == "retrieval" and phase.init]
    for phase in after:
        own = curve(de=[70.0 + phase.seed, 10.0, 10.0], fr=[70.0 + phase.seed, 10.0, 10.0])
        write_json(layers_file(run.phase(phase.id)), own.model_dump())
    write_report(run, QUICK)
    results = read_json(run.results)["layers"]
    assert results["chosen"] == 1 and results["before"]["plain"]["bucc2018"]["fr"] == [20.0, 60.0, 30.0]
    assert set(results["by_condition"]["mnli"]) == {"1", "2", "3"}
    assert results["by_condition"]["mnli"]["3"]["plain"]["bucc2018"]["de"] == [73.0, 10.0, 10.0]
    rows = table(run, "layers")
    assert [cell["score"] for cell in rows["none"].values()] == [15.0, 45.0, 40.0]
    assert [cell["score"] for cell in rows["mnli"].values()] == [72.0, 10.0, 10.0]  # the median seed
    assert [cell["score"] for cell in rows["mnli, centred"].values()] == [90.0] * 3
    for suffix in (".md", ".html"):
        text = run.report.with_suffix(suffix).read_text()
        assert "Layer 1 is read everywhere" in text and "Their own dev scores would have chosen" in text
    assert "layers,mnli,0,72.0" in run.report.with_suffix(".csv").read_text()


def test_results_of_two_layers_are_not_in_one_table(tmp_path: Path) -> None:
    run = build_run(tmp_path, intermediate={"none": [], "mnli": ["mnli"]}, targets=("bucc2018", "tatoeba"))
    for path in run.root.glob("phases/*/results/tatoeba.json"):
        result = read_json(path)
        result["settings"]["chosen_layer"] = 4 if result["condition"] == "none" else 3
        write_json(path, result)
    data = load_run(run)
    assert data.results["none"]["tatoeba"] and not data.results["mnli"]["tatoeba"] and data.results["mnli"]["bucc2018"]
    [note] = [note for note in data.missing if note.startswith("tatoeba after mnli")]
    assert "predicted at layer 3, which a sweep chose, and the other results at layer 4" in note


@pytest.mark.processes
@pytest.mark.long
def test_a_sweep_reads_one_layer_everywhere_whatever_the_ranks(tmp_path: Path) -> None:
    given = [
        "run",
        "quickstart",
        "intermediate={none: [], mnli: [mnli]}",
        "targets=[tatoeba,bucc2018]",
        "intermediate_training.max_steps=3",
        "evaluation.max_bitext=120",
        "evaluation.retrieval_layer=sweep",
    ]
    curves = {}
    for ranks in (1, 2):
        ended = forked.stilts(tmp_path, [*given, f"launch.nproc={ranks}", f"name=of-{ranks}"], timeout=300)
        assert ended.returncode == 0, ended.output[-4000:]
        assert "LOAD REPORT" not in ended.output  # of the model's head, which no encoder takes
        run = tmp_path / "runs" / f"of-{ranks}"
        kept = LayerCurve.load(run / "layers.json")
        curves[ranks] = kept.plain
        settings = [json.loads(path.read_text())["settings"] for path in run.glob("phases/*/results/*.json")]
        assert len(settings) == 4
        assert all(s["retrieval_layer"] == "sweep" and s["chosen_layer"] == kept.best for s in settings)
        assert len(list(run.glob("phases/*/layers.json"))) == 1  # of mnli; the baseline's is the run's own
    assert curves[1] == curves[2]
    # The layer alone gives the same predictions.
    fixed = [f"evaluation.retrieval_layer={kept.best}" if "sweep" in word else word for word in given]
    ended = forked.stilts(tmp_path, [*fixed, "launch.nproc=2", "name=fixed"], timeout=300)
    assert ended.returncode == 0, ended.output[-4000:]
    for path in (tmp_path / "runs" / "of-2").glob("phases/*/predictions/*/test-*.tsv"):
        twin = tmp_path / "runs" / "fixed" / path.relative_to(tmp_path / "runs" / "of-2")
        assert path.read_bytes() == twin.read_bytes(), path
    # A curve of other inputs is made again, and nothing else.
    written = {path: path.stat().st_mtime_ns for path in run.glob("phases/*/predictions/*/test-*.tsv")}
    changed = json.loads((run / "layers.json").read_text())
    write_json(run / "layers.json", {**changed, "inputs": {**changed["inputs"], "weights": "another model"}})
    ended = forked.stilts(tmp_path, ["evaluate", str(run)], timeout=300)
    assert ended.returncode == 0, ended.output[-4000:]
    assert json.loads((run / "layers.json").read_text()) == changed
    assert written == {path: path.stat().st_mtime_ns for path in written}
