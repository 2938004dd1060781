"""Ranks evaluate every family: only rank 0 opens sources, and any number of ranks predicts the same, also where they
share the model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
from engine_runs import run

from stilts_ds.toy.languages import PIVOT, words

pytestmark = [pytest.mark.processes, pytest.mark.slow]
RECIPE = """
name: study
model: {name_or_path: toy, dropout: 0}
data: {source: toy, noise: lists}
intermediate: {none: []}
targets: [xnli, xnli@natural-20, xquad, bucc2018, tatoeba, lareqa, humaneval_xl]
target_training: &short
  {max_steps: 1, train_batch_size: 8, save_steps: 0, eval_examples: 8, max_seq_length: 96, doc_stride: 32,
   max_query_length: 32, learning_rate: 1.0e-3}
task_training: {mbpp: *short}
evaluation:
  max_examples: 11
  max_bitext: 60
  retrieval_max_seq_length: 96
  generate: {max_new_tokens: 3}
  languages: {xnli: [qab], xnli@natural-20: [qaa], xquad: [qab, qac, qad], bucc2018: [qab, qac, qad], tatoeba: [qab],
              lareqa: [qab, qac], humaneval_xl: [qab, qac]}
engine: {zero_stage: ZERO}
"""


def stage(folder: Path, zero: int) -> None:
    for recipe in (folder / "study.yaml", folder / "runs" / "study" / "recipe.yaml"):
        if recipe.exists():
            text = recipe.read_text()
            recipe.write_text(text.replace("zero_stage: 2", f"zero_stage: {zero}"))


def predictions(folder: Path) -> dict[str, str]:
    """The text of each prediction file, of which `predictions` is emptied."""
    texts = {}
    for path in sorted(folder.glob("runs/study/phases/*/predictions")):
        files = [file for file in path.rglob("*") if file.suffix in (".tsv", ".json", ".jsonl", ".txt")]
        # Thresholds and the likelihoods of solutions are numbers, which the sums of other numbers round otherwise.
        texts |= {
            str(file.relative_to(folder)): file.read_text()
            for file in files
            if not file.name.startswith((".", "threshold", "drawn")) and "likelihood" not in file.name
        }
        shutil.rmtree(path)
    return texts


def test_ranks_predict_alike_from_rank_0s_texts_and_with_a_shared_model(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(RECIPE.replace("ZERO", "2"))
    lists = tmp_path / "lists" / "misspellings"
    lists.mkdir(parents=True)
    (lists / f"{PIVOT}.tsv").write_text("".join(f"{word}\t{word}{word[-1]}\n" for word in words(PIVOT).values()))
    # Not forked: it starts processes of its own.
    command = [sys.executable, "-m", "stilts_launcher.cli", "prepare", "study.yaml", "--processes", "1"]
    subprocess.run(command, cwd=tmp_path, env=ranks.environment(), check=True, capture_output=True)
    study = tmp_path / "runs" / "study"
    program, sources = ranks.PROGRAMS / "no_sources_rank.py", f"{study / 'data'}:{tmp_path / 'lists'}"

    run(program, study, sources, ranks=2)
    by_two = predictions(tmp_path)
    assert len(by_two) == 16
    for ranks_at_work in (1, 4):
        run(program, study, sources, "--only", "evaluate", ranks=ranks_at_work)
        assert predictions(tmp_path) == by_two
    stage(tmp_path, 3)
    for ranks_at_work in (2, 4):
        run(program, study, sources, "--only", "evaluate", ranks=ranks_at_work)
        assert predictions(tmp_path) == by_two
