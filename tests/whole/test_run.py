"""A whole run on the toy world through the command, on two real ranks: what it leaves and how it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import forked
import pytest
import torch
from conftest import SMALL, stilts
from safetensors.torch import load_file
from study import until

import stilts_ds
from stilts_ds.errors import UserError
from stilts_ds.export import check_export
from stilts_ds.run_dir import PhaseDir

pytestmark = pytest.mark.processes


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_table_has_every_condition_and_target(toy_run: Path) -> None:
    table = read(toy_run / "results.json")
    assert list(table["rows"]) == ["none", "nli"]
    for row in table["rows"].values():
        assert all(cell["mean"] is not None for cell in row["tasks"].values())
        assert row["tasks"]["xnli"]["languages"].keys() == {"qaa", "qab", "qac", "qad"}
        assert row["tasks"]["tatoeba"]["languages"].keys() == {"qab", "qac", "qad"}
    report = (toy_run / "report.md").read_text(encoding="utf-8")
    assert "gain over none" in report and "## xnli (test split)" in report


def test_every_phase_leaves_models_that_hugging_face_loads(toy_run: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoders = list(toy_run.glob("phases/*/encoder"))
    assert len(encoders) == 7  # one intermediate and twice three target phases; retrieval trains nothing
    for folder in encoders:
        model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        saved = load_file(folder / "model.safetensors")
        for name, value in model.state_dict().items():
            if name in saved:
                assert torch.equal(value, saved[name])
        assert tokenizer("a", "b")["input_ids"]
        heads = read(folder.parent / "heads.json")["heads"]
        assert {key.split(".")[0] for key in load_file(folder.parent / "heads.safetensors")} == {
            h["name"] for h in heads
        }
        if "target-mnli" in str(folder):
            assert heads == [
                {"name": "nli", "family": "pair", "labels": ["contradiction", "entailment", "neutral"], "width": 1}
            ]


def test_mining_test_uses_the_threshold_chosen_on_dev(toy_run: Path) -> None:
    for folder in toy_run.glob("phases/retrieval-*/predictions/bucc2018"):
        for language in ("qab", "qac", "qad"):
            assert (folder / f"dev-{language}.tsv").exists() and (folder / f"test-{language}.tsv").exists()
            kept = read(folder / f"threshold-{language}.json")
            assert 0 < kept["dev_f1"] <= 100
    results = [read(p) for p in toy_run.glob("phases/retrieval-*/results/bucc2018.json")]
    assert [one["split"] for one in results] == ["test", "test"]


def test_results_carry_their_provenance(toy_run: Path) -> None:
    for path in toy_run.glob("phases/*/results/*.json"):
        made = read(path)["provenance"]
        assert made["versions"]["torch"] and made["git_commit"]
    plan = read(toy_run / "plan.json")
    assert all(phase["id"].startswith(phase["kind"]) for phase in plan["phases"])


def test_tensorboard_has_the_curves(toy_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = toy_run / "tensorboard/nli/seed1/intermediate"
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "train/loss",
        "train/loss/mnli",
        "train/learning_rate",
        "train/grad_norm",
        "train/tokens_per_second",
        "train/padding_fraction",
        "train/mfu",
        "time/data_share",
        "time/other_share",
        "memory/host_peak_gib",
        "eval/mnli/qaa/accuracy",
    } <= tags
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_a_finished_run_does_nothing_when_started_again(toy_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in toy_run.glob("phases/*/encoder/model.safetensors")}
    said = stilts("run", "quickstart", *SMALL, "-v", cwd=toy_run.parents[1])
    assert " step " not in said and "| none |" in said
    brief = stilts("run", "quickstart", *SMALL, cwd=toy_run.parents[1]).splitlines()
    assert len(brief) < len(said.splitlines()) and len(brief) <= 80 and brief[-1].startswith("done in ")
    quiet = stilts("run", "quickstart", *SMALL, "-q", cwd=toy_run.parents[1]).splitlines()
    assert len(quiet) < len(brief) and not any("none/seed1/" in line for line in quiet)
    assert before == {p: p.stat().st_mtime_ns for p in toy_run.glob("phases/*/encoder/model.safetensors")}


def test_scores_and_report_are_programs_of_their_own(toy_run: Path) -> None:
    results = read(toy_run / "results.json")
    for path in toy_run.glob("phases/*/results/*.json"):
        path.unlink()
    (toy_run / "results.json").unlink()
    stilts("score", toy_run, cwd=toy_run)
    assert read(toy_run / "results.json") == results
    predictions = next(toy_run.glob("phases/*/predictions/xnli/test-qab.tsv"))
    predictions.unlink()
    said = stilts("score", toy_run, cwd=toy_run, status=2)
    assert "test-qab.tsv is missing" in said and "stilts evaluate" in said
    stilts("evaluate", toy_run, cwd=toy_run)
    stilts("score", toy_run, cwd=toy_run)
    assert read(toy_run / "results.json") == results


def test_a_flipped_bit_in_a_prediction_a_label_or_a_threshold_is_mended(toy_run: Path) -> None:
    folder = next(toy_run.glob("phases/retrieval-*/predictions/bucc2018"))
    labels = [toy_run / "labels/bucc2018/test-qad.tsv", toy_run / "labels/xnli/test-qab.texts"]
    damaged = [folder / "dev-qab.tsv", folder / "threshold-qac.json", *labels]
    before = [path.read_bytes() for path in damaged]
    for path, data in zip(damaged, before):
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    stilts("evaluate", toy_run, cwd=toy_run)
    assert [path.read_bytes() for path in damaged] == before


@pytest.mark.parametrize("name", ["heads.safetensors", "encoder/model.safetensors", "encoder/config.json"])
def test_a_flipped_bit_in_an_exported_model_is_refused(name: str, toy_run: Path, tmp_path: Path) -> None:
    source = next(toy_run.glob("phases/target-mnli-*"))
    folder = PhaseDir(tmp_path / "phase")
    shutil.copytree(source, folder.root)
    check_export(folder)
    path = folder.root / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} changed since it was written; delete .*status.json"):
        check_export(folder)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        check_export(folder)


@pytest.mark.long
def test_one_and_two_ranks_and_other_stages_predict_the_same(tmp_path: Path) -> None:
    few = [
        "intermediate={nli: [mnli, ccg]}",
        "targets=[xnli, tatoeba]",
        "intermediate_training.max_steps=4",
        "target_training.max_steps=3",
        "evaluation.max_examples=20",
        "model.dropout=0.0",
    ]
    curves = []
    for name, more in (
        ("one", ["launch.nproc=1", "engine.zero_stage=0"]),
        ("two", ["launch.nproc=2", "engine.zero_stage=3"]),
    ):
        stilts("run", "quickstart", f"name={name}", *few, *more, cwd=tmp_path)
        (metrics,) = (tmp_path / "runs" / name).glob("phases/intermediate-*/metrics.jsonl")
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        curves.append([line["train/loss"] for line in lines if "train/loss" in line])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    one, two = ((tmp_path / "runs" / name / "results.json") for name in ("one", "two"))
    assert read(one)["rows"]["nli"]["tasks"]["tatoeba"] == read(two)["rows"]["nli"]["tasks"]["tatoeba"]


def test_a_killed_run_continues_to_the_same_numbers(toy_run: Path, tmp_path: Path) -> None:
    """SIGKILL to everything in the middle of training; the next start ends at the numbers of an undisturbed run."""
    settings = [*SMALL, "intermediate_training.save_steps=1", "intermediate_training.logging_steps=1"]
    process = forked.started(tmp_path, ["run", "quickstart", *settings])
    run, manifest = tmp_path / "runs" / "quickstart", "phases/intermediate-*/checkpoints/step-000002/manifest.json"
    until(lambda: list(run.glob(manifest)), "the checkpoint of the second step", run)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(60)
    stilts("run", "quickstart", *settings, cwd=tmp_path)
    assert "continuing after step" in (tmp_path / "runs/quickstart/logs/rank-0.log").read_text()
    assert read(tmp_path / "runs/quickstart/results.json") == read(toy_run / "results.json")


@pytest.mark.parametrize(
    "settings, message",
    [
        (["engine.dtype=fp16"], "engine.dtype=fp16 does not work on CPUs"),
        (["target_training.max_seq_length=400"], "the model takes 256 tokens"),
        (["targets=[xnlli]"], "did you mean"),
        (["model.name_or_path=./nowhere/model"], "does not exist"),
        (["data.source=local"], "data.intermediate is not set"),
    ],
)
def test_bad_settings_are_refused_before_training(settings: list[str], message: str, tmp_path: Path) -> None:
    said = stilts("run", "quickstart", *SMALL, *settings, cwd=tmp_path, status=2)
    assert message in said and "Traceback" not in said
    assert not list(tmp_path.glob("runs/*/phases/*/checkpoints/*"))


def test_a_bad_row_is_found_before_training(toy_run: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_run / "data", tmp_path / "runs/quickstart/data")
    victim = tmp_path / "runs/quickstart/data/xtreme/xnli/test-qac.tsv"
    lines = victim.read_text(encoding="utf-8").split("\n")
    victim.write_text("\n".join([*lines[:6], "only one column", *lines[7:]]), encoding="utf-8")
    said = stilts("run", "quickstart", *SMALL, cwd=tmp_path, status=2)
    assert "test-qac.tsv:7" in said and "Traceback" not in said
    assert not list(tmp_path.glob("runs/*/phases/*/metrics.jsonl"))


def test_python_runs_and_plans_as_the_command_does(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toy_run.parent, tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    left = stilts_ds.load(toy_run).scores()
    retrieval = next((tmp_path / "runs").glob("quickstart/phases/retrieval-*/predictions/tatoeba"))
    shutil.rmtree(retrieval)
    assert set(stilts_ds.plan("quickstart", *SMALL).phase_id) == set(left.phase_id) | {
        folder.name for folder in toy_run.glob("phases/intermediate-*")
    }
    again = stilts_ds.run("quickstart", *SMALL, "launch.nproc=1")
    assert retrieval.is_dir() and not again.missing
    assert again.scores().equals(left)
    with pytest.raises(UserError, match="engine.zero_stage"):
        stilts_ds.run("quickstart", "engine.zero_stage=7")
