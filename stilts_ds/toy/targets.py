"""Writes the nine target tasks in XTREME's layout, and XTREME-R's LAReQA: small pivot train sets, dev and labelled test
files per language.

A task's dev and test rows are the same meanings in every language, as in XNLI, PAWS-X, XQuAD and MLQA. XNLI is
fine-tuned on the intermediate folder's MNLI, XQuAD, MLQA and LAReQA on its SQuAD v1.1, so they have no train file of
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stilts_ds.toy.dice import Dice
from stilts_ds.toy.facts import reading
from stilts_ds.toy.intermediate import sentence_pair
from stilts_ds.toy.languages import LANGUAGES, PIVOT
from stilts_ds.toy.meanings import Event, event
from stilts_ds.toy.relations import Relation, inference, paraphrase
from stilts_ds.toy.render import VARIANTS, sentence, text
from stilts_ds.toy.sources import Source, write_lines, write_tsv
from stilts_ds.toy.squad import write_squad, write_xquad_r

# Of the targets with train files of their own; the others are trained on an intermediate task's.
TRAIN_ROWS = {"pawsx": 800, "udpos": 300, "panx": 300, "tydiqa": 400}
EVAL_ROWS = 120
TATOEBA_ROWS = 150
LAREQA_ROWS = 60
BUCC_ROWS, BUCC_GOLD = 150, 50
Worded = tuple[Event, int]
Writer = Callable[[Source, Path], None]


def worded_event(dice: Dice, index: int) -> Worded:
    return event(dice, density=60), dice.below(VARIANTS)


def write_xnli(source: Source, folder: Path) -> None:
    dev = source.draw("xnli/dev", EVAL_ROWS, inference)
    test = source.draw("xnli/test", EVAL_ROWS, inference)
    for code in LANGUAGES:
        _write_labelled_pairs(folder / "xnli" / f"dev-{code}.tsv", dev, code)
        write_tsv(folder / "xnli" / f"test-{code}.tsv", (sentence_pair(relation, code) for relation in test))
    # One file for all languages, as the test sets are parallel.
    write_lines(folder / "xnli" / "test-labels.txt", (relation.label for relation in test))


def write_pawsx(source: Source, folder: Path) -> None:
    splits = {"train": TRAIN_ROWS["pawsx"], "dev": EVAL_ROWS, "test": EVAL_ROWS}
    drawn = {split: source.draw(f"pawsx/{split}", count, paraphrase) for split, count in splits.items()}
    _write_labelled_pairs(folder / "pawsx" / f"train-{PIVOT}.tsv", drawn["train"], PIVOT)
    for code in LANGUAGES:
        _write_labelled_pairs(folder / "pawsx" / f"dev-{code}.tsv", drawn["dev"], code)
        write_tsv(folder / "pawsx" / f"test-{code}.tsv", (sentence_pair(pair, code) for pair in drawn["test"]))
    # A column for each language, as in PAWS-X's table, though the labels are the same in all.
    labels = [(str(row), *[pair.label] * len(LANGUAGES)) for row, pair in enumerate(drawn["test"], start=1)]
    write_tsv(folder / "pawsx" / "test-labels.tsv", [("id", *LANGUAGES), *labels])


def _write_labelled_pairs(path: Path, relations: Sequence[Relation], code: str) -> None:
    write_tsv(path, ((*sentence_pair(relation, code), relation.label) for relation in relations))


def write_udpos(source: Source, folder: Path) -> None:
    _write_tagging(source, folder / "udpos", "pos")


def write_panx(source: Source, folder: Path) -> None:
    _write_tagging(source, folder / "panx", "ner")


def _write_tagging(source: Source, folder: Path, kind: str) -> None:
    train = source.draw(f"{folder.name}/train", TRAIN_ROWS[folder.name], worded_event)
    _write_tagged(folder / f"train-{PIVOT}.tsv", train, PIVOT, kind)
    for split in ("dev", "test"):
        drawn = source.draw(f"{folder.name}/{split}", EVAL_ROWS, worded_event)
        for code in LANGUAGES:
            _write_tagged(folder / f"{split}-{code}.tsv", drawn, code, kind)


def _write_tagged(path: Path, drawn: Sequence[Worded], code: str, kind: str) -> None:
    lines: list[str] = []
    for meaning, variant in drawn:
        lines += [f"{token.text}\t{getattr(token, kind)}" for token in sentence(meaning, code, variant)]
        lines.append("")  # a blank line ends a sentence
    write_lines(path, lines)


def write_xquad(source: Source, folder: Path) -> None:
    readings = source.draw("xquad", EVAL_ROWS, reading)
    for code in LANGUAGES:
        write_squad(folder / "xquad" / f"xquad.{code}.json", readings, code, "xquad")


def write_mlqa(source: Source, folder: Path) -> None:
    for split in ("dev", "test"):
        readings = source.draw(f"mlqa/{split}", EVAL_ROWS, reading)
        for code in LANGUAGES:
            name = f"{split}-context-{code}-question-{code}.json"
            write_squad(folder / "mlqa" / "MLQA_V1" / split / name, readings, code, f"mlqa-{split}")


def write_tydiqa(source: Source, folder: Path) -> None:
    base = folder / "tydiqa"
    train = source.draw("tydiqa/train", TRAIN_ROWS["tydiqa"], reading)
    write_squad(base / "tydiqa-goldp-v1.1-train" / f"tydiqa.{PIVOT}.train.json", train, PIVOT, "tydiqa-train")
    dev = source.draw("tydiqa/dev", EVAL_ROWS, reading)
    for code in LANGUAGES:
        write_squad(base / "tydiqa-goldp-v1.1-dev" / f"tydiqa.{code}.dev.json", dev, code, f"tydiqa-{code}")


def write_lareqa(source: Source, folder: Path) -> None:
    readings = source.draw("lareqa", LAREQA_ROWS, reading)
    for code in LANGUAGES:
        write_xquad_r(folder / "lareqa" / "xquad-r" / f"{code}.json", readings, code)


def write_bucc(source: Source, folder: Path) -> None:
    for code in LANGUAGES:
        if code != PIVOT:
            for split in ("dev", "test"):
                _write_bucc_split(source, folder / "bucc2018", code, split)


def _write_bucc_split(source: Source, folder: Path, code: str, split: str) -> None:
    """Two shuffled collections that share the first `BUCC_GOLD` meanings; the gold file says where those ended up."""
    name = f"{code}-{PIVOT}.{split}"
    # Two collections of BUCC_ROWS that share BUCC_GOLD meanings hold so many different ones.
    meanings = source.draw(f"bucc2018/{name}", 2 * BUCC_ROWS - BUCC_GOLD, worded_event)
    shared, unshared = meanings[:BUCC_GOLD], meanings[BUCC_GOLD:]
    dice = source.dice(f"bucc2018/{name}/order")
    # Shuffled, so that the row in a collection tells nothing about which sentence is the translation.
    sides = {code: dice.shuffled(shared + unshared[::2]), PIVOT: dice.shuffled(shared + unshared[1::2])}
    for side, collection in sides.items():
        rows = ((bucc_id(side, row), text(*_rendered(worded, side))) for row, worded in enumerate(collection))
        write_tsv(folder / f"{name}.{side}", rows)
    gold = [tuple(bucc_id(side, sides[side].index(worded)) for side in (code, PIVOT)) for worded in shared]
    write_tsv(folder / f"{name}.gold", sorted(gold))


def bucc_id(code: str, row: int) -> str:
    return f"{code}-{row + 1:09d}"  # BUCC's ids count from 1, in nine digits


def _rendered(worded: Worded, code: str) -> tuple[Event, str, int]:
    """The pivot always uses its plain wording, so that a translation is not a word-for-word copy."""
    return worded[0], code, 0 if code == PIVOT else worded[1]


def write_tatoeba(source: Source, folder: Path) -> None:
    for code in LANGUAGES:
        if code == PIVOT:
            continue
        drawn = source.draw(f"tatoeba/{code}", TATOEBA_ROWS, worded_event)
        for side in (code, PIVOT):
            lines = (text(*_rendered(worded, side)) for worded in drawn)
            write_lines(folder / "tatoeba" / f"tatoeba.{code}-{PIVOT}.{side}", lines)


WRITERS: tuple[Writer, ...] = (
    write_xnli,
    write_pawsx,
    write_udpos,
    write_panx,
    write_xquad,
    write_mlqa,
    write_tydiqa,
    write_lareqa,
    write_bucc,
    write_tatoeba,
)
