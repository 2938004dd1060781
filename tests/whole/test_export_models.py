"""`stilts export` on a run: what transformers' pipeline says is what stands in the prediction files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from stilts_launcher.cli import main

from stilts_ds.config import written_recipe
from stilts_ds.data.data import Data
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import RunDir

pytestmark = pytest.mark.processes


def export(run: Path, name: str, to: Path, *options: str) -> Path:
    assert main(["export", f"{run}/{name}", "--to", str(to), *options]) == 0
    return to


def predicted(run: Path, label: str, task: str, language: str) -> str:
    [phase] = [phase for phase in Plan.load(run / "plan.json").phases if phase.label == label]
    return (RunDir(run).phase(phase.id).predictions / task / f"test-{language}.tsv").read_text(encoding="utf-8")


def records(run: Path, task: str, language: str) -> Any:
    data = Data(written_recipe(RunDir(run).recipe), run)
    return data.evaluation(data.task(task), "test", language).records()


def test_a_pipeline_classifies_pairs_as_the_run_did(toy_run: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    folder = export(toy_run, "nli/seed1/xnli", tmp_path / "model", "--task", "xnli", "--license", "cc-by-4.0")
    classify = pipeline("text-classification", str(folder), device="cpu")
    for language in ("qaa", "qac"):
        labels = predicted(toy_run, "nli/seed1/xnli", "xnli", language).splitlines()
        pairs = [{"text": pair.text_a, "text_pair": pair.text_b} for pair in records(toy_run, "xnli", language)]
        answers = [classify(pair, truncation=True, max_length=128) for pair in pairs]
        assert [answer[0]["label"] if isinstance(answer, list) else answer["label"] for answer in answers] == labels
    values = ModelCard.load(folder / "README.md").data
    assert (values.license, values.pipeline_tag) == ("cc-by-4.0", "text-classification")
    assert 'pipeline("text-classification"' in (folder / "README.md").read_text(encoding="utf-8")


def test_a_token_classifier_tags_words_as_the_run_did(toy_run: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = export(toy_run, "none/seed1/udpos", tmp_path / "model")
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    sentences = predicted(toy_run, "none/seed1/udpos", "udpos", "qab").strip().split("\n\n")
    for record, sentence in zip(records(toy_run, "udpos", "qab"), sentences):
        rows = tokenizer(list(record.words), is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            tags = model(**rows).logits[0].argmax(-1).tolist()
        first = {word: tag for word, tag in reversed(list(zip(rows.word_ids(), tags))) if word is not None}
        expected = [line.split("\t")[-1] for line in sentence.split("\n")]
        assert [model.config.id2label[first[word]] for word in range(len(record.words))] == expected


def test_other_heads_are_written_or_refused_with_the_reason(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(toy_run, "none/seed1/xquad", tmp_path / "questions")
    assert "XLMRobertaForQuestionAnswering" in capsys.readouterr().out
    export(toy_run, "nli/seed1/intermediate", tmp_path / "choices", "--task", "hellaswag")
    assert "XLMRobertaForMultipleChoice" in capsys.readouterr().out
    for name, options, message in (
        ("nli/seed1/intermediate", [], "has several heads; name one with --task"),
        ("none/seed1/xnli", ["--task", "xquad"], "has no head for 'xquad'"),
        ("none/seed1/xnil", [], "has no phase 'none/seed1/xnil'"),
        ("none/retrieval", [], "trains nothing"),
    ):
        assert main(["export", f"{toy_run}/{name}", "--to", str(tmp_path / "none"), *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", f"{toy_run}/none/seed1/xnli", "--to", str(tmp_path / "questions")]) == 2
    assert "exists; give a folder that is not there yet" in capsys.readouterr().err
    assert main(["export", "nowhere/none/seed1/xnli"]) == 2
    assert "no folder on the way holds a run" in capsys.readouterr().err
