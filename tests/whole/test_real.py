"""The whole path on real data with a real small XLM-R; skipped, with the reason, where they are absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import stilts

pytestmark = pytest.mark.processes


@pytest.mark.long
def test_tatoeba_equals_a_plain_numpy_computation(shared_data: Path, mini_xlmr: Path, tmp_path: Path) -> None:
    """The untrained model: mean over all tokens of the last hidden state, cosine, no prefix."""
    stilts(
        "run",
        "mini_xlmr",
        f"model.name_or_path={mini_xlmr}",
        f"data.intermediate={shared_data / 'intermediate'}",
        f"data.xtreme={shared_data / 'xtreme'}",
        "intermediate={none: []}",
        "targets=[tatoeba]",
        "evaluation.languages={tatoeba: [sw, te]}",
        "evaluation.max_bitext=null",
        cwd=tmp_path,
    )
    scores = json.loads((tmp_path / "runs/mini_xlmr/results.json").read_text())["rows"]["none"]["tasks"]["tatoeba"]
    for language, code in (("sw", "swh"), ("te", "tel")):
        folder = shared_data / "xtreme" / "tatoeba"
        expected = plain_tatoeba(mini_xlmr, folder / f"tatoeba.{code}-eng.{code}", folder / f"tatoeba.{code}-eng.eng")
        assert scores["languages"][language] == pytest.approx(expected, abs=1e-9)


def plain_tatoeba(model_folder: Path, source: Path, english: Path) -> float:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModel.from_pretrained(model_folder, add_pooling_layer=False).eval()
    sides = []
    for path in (source, english):
        with torch.no_grad():
            vectors = [
                model(
                    **tokenizer(line, return_tensors="pt", truncation=True, max_length=128, return_token_type_ids=False)
                )
                .last_hidden_state[0]
                .mean(0)
                .numpy()
                for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")
            ]
        sides.append(np.stack([v / np.linalg.norm(v) for v in vectors]))
    nearest = (sides[1] @ sides[0].T).argmax(1)
    return 100.0 * float((nearest == np.arange(len(nearest))).mean())
