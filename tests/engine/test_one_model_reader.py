"""Rank 0 alone reads a model's weights: the other ranks look into a folder that has none, and get the same ones."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import ranks
import torch
from engine_runs import run
from transformers import AutoModel, BertConfig, BertModel

pytestmark = pytest.mark.processes


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and the same folder without weights."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=90, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "naked", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path / "whole", tmp_path / "naked"


@pytest.mark.parametrize(
    ("dtype", "stage"), [("fp32", 0), pytest.param("bf16", 2, marks=pytest.mark.long), ("bf16", 3)]
)
def test_ranks_without_a_weight_file_have_the_weights_of_rank_0(
    folders: tuple[Path, Path], dtype: str, stage: int
) -> None:
    printed = run(ranks.PROGRAMS / "weight_ranks.py", *folders, dtype, stage, ranks=3)
    told = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert len(told) == 3 and told[0] == told[1] == told[2]
    # The exact float32 weights of the file, also where training works in 16 bits.
    exact = hashlib.sha256()
    for parameter in AutoModel.from_pretrained(folders[0], add_pooling_layer=False).parameters():
        exact.update(parameter.detach().numpy().tobytes())
    assert told[0]["trains"] == exact.hexdigest()
    assert told[0]["packs"] == "stilts_packed"


def test_a_model_that_rank_0_cannot_read_ends_all_ranks_with_its_words(folders: tuple[Path, Path]) -> None:
    with pytest.raises(AssertionError) as problem:
        run(ranks.PROGRAMS / "weight_ranks.py", folders[1], folders[1], "fp32", 0, ranks=2)
    told = str(problem.value).split("--- rank 1")[1]
    assert "has no weights" in told
