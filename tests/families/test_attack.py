"""Noise chosen by a model's loss: the edits of plain noise, no more of them, and examples that are never easier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reader_files import empty_source, put
from small_recipe import recipe

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.data.data import Data
from stilts_ds.data.noisy import make_split_noiser
from stilts_ds.errors import UserError
from stilts_ds.evaluate.attack import Victim, _attack, attack_split
from stilts_ds.families.build import build_model
from stilts_ds.families.registry import family_of
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model_files import TOY
from stilts_ds.noise.clusters import Clusters
from stilts_ds.noise.greedy import GreedyNoiser
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.tasks.registry import get_task

WORDS = ["road", "house", "river", "stone", "garden", "window", "letter", "mountain", "evening", "silver"]
LABELS = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(TOY)


def pairs(count: int = 6) -> str:
    rows = []
    for number in range(count):
        first, second = WORDS[number % 10], WORDS[(number * 3 + 1) % 10]
        rows.append(
            f"The {first} beside the old {second} number {number}\tNobody saw a {second} there\t{LABELS[number % 3]}\n"
        )
    return "".join(rows)


@pytest.fixture()
def data(tmp_path: Path) -> Data:
    source = empty_source(tmp_path)
    put(source, "xnli", "xnli/test-en.tsv", pairs())
    put(source, "panx", "panx/test-en.tsv", "Jurgen\tB-PER\nlives\tO\nin\tO\nBerlin\tB-LOC\n\n" * 8)
    put(source, "tatoeba", "tatoeba/tatoeba.deu-eng.deu", "Guten Morgen!\n")
    put(source, "tatoeba", "tatoeba/tatoeba.deu-eng.eng", "Good morning!\n")
    local = {"source": "local", "xtreme": str(source.xtreme)}
    return Data(recipe(targets=["xnli", "xnli@typo-10"], data=local), tmp_path / "run")


def victim(tokenizer: Tokenizer, family: str, labels: tuple[str, ...]) -> Victim:
    """A model that nobody trained: its loss is as good a guide as any."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(5)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
        eos_token_id=2,
    )  # fmt: skip
    encoder = XLMRobertaModel(config, add_pooling_layer=False)
    for weight in (parameter for parameter in encoder.parameters() if parameter.dim() > 1):
        weight.data *= 8  # else all texts get nearly one vector
    model = build_model(encoder, [HeadSpec("head", family, labels)], 1).eval()
    part = EvaluationPart(per_device_eval_batch_size=8)
    return Victim(model, tokenizer, "head", labels, TrainingPart(max_seq_length=64), part, torch.device("cpu"))


def test_an_attacked_example_has_a_higher_loss_and_no_more_errors_than_plain_noise(
    data: Data, tokenizer: Tokenizer
) -> None:
    task, model = get_task("xnli@typo-10"), victim(tokenizer, "pair", LABELS)
    split = data.split(get_task("xnli"), "test", "en")
    records = list(split.records())
    noiser = make_split_noiser(task, "test", "en", records, None)
    plain = family_of(task).noisy(records, noiser, task)
    chosen, edits = _attack(records, noiser, task, model, width=4)
    before, noisy, after = (model.judge(task, part)[0] for part in (records, plain, chosen))
    assert all(a >= b for a, b in zip(after, before)), "never easier than the clean example"
    assert sum(after) > sum(noisy) and sum(after) > sum(before)
    assert 0 < edits <= noiser.tally.edits
    assert [record.label for record in chosen] == [record.label for record in records]
    assert chosen == _attack(records, noiser, task, model, width=4)[0], "the same search finds the same"
    assert chosen[:3] == _attack(records[:3], noiser, task, model, width=4)[0], "an example is attacked by itself"


def test_every_edit_is_one_that_plain_noise_makes_at_that_place(data: Data) -> None:
    """At width 1, making all that is proposed, the search is the noise itself."""
    task = get_task("xnli@typo-20")
    records = list(data.split(get_task("xnli"), "test", "en").records())
    noiser = make_split_noiser(task, "test", "en", records, None)
    plain = family_of(task).noisy(records, noiser, task)
    for record, expected in zip(records, plain):
        search = GreedyNoiser(noiser.spec, noiser.writing, noiser.where)
        assert family_of(task).noisy([record], search, task) == [record], "nothing is made yet"
        while options := search.options(1):
            search.make(options[0])
        assert family_of(task).noisy([record], search, task) == [expected]
        budget = sum(draft.wanted for draft in search.drafts.values())
        assert search.made == budget


def test_options_are_as_many_as_asked_for_from_all_texts_and_no_place_comes_twice(data: Data) -> None:
    task = get_task("xnli@typo-20")
    [record, *_] = data.split(get_task("xnli"), "test", "en").records()
    noiser = make_split_noiser(task, "test", "en", [record], None)
    search = GreedyNoiser(noiser.spec, noiser.writing, noiser.where)
    family_of(task).noisy([record], search, task)
    first, second = search.options(6), search.options(6)
    assert len(first) == len(second) == 6 and len({name for name, _ in first}) == 2
    assert not {(name, edit.first) for name, edit in first} & {(name, edit.first) for name, edit in second}
    with search.tried(first[0]):
        [tried] = family_of(task).noisy([record], search, task)
    assert (tried.text_a, tried.text_b) != (record.text_a, record.text_b)
    assert family_of(task).noisy([record], search, task) == [record], "what was only tried is gone"


def test_a_split_is_attacked_and_scored_and_tags_stay(data: Data, tokenizer: Tokenizer) -> None:
    found = attack_split(
        data.split(get_task("xnli"), "test", "en"), get_task("xnli@typo-10"), victim(tokenizer, "pair", LABELS), 4, 4
    )
    assert (found.language, found.examples) == ("en", 4) and found.edits <= found.noisy_edits
    assert all(score * 4 / 100 == pytest.approx(round(score * 4 / 100)) for score in (found.clean, found.attacked))
    labels = get_task("panx").labels
    tags = attack_split(
        data.split(get_task("panx"), "test", "en"), get_task("panx@char-20"), victim(tokenizer, "tag", labels), 4, None
    )
    assert tags.examples == 8 and 0 < tags.edits <= tags.noisy_edits


def test_a_task_without_a_loss_is_refused(data: Data, tokenizer: Tokenizer) -> None:
    split: Any = data.split(get_task("tatoeba"), "test", "de")
    with pytest.raises(UserError, match="nothing is trained for it, so no loss guides an attack"):
        attack_split(split, get_task("tatoeba@typo-5"), victim(tokenizer, "pair", LABELS), 4, None)
    with pytest.raises(UserError, match="lareqa@typo-5: its loss compares the queries of a pool"):
        attack_split(split, get_task("lareqa@typo-5"), victim(tokenizer, "pair", LABELS), 4, None)


def test_letters_of_a_text_are_all_proposed_in_the_end(data: Data) -> None:
    task = get_task("xnli@uppercase-100")
    [record, *_] = data.split(get_task("xnli"), "test", "en").records()
    noiser = make_split_noiser(task, "test", "en", [record], None)
    search = GreedyNoiser(noiser.spec, noiser.writing, noiser.where)
    family_of(task).noisy([record], search, task)
    proposed = 0
    while options := search.options(7):
        proposed += len(options)
    small = sum(part.islower() for text in (record.text_a, record.text_b) for part in Clusters(text).parts)
    assert proposed == small and search.made == 0
