"""Continued masked language modelling: text of files and of the hub, and the head of the checkpoint."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
import small
import torch

from stilts_ds.config import Recipe, TextHubPart, TrainingPart, parse_recipe
from stilts_ds.data.data import Data
from stilts_ds.data.reader import read_examples
from stilts_ds.errors import UserError
from stilts_ds.families.text.record import Text
from stilts_ds.model.encoder import load_encoder, read_language_head
from stilts_ds.model.heads import HeadSpec, set_language_head
from stilts_ds.phase_setup import load_language_head
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task

CORPUS = {"repo": "some/wiki", "config": "2023.{language}", "revision": "a" * 40, "languages": ["sw", "de"]}


def recipe(**data: Any) -> Recipe:
    return parse_recipe({"name": "study", "targets": ["tatoeba"], "intermediate": {"mlm": ["mlm"]}, "data": data}, "t")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub whose every configuration has 120 passages, the fourth blank; what was asked for is noted."""
    asked: list[tuple[Any, ...]] = []

    def answer(repo: str, config: str, split: str, revision: str, **options: Any) -> Any:
        asked.append((repo, config, split, revision, options))
        return [{"text": f"{config} {n}" if n != 4 else " "} for n in range(1, 121)]

    monkeypatch.setattr(datasets, "load_dataset", answer)
    return asked


def test_text_of_the_hub_is_read_by_language_at_a_commit(hub: list[tuple[Any, ...]]) -> None:
    source, tally = DataSource("local", text_hub=TextHubPart(**CORPUS)), Counter[str]()
    train = list(read_examples(get_task("mlm"), "train", "en", source, tally))
    assert train[:2] == [Text("some/wiki sw:1", "2023.sw 1", "sw"), Text("some/wiki de:1", "2023.de 1", "de")]
    assert len(train) == 2 * (120 - 2 - 1) and tally == {"blank passages": 2}
    dev = [row.id for row in read_examples(get_task("mlm"), "dev", "en", source)]
    assert dev == ["some/wiki sw:50", "some/wiki de:50", "some/wiki sw:100", "some/wiki de:100"]
    assert hub[0] == ("some/wiki", "2023.sw", "train", "a" * 40, {})


def test_a_limit_streams_and_is_by_language(hub: list[tuple[Any, ...]], tmp_path: Path) -> None:
    source = DataSource("hub", text_hub=TextHubPart(**CORPUS), max_text_passages=3)
    found = [(row.language, row.id[-1]) for row in read_examples(get_task("mlm"), "train", "en", source)]
    assert found == [(code, str(n)) for n in (1, 2, 3) for code in ("sw", "de")]
    assert hub[0][-1] == {"streaming": True}
    (tmp_path / "de").mkdir()
    (tmp_path / "de" / "part.txt").write_text("a\nb\nc\nd\n", encoding="utf-8")
    local = DataSource("hub", text=tmp_path, max_text_passages=2)
    assert list(read_examples(get_task("mlm"), "train", "en", local)) == [
        Text("part:1", "a", "de"), Text("part:2", "b", "de")
    ]  # fmt: skip


def test_text_is_hashed_by_what_is_read(tmp_path: Path) -> None:
    def hashed(**data: Any) -> str:
        return Data(recipe(**data), tmp_path).hash_of("mlm")

    first = hashed(text_hub=CORPUS)
    others = [hashed(text_hub={**CORPUS, "revision": "b" * 40}), hashed(text_hub={**CORPUS, "languages": ["de"]}),
              hashed(text_hub=CORPUS, max_text_passages=5)]  # fmt: skip
    (tmp_path / "de.txt").write_text("a\n", encoding="utf-8")
    others.append(hashed(text=str(tmp_path)))
    (tmp_path / "de.txt").rename(tmp_path / "sw.txt")
    others.append(hashed(text=str(tmp_path)))
    assert len({first, *others}) == 6 and hashed(text_hub=CORPUS) == first


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": "a", "text_hub": CORPUS}, "give data.text or data.text_hub, not both"),
        ({"text_hub": {**CORPUS, "revision": "main"}}, "data.text_hub.revision"),
        ({"text_hub": {**CORPUS, "config": "2023.de"}}, "name the configurations by language"),
        ({"text_hub": {**CORPUS, "colunm": "x"}}, "unknown key 'data.text_hub.colunm'; did you mean column"),
    ],
)
def test_text_settings_that_cannot_be_meant(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(**data)


def test_rows_know_their_language(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for code in ("sw", "de"):
        (text / f"{code}.txt").write_text("a b c\n" * 3, encoding="utf-8")
    data = Data(recipe(text=str(text)), tmp_path)
    assert data.labels("mlm") == ("de", "sw")
    rows = data.train("mlm", TrainingPart()).rows(TrainingPart())
    assert rows.label is not None and rows.label.tolist() == [0, 1] * 3


# --- the head --------------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, **how: Any) -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    torch.manual_seed(3)
    config = XLMRobertaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = XLMRobertaForMaskedLM(config).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(folder, **how)
    return model


@pytest.mark.parametrize("form", ["whole", "shards", "bin"])
def test_the_pretrained_head_gives_the_checkpoint_s_own_logits(form: str, tmp_path: Path) -> None:
    from stilts_ds.config import ModelPart

    reference = checkpoint(tmp_path, **({"max_shard_size": "6KB"} if form == "shards" else {}))
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(reference.state_dict(), tmp_path / "pytorch_model.bin")
    assert len(list(tmp_path.glob("*.safetensors"))) == {"whole": 1, "bin": 0}.get(form, len(
        list(tmp_path.glob("model-*.safetensors"))))  # fmt: skip
    found = read_language_head(tmp_path)
    assert found is not None
    from stilts_ds.families.build import build_model

    encoder = load_encoder(tmp_path, ModelPart(attn_implementation="sdpa"))
    model = build_model(encoder, [HeadSpec("mlm", "text")], 1).eval()
    set_language_head(model.heads["mlm"], found, "here")
    ids = torch.tensor([[0, 7, 39, 9, 2]])
    with torch.no_grad():
        hidden = model.encoder(input_ids=ids).last_hidden_state[0]
        ours = model.heads["mlm"](hidden, model.word_embedding)
        assert torch.equal(ours, reference(input_ids=ids).logits[0])


def test_the_log_says_where_the_head_comes_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference = checkpoint(tmp_path / "with")
    reference.roberta.save_pretrained(tmp_path / "without")
    heads = []
    with caplog.at_level(logging.INFO, "stilts_ds.phase_setup"):
        for name in ("with", "without"):
            model = small.model(vocabulary=40, specs=[HeadSpec("mlm", "text"), HeadSpec("nli", "pair", ("a", "b"))])
            source = str(tmp_path / name)
            load_language_head(model, read_language_head(source), source, logging.INFO)
            heads.append(model.heads["mlm"].bias)
    assert torch.equal(heads[0], reference.lm_head.bias) and not heads[1].any()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"the language modelling head of {tmp_path / 'with'} goes on",
        f"the language modelling head is new: {tmp_path / 'without'} has none "
        "(`lm_head`, or `cls.predictions` with GELU)",
    ]


def test_a_head_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    found = read_language_head(tmp_path)
    assert found is not None
    with pytest.raises(UserError, match=r"lm_head.bias has shape \[40\], expected \[60\]"):
        set_language_head(small.model(specs=[HeadSpec("mlm", "text")]).heads["mlm"], found, "there")
    index = json.dumps({"weight_map": {"roberta.x": "a.safetensors"}})
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    assert read_language_head(tmp_path) is None
