"""Writes the nine intermediate tasks in the pivot language, each in its data set's own file schema."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stilts_ds.toy.choices import Continuation, Pick, continuation, pick
from stilts_ds.toy.dice import Dice
from stilts_ds.toy.facts import reading, reading_v2
from stilts_ds.toy.languages import LANGUAGES, PIVOT
from stilts_ds.toy.meanings import Event, event
from stilts_ds.toy.relations import Relation, inference, question_pair
from stilts_ds.toy.render import noun_phrase, sentence, text
from stilts_ds.toy.sources import Source, write_jsonl, write_lines, write_tsv
from stilts_ds.toy.squad import write_squad

TRAIN_ROWS = {
    "mnli": 2000,
    "snli": 2000,
    "anli": 700,
    "qqp": 2500,
    "squad_v1": 2500,
    "squad_v2": 2000,
    "hellaswag": 1000,
    "ccg": 1000,
    "cosmosqa": 1000,
    "commonsenseqa": 1000,
}
DEV_ROWS = 200  # of every task
Writer = Callable[[Source, Path], None]


def _splits(name: str, train: str, dev: str) -> tuple[tuple[str, int], ...]:
    return (train, TRAIN_ROWS[name]), (dev, DEV_ROWS)


def sentence_pair(relation: Relation, code: str) -> tuple[str, str]:
    return text(relation.first, code, relation.variants[0]), text(relation.second, code, relation.variants[1])


MNLI_TRAIN = "multinli_1.0_train.jsonl"


def write_mnli(source: Source, folder: Path) -> None:
    for file, count in _splits("mnli", MNLI_TRAIN, "multinli_1.0_dev_matched.jsonl"):
        _write_mnli(folder / "mnli" / file, source.draw(file, count, inference), PIVOT)


def write_translated(source: Source, folder: Path) -> None:
    """MNLI's train split in each other language: the same rows, in the layout of `data.translated`."""
    # Of the same name as `write_mnli` draws under, which makes them the same rows.
    relations = source.draw(MNLI_TRAIN, TRAIN_ROWS["mnli"], inference)
    for code in LANGUAGES:
        if code != PIVOT:
            _write_mnli(folder / code / "mnli" / MNLI_TRAIN, relations, code)


def _write_mnli(path: Path, relations: list[Relation], code: str) -> None:
    write_jsonl(path, (_nli_row(relation, f"mnli-{i}", "toy", code) for i, relation in enumerate(relations)))


def write_snli(source: Source, folder: Path) -> None:
    for file, count in _splits("snli", "snli_1.0_train.jsonl", "snli_1.0_dev.jsonl"):
        relations = source.draw(file, count, inference)
        rows = (_nli_row(relation, f"snli-{index}") for index, relation in enumerate(relations))
        write_jsonl(folder / "snli" / file, rows)


def _nli_row(relation: Relation, name: str, genre: str = "", code: str = PIVOT) -> dict[str, Any]:
    first, second = sentence_pair(relation, code)
    row = {"pairID": name, "sentence1": first, "sentence2": second, "gold_label": relation.label}
    return {"genre": genre, **row} if genre else row  # MultiNLI's rows have a genre, SNLI's have none


def write_anli(source: Source, folder: Path) -> None:
    for stage in ("R1", "R2", "R3"):
        for file, count in _splits("anli", "train.jsonl", "dev.jsonl"):
            relations = source.draw(f"anli/{stage}/{file}", count, inference)
            rows = (_anli_row(relation, f"{stage}-{index}") for index, relation in enumerate(relations))
            write_jsonl(folder / "anli_v1.0" / stage / file, rows)


def _anli_row(relation: Relation, name: str) -> dict[str, Any]:
    context, hypothesis = sentence_pair(relation, PIVOT)
    letter = relation.label[0]  # ANLI's files have e, n and c
    return {"uid": name, "context": context, "hypothesis": hypothesis, "label": letter, "reason": ""}


def write_qqp(source: Source, folder: Path) -> None:
    header = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
    for file, count in _splits("qqp", "train.tsv", "dev.tsv"):
        rows = [header]
        for index, (relation, asked) in enumerate(source.draw(f"qqp/{file}", count, question_pair)):
            first = text(relation.first, PIVOT, relation.variants[0], asked)
            second = text(relation.second, PIVOT, relation.variants[1], asked)
            rows.append((str(index), str(2 * index), str(2 * index + 1), first, second, relation.label))
        write_tsv(folder / "qqp" / file, rows)


def write_squad_v1(source: Source, folder: Path) -> None:
    for file, count in _splits("squad_v1", "train-v1.1.json", "dev-v1.1.json"):
        write_squad(folder / "squad_v1" / file, source.draw(file, count, reading), PIVOT, "1.1")


def write_squad_v2(source: Source, folder: Path) -> None:
    for file, count in _splits("squad_v2", "train-v2.0.json", "dev-v2.0.json"):
        write_squad(folder / "squad_v2" / file, source.draw(file, count, reading_v2), PIVOT, "v2.0", True)


def write_hellaswag(source: Source, folder: Path) -> None:
    for file, count in _splits("hellaswag", "hellaswag_train.jsonl", "hellaswag_val.jsonl"):
        stories = source.draw(file, count, continuation)
        write_jsonl(folder / "hellaswag" / file, (_hellaswag_row(story, index) for index, story in enumerate(stories)))


def _hellaswag_row(story: Continuation, index: int) -> dict[str, Any]:
    context = text(story.first, PIVOT)
    endings = [text(choice, PIVOT) for choice in story.choices]
    # `ctx_b` is the beginning of a sentence that the endings complete; endings here are whole sentences.
    row = {"ind": index, "activity_label": "toy", "ctx_a": context, "ctx_b": "", "ctx": context}
    return {**row, "label": story.label, "endings": endings}


def write_ccg(source: Source, folder: Path) -> None:
    for file, count in _splits("ccg", "train.tsv", "dev.tsv"):
        lines: list[str] = []
        for fact in source.draw(f"ccg/{file}", count, _any_event):
            lines += [f"{token.text}\t{token.ccg}" for token in sentence(fact, PIVOT)] + [""]
        write_lines(folder / "ccg" / file, lines)


def _any_event(dice: Dice, index: int) -> Event:
    return event(dice)


def write_cosmosqa(source: Source, folder: Path) -> None:
    header = ("id", "context", "question", "answer0", "answer1", "answer2", "answer3", "label")
    for file, count in _splits("cosmosqa", "train.csv", "valid.csv"):
        stories = source.draw(f"cosmosqa/{file}", count, continuation)
        rows = [header, *(_cosmosqa_row(story, f"cosmos-{index}") for index, story in enumerate(stories))]
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(rows)
        write_lines(folder / "cosmosqa" / file, buffer.getvalue().splitlines())


def _cosmosqa_row(story: Continuation, name: str) -> tuple[str, ...]:
    """The question is `what then?`: Cosmos QA asks for what is not written."""
    question = f"{noun_phrase('what', PIVOT)} {noun_phrase('then', PIVOT)}?"
    answers = (text(choice, PIVOT) for choice in story.choices)
    return (name, text(story.first, PIVOT), question, *answers, str(story.label))


def write_commonsenseqa(source: Source, folder: Path) -> None:
    for file, count in _splits("commonsenseqa", "train_rand_split.jsonl", "dev_rand_split.jsonl"):
        picks = source.draw(file, count, pick)
        rows = (_csqa_row(item, f"csqa-{index}") for index, item in enumerate(picks))
        write_jsonl(folder / "commonsenseqa" / file, rows)


def _csqa_row(item: Pick, name: str) -> dict[str, Any]:
    # Asked for the patient, so the stem does not say the noun that is right.
    stem = text(Event(item.agent, item.verb, item.nouns[item.label], "present"), PIVOT, asked="patient")
    choices = [{"label": "ABCDE"[i], "text": noun_phrase(noun, PIVOT)} for i, noun in enumerate(item.nouns)]
    question = {"question_concept": noun_phrase(item.verb, PIVOT), "stem": stem, "choices": choices}
    return {"answerKey": "ABCDE"[item.label], "id": name, "question": question}


WRITERS: tuple[Writer, ...] = (
    write_mnli,
    write_snli,
    write_anli,
    write_qqp,
    write_squad_v1,
    write_squad_v2,
    write_hellaswag,
    write_ccg,
    write_cosmosqa,
    write_commonsenseqa,
)
