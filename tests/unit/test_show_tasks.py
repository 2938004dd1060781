"""The task table, a task's card, and records made readable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ranks
from reader_files import empty_source, put
from stilts_launcher.cli import main
from stilts_launcher.show.rows import show_rows
from stilts_launcher.show.tasks import show_examples, show_files, show_record, task_card, tasks_table

from stilts_ds.errors import UserError
from stilts_ds.families.choice.record import Choice
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.tag.record import Tagged
from stilts_ds.families.text.record import Text
from stilts_ds.model_files import model_path
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import TASKS, get_task

REAL = ranks.SHARED / "data" / "xtreme"


def test_table_has_a_line_for_every_task() -> None:
    lines = tasks_table().split("\n")
    assert [line.split()[0] for line in lines] == ["task", *TASKS]
    assert lines[2].split()[:7] == ["mnli", "pair", "intermediate", "392,702", "9,815", "en", "accuracy"]
    assert "40 languages" in next(line for line in lines if line.startswith("panx"))


@pytest.mark.parametrize("name", TASKS)
def test_card_names_files_and_licence(name: str) -> None:
    card = task_card(get_task(name))
    assert get_task(name).licence in card
    assert all(entry.path in card for split in get_task(name).local.values() for entry in split)


TASK_OF = {Pair: "mnli", Choice: "hellaswag", Span: "squad_v1", Tagged: "udpos", Text: "mlm"}


def shown(record: Any) -> str:
    return show_record(get_task(TASK_OF[type(record)]), record, 3)


def test_records_are_readable() -> None:
    assert shown(Pair("1", "a", "b", None)) == "1\n  text a    a\n  text b    b\n  label     none"
    assert shown(Choice("1", "p", ("x", "y"), 1)).endswith("  choice    x\n  choice *  y")
    assert shown(Tagged("1", ("A", "b"), ("X", "Y"))) == "1\n  words     A/X b/Y"
    assert shown(Tagged("1", ("A", "b"), None)) == "1\n  words     A b"
    assert shown(Span("1", "q", "c", (Answer("c", 0),) * 2)).endswith("answers   c (at 0)")
    assert shown(Span("1", "q", "c", (), True)).endswith("none in this context")
    assert shown(Text("de:1", "x")) == "de:1\n  text      x"


def test_gold_pairs_and_bare_sides_of_a_bitext(tmp_path: Path) -> None:
    source, tatoeba = empty_source(tmp_path), get_task("tatoeba")
    put(source, "tatoeba", "tatoeba/sw-en.sw", "Moja\n")
    put(source, "tatoeba", "tatoeba/sw-en.en", "One\nTwo\n")
    bare = show_examples(tatoeba, "test", "sw", source, 1)
    assert bare.splitlines() == [
        "tatoeba test-sw", "  source    1 sentence", "  pivot     2 sentences", "  gold      no gold pairs",
        "  0         Moja", "  0         One",
    ]  # fmt: skip
    with pytest.raises(UserError, match="cannot show 0 examples"):
        show_examples(tatoeba, "test", "sw", source, 0)


def test_rows_are_shown_as_the_model_reads_them() -> None:
    """Special tokens, the answer's tokens, a label at each word's first piece."""
    toy_encoder = Tokenizer.load(model_path("toy"))
    pair = show_rows(get_task("mnli"), Pair("1", "a", "b", "neutral"), toy_encoder)
    assert pair.count("</s>") == 3 and pair.strip().startswith("reads     <s>") and pair.endswith("=> neutral")
    context = "one two three"
    span = Span("2", "one", context, (Answer("two", 4),))
    shown = show_rows(get_task("squad_v1"), span, toy_encoder)
    answer = shown.split("=> ")[1].replace("▁", "").replace(" ", "")
    assert answer in ("two", "<unk>")
    tagged = show_rows(get_task("udpos"), Tagged("3", ("x", "y"), ("NOUN", "VERB")), toy_encoder)
    assert tagged.count("/NOUN") == tagged.count("/VERB") == 1


def test_a_translated_task_is_shown_in_its_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = '{"gold_label": "neutral", "sentence1": "Der Hund schläft.", "sentence2": "Es ist Nacht.", "pairID": "1n"}\n'
    (tmp_path / "de/mnli").mkdir(parents=True)
    (tmp_path / "de/mnli/multinli_1.0_train.jsonl").write_text(line)
    assert main(["tasks", "mnli.de", "--show", "1", "--translated", str(tmp_path)]) == 0
    assert "text a    Der Hund schläft.\n  text b    Es ist Nacht.\n  label     neutral" in capsys.readouterr().out
    assert main(["tasks", "mnli.de", "--show", "1", "--translated", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


# --- files, beside what is published ---------------------------------------------------------------------------------


def test_files_are_compared_with_the_published_hash_and_size(tmp_path: Path) -> None:
    folder = tmp_path / "tatoeba"
    folder.mkdir()
    (folder / "tatoeba.jav-eng.jav").write_text("siji\nloro\n")
    (folder / "tatoeba.jav-eng.eng").write_text("one\ntwo\n")
    lines = show_files([get_task("tatoeba")], DataSource(xtreme=tmp_path)).split("\n")
    assert [line.split() for line in lines[1:]] == [
        ["tatoeba", "test", "jv", "tatoeba/tatoeba.jav-eng.jav", "2", "of", "205",
         "96979a14ead659a9d5ee4b944cbb971869e3e2dc58d8ab0ac23bd4ad421950ec", "DIFFERENT"],
        ["tatoeba", "test", "jv", "tatoeba/tatoeba.jav-eng.eng",
         "c3f9c8c283a2b1f2f1896f27a01cbe3cddc0c9d93f752e4639035a0f5b36f6e8", "DIFFERENT"],
    ]  # fmt: skip
    with pytest.raises(UserError, match="none of the files is there; name their folders"):
        show_files([get_task("xnli")], DataSource(xtreme=tmp_path))


@pytest.mark.data("xtreme")
def test_official_files_have_the_published_hashes() -> None:
    shown = show_files([get_task("tatoeba"), get_task("xquad"), get_task("xcopa")], DataSource(xtreme=REAL))
    assert shown.count("the same") == 14 + 4 + 6 and "DIFFERENT" not in shown
    [german] = [
        line for line in show_files([get_task("udpos")], DataSource(xtreme=REAL), "de").split("\n") if "_gsd-" in line
    ]
    assert "977 of 22,358" in german
