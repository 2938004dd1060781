"""Mewsli-X: the texts of mentions and entities, its three kinds of files, and what is refused in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stilts_ds.config import ModelPart, TrainingPart
from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.data.split import Split
from stilts_ds.data.store import Store
from stilts_ds.errors import UserError
from stilts_ds.families.ranking.mentions import mention_text
from stilts_ds.families.ranking.record import Query
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task

TEXT = "It rained. Then Smith {of  Bath} left\nLeeds, and Smith wept. He slept."
SENTENCES = [{"start": 0, "end": 10}, {"start": 11, "end": 60}, {"start": 61, "end": 70}]
SHOWN = "Smith: Then { Smith } (of Bath) left Leeds, and Smith wept."


def entity(id: str, description: str = "A judge. Of Leeds.", **changes: Any) -> dict[str, Any]:
    spans = [{"start": 0, "end": 8}, {"start": 9, "end": 18}] if description else []
    return {"entity_id": id, "title": id, "description": description, "sentence_spans": spans,
            "description_language": "en", "description_url": "", **changes}  # fmt: skip


def context(language: str = "de", **changes: Any) -> dict[str, Any]:
    return {"document_id": "d1", "language": language, "text": TEXT, "sentence_spans": SENTENCES, **changes}


def mention(id: str = "m1", gold: str = "Q2", start: int = 16, end: int = 21, text: str = "Smith") -> dict[str, Any]:
    return {"example_id": id, "entity_id": gold, "mention_span": {"start": start, "end": end, "text": text}}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(folder: Path, rows: list[dict[str, Any]], entities: list[dict[str, Any]], language: str = "de") -> list[Query]:
    write(folder / "mewslix/wikinews_mentions-dev.jsonl", rows)
    write(folder / "mewslix/candidate_set_entities.jsonl", entities)
    return list(read_examples(get_task("mewslix"), "dev", language, DataSource(xtreme=folder)))


def test_a_mention_stands_before_its_sentence_and_in_braces_inside() -> None:
    assert mention_text("Then Smith {of  Bath} left\nLeeds", 5, 10, "x") == "Smith: Then { Smith } (of Bath) left Leeds"
    # Double spaces are collapsed once, as the baseline does: of three, two are left.
    assert mention_text("Smith   left", 0, 5, "x") == "Smith: { Smith }  left"


def test_one_file_holds_the_mentions_of_all_languages(tmp_path: Path) -> None:
    rows = [
        {"context": context(), "mentions": [mention(), mention("m2", "Q1", 49, 54)]},
        {"context": context("tr"), "mentions": [mention("m3")]},
        {"context": context(), "mention": mention("m4", "")},
    ]
    with pytest.raises(UserError, match="'m4' has no label, unlike those before"):
        read(tmp_path, rows, [entity("Q1"), entity("Q2")])
    queries = read(tmp_path, rows[:2], [entity("Q1"), entity("Q2")])
    assert [(query.id, query.right) for query in queries] == [("m1", ("Q2",)), ("m2", ("Q1",))]
    assert queries[0].text == SHOWN and queries[0].passage == "d1"
    assert [(one.id, one.text) for one in queries[0].pool] == [
        ("Q1", "A judge. Of Leeds."),
        ("Q2", "A judge. Of Leeds."),
    ]
    [turkish] = read(tmp_path, rows[:2], [entity("Q1"), entity("Q2")], "tr")
    assert turkish.id == "m3"


def test_blanked_labels_are_no_labels(tmp_path: Path) -> None:
    [query] = read(tmp_path, [{"context": context(), "mentions": [mention(gold="")]}], [entity("Q1")])
    assert query.right == ()


def test_training_pairs_are_cut_to_64_tokens_on_both_sides(tmp_path: Path) -> None:
    long = "word " * 300
    described = entity("Q1", long, sentence_spans=[{"start": 0, "end": len(long)}])
    whole = {"text": f"Smith {long}", "sentence_spans": [{"start": 0, "end": 6 + len(long)}]}
    pair = {"contextual_mention": {"context": context("en", **whole), "mention": mention(gold="Q1", start=0, end=5)},
            "entity": described}  # fmt: skip
    write(tmp_path / "mewslix/wikipedia_pairs-train.jsonl", [pair])
    task = get_task("wikipedia_links")
    origin = find_origin(task, "train", "en", DataSource(xtreme=tmp_path))
    split = Split(task, "train", "en", (), origin, Store(ModelPart(), tmp_path / "cache"))
    rows = split.rows(TrainingPart(**task.training))
    assert rows.row_lengths.tolist() == [64, 64] and len(rows) == 1
    assert rows.tally["texts cut to their length"] == 2


@pytest.mark.parametrize(
    "row, entities, problem",
    [
        ({"mentions": [mention(gold="Q9")]}, [entity("Q1")], r"dev\.jsonl:1: the entity 'Q9' is no candidate of"),
        ({"mentions": [mention()]}, [entity("Q2", "")], r"set_entities\.jsonl:1: entity 'Q2' has no description"),
        ({"mentions": [mention()]}, [entity("Q2")] * 2, r"entities\.jsonl:2: entity 'Q2' occurs twice"),
        ({"mentions": [mention(start=17, end=22)]}, [entity("Q2")], r"the mention 'Smith' is not at \[17, 22\)"),
        ({"mentions": [mention(start=4, end=21, text=TEXT[4:21])]}, [entity("Q2")], "no sentence holds the whole"),
        ({"mentions": [mention(start=60, end=90)]}, [entity("Q2")], r"\[60, 90\) is no range of a text of 70"),
        ({"mentions": [mention(), mention()]}, [entity("Q2")], r"dev\.jsonl:1: example id 'm1' occurs twice"),
        ({"mentions": [mention()],
          "context": context(sentence_spans=[{"start": 0, "end": 50}, {"start": 49, "end": 70}])}, [entity("Q2")],
         r"dev\.jsonl:1: the sentence \[49, 70\) begins before the one in front ends, at 50; use the original file"),
        ({"mentions": [mention()], "context": context(text=TEXT.replace("}", " "))}, [entity("Q2")],
         r"a brace in .* has no partner beside the mention; braces mark mentions, so remove it"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(
    row: dict[str, Any], entities: list[dict[str, Any]], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=problem):
        read(tmp_path, [{"context": context(), **row}], entities)
