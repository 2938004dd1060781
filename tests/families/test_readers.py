"""Readers of local files, on rows written for these tests: what they yield."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from reader_files import (
    COSMOS_HEADER,
    MNLI_DEV,
    available_languages,
    conllu,
    empty_source,
    files_of,
    nli,
    put,
    read_bitext,
    rows,
    squad,
)

from stilts_ds.errors import UserError
from stilts_ds.families.bitext.record import Sentence
from stilts_ds.families.choice.record import Choice
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.tag.record import Tagged
from stilts_ds.families.text.record import Text
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    return empty_source(tmp_path)


def test_nli_drops_and_counts_unlabelled_rows(source: DataSource) -> None:
    put(source, "mnli", MNLI_DEV, [nli("neutral", "a"), nli("-", "b"), nli("entailment", "c")])
    tally: Counter[str] = Counter()
    assert rows(source, "mnli", tally=tally) == [
        Pair("a", "It rains.", "It is wet.", "neutral"),
        Pair("c", "It rains.", "It is wet.", "entailment"),
    ]
    assert tally == {"rows without a gold label (-)": 1}


def test_anli_plus_reads_its_five_files_in_order(source: DataSource) -> None:
    for index in "123":
        row = {"uid": f"r{index}", "context": "A.", "hypothesis": "B.", "label": "ecn"[int(index) - 1]}
        put(source, "anli_plus", f"anli_v1.0/R{index}/dev.jsonl", [row])
    put(source, "anli_plus", MNLI_DEV, [nli("neutral", "m")])
    put(source, "anli_plus", "snli/snli_1.0_dev.jsonl", [nli("entailment", "s")])
    found = [(row.id, row.label) for row in rows(source, "anli_plus")]
    assert found == [
        ("r1", "entailment"), ("r2", "contradiction"), ("r3", "neutral"), ("m", "neutral"), ("s", "entailment")
    ]  # fmt: skip


def test_qqp_undoes_quotes_and_counts_short_rows(source: DataSource) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    put(source, "qqp", "qqp/dev.tsv", header + '7\t1\t2\t"Is ""so"" a word?"\tIs "so" one?\t1\n8\t3\t4\tcut\n')
    tally: Counter[str] = Counter()
    assert rows(source, "qqp", tally=tally) == [Pair("7", 'Is "so" a word?', 'Is "so" one?', "1")]
    assert tally == {"rows with missing columns": 1}


def test_xnli_test_takes_labels_from_the_labels_file(source: DataSource) -> None:
    put(source, "xnli", "xnli/test-sw.tsv", "a\tb\r\nc\td\r\n")
    assert [row.label for row in rows(source, "xnli", "test", "sw")] == [None, None]
    put(source, "xnli", "xnli/test-labels.txt", "neutral\r\nentailment\r\n")
    assert [row.label for row in rows(source, "xnli", "test", "sw")] == ["neutral", "entailment"]
    put(source, "xnli", "xnli/test-labels.txt", "neutral\nentailment\nneutral\n")
    with pytest.raises(UserError, match="3 labels for the 2 rows"):
        rows(source, "xnli", "test", "sw")
    put(source, "xnli", "xnli/test-labels.txt", "neutral\n")
    with pytest.raises(UserError, match=r"test-sw.tsv:2: .* has only 1 label;"):
        rows(source, "xnli", "test", "sw")


def test_pawsx_labels_stand_in_the_languages_column(source: DataSource) -> None:
    put(source, "pawsx", "pawsx/test-ko.tsv", 'a\t"b ""c"""\nd\te\n')
    put(source, "pawsx", "pawsx/test-labels.tsv", "id\tde\tko\n1\t0\t1\n2\t0\t?\n")
    found = rows(source, "pawsx", "test", "ko")
    assert [(row.text_b, row.label) for row in found] == [('b "c"', "1"), ("e", None)]
    put(source, "pawsx", "pawsx/test-fr.tsv", "a\tb\nc\td\n")
    with pytest.raises(UserError, match="test-labels.tsv:1: no column 'fr'"):
        rows(source, "pawsx", "test", "fr")


def test_hellaswag_endings_begin_with_ctx_b(source: DataSource) -> None:
    row = {"ind": 4, "ctx_a": "He sat.", "ctx_b": "Then he", "endings": ["slept.", "flew."], "label": 1}
    put(source, "hellaswag", "hellaswag/hellaswag_val.jsonl", [row, {**row, "ctx_b": ""}])
    first, second = rows(source, "hellaswag")
    assert first == Choice("4", "He sat.", ("Then he slept.", "Then he flew."), 1)
    assert second.choices == ("slept.", "flew.")


def test_cosmosqa_reads_quoted_cells(source: DataSource) -> None:
    put(source, "cosmosqa", "cosmosqa/valid.csv", COSMOS_HEADER + 'i,"One, ""two""\nthree .",Why ?,a,b,c,"d, e",3\r\n')
    assert rows(source, "cosmosqa") == [Choice("i", 'One, "two"\nthree . Why ?', ("a", "b", "c", "d, e"), 3)]


def test_commonsenseqa_is_nested(source: DataSource) -> None:
    choices = [{"label": letter, "text": letter.lower()} for letter in "ABCDE"]
    row = {"id": "x", "answerKey": "D", "question": {"stem": "Which?", "choices": choices}}
    put(source, "commonsenseqa", "commonsenseqa/dev_rand_split.jsonl", [row])
    assert rows(source, "commonsenseqa") == [Choice("x", "Which?", ("a", "b", "c", "d", "e"), 3)]


def test_xcopa_asks_copas_question(source: DataSource) -> None:
    row = {"idx": 2, "premise": "Sataa.", "choice1": "a", "choice2": "b", "question": "effect", "label": 0}
    put(source, "xcopa", "xcopa/et/val.et.jsonl", [row, {**row, "question": "cause"}])
    found = rows(source, "xcopa", language="et")
    assert [one.prompt for one in found] == ["Sataa. What was the effect?", "Sataa. What was the cause?"]


def test_squad_answers_and_impossible_questions(source: DataSource) -> None:
    data = squad()
    data["data"][0]["paragraphs"][0]["qas"].append(
        {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True}
    )
    put(source, "squad_v2", "squad_v2/dev-v2.0.json", data)
    answered, impossible = rows(source, "squad_v2")
    assert answered == Span("q1", "When?", "Ada wrote it in 1843.", (Answer("1843", 16),))
    assert impossible.answers == () and impossible.impossible


def test_blanked_answers_are_no_answers(source: DataSource) -> None:
    put(source, "xquad", "xquad/xquad.hi.json", squad(answers=[{"text": "", "answer_start": 0}]))
    [span] = rows(source, "xquad", "test", "hi")
    assert span.answers == () and not span.impossible


def test_tagged_sentences_with_and_without_tags(source: DataSource) -> None:
    put(source, "panx", "panx/dev-sw.tsv", "\nNi\tO\r\nAnna\tB-PER\r\n\r\n \nHapa\tO\n")
    assert rows(source, "panx", language="sw") == [
        Tagged("dev-sw:2", ("Ni", "Anna"), ("O", "B-PER")),
        Tagged("dev-sw:6", ("Hapa",), ("O",)),
    ]
    put(source, "panx", "panx/test-sw.tsv", "Ni\nAnna\n\n")
    assert rows(source, "panx", "test", "sw") == [Tagged("test-sw:1", ("Ni", "Anna"), None)]


def test_conllu_keeps_fused_forms_and_skips_empty_nodes(source: DataSource) -> None:
    text = conllu("# text = Im Haus", "1-2 Im _ _", "1 In x ADP", "2 dem x DET", "2.1 leer x VERB", "3 Haus x NOUN", "")
    put(source, "udpos", "ud-treebanks-v2.5/UD_German-X/de_x-ud-test.conllu", text)
    assert rows(source, "udpos", "test", "de") == [Tagged("de_x-ud-test:1", ("Im", "Haus"), ("ADP", "NOUN"))]


def test_the_languages_order_decides_among_parts_that_stand_equally_high(source: DataSource) -> None:
    text = conllu("1-2 dirlo _ _", "1 dir x VERB", "2 lo x PRON", "3-4 x\u200cy _ _", "3 a x NOUN", "4 b x PROPN", "")
    for code in ("es", "tr"):
        put(source, "udpos", f"ud-treebanks-v2.5/UD/{code}_x-ud-test.conllu", text)
    assert rows(source, "udpos", "test", "es")[0].tags == ("VERB", "NOUN")
    assert rows(source, "udpos", "test", "tr")[0].words == ("dirlo", "xy")


def test_withheld_sentences_are_counted_and_treebanks_joined(source: DataSource) -> None:
    put(
        source,
        "udpos",
        "ud-treebanks-v2.5/B/fr_b-ud-test.conllu",
        conllu("1 _ _ NOUN", "2 _ _ VERB", "", "1 Oui x INTJ"),
    )
    put(source, "udpos", "ud-treebanks-v2.5/C/fr_a-ud-test.conllu", conllu("1 Non x INTJ"))
    tally: Counter[str] = Counter()
    assert [row.words for row in rows(source, "udpos", "test", "fr", tally)] == [("Non",), ("Oui",)]
    assert tally == {"sentences whose words are withheld": 1}


def test_pos_test_falls_back_to_xtremes_own_file(source: DataSource) -> None:
    put(source, "udpos", "udpos/test-yo.tsv", "Mo\n\n")
    assert rows(source, "udpos", "test", "yo") == [Tagged("test-yo:1", ("Mo",), None)]


def test_bucc_sides_and_gold(source: DataSource) -> None:
    put(source, "bucc2018", "bucc2018/zh-en.dev.zh", "zh-1\t你好\u2028吗\nzh-2\t二\n")
    put(source, "bucc2018", "bucc2018/zh-en.dev.en", "en-1\tHello\n")
    gold = put(source, "bucc2018", "bucc2018/zh-en.dev.gold", "zh-1\ten-1\n")
    left, right, pairs = read_bitext(get_task("bucc2018"), "dev", "zh", source)
    assert left == [Sentence("zh-1", "你好\u2028吗"), Sentence("zh-2", "二")]
    assert (right, pairs) == ([Sentence("en-1", "Hello")], {("zh-1", "en-1")})
    assert gold in files_of(get_task("bucc2018"), "dev", "zh", source)
    gold.write_text("zh-1\ten-9\n")
    with pytest.raises(UserError, match=r"dev.gold:1: no sentence has the id 'en-9'"):
        read_bitext(get_task("bucc2018"), "dev", "zh", source)
    gold.unlink()
    with pytest.raises(UserError, match="there is no file .*zh-en.dev.gold"):
        read_bitext(get_task("bucc2018"), "dev", "zh", source)


def test_bucc_test_may_lack_gold_and_ids_are_unique(source: DataSource) -> None:
    put(source, "bucc2018", "bucc2018/de-en.test.en", "en-1\tHello\n")
    german = put(source, "bucc2018", "bucc2018/de-en.test.de", "de-1\tHallo\n")
    assert read_bitext(get_task("bucc2018"), "test", "de", source)[2] is None
    german.write_text("de-1\tHallo\nde-1\tDu\n")
    with pytest.raises(UserError, match="de:2: id 'de-1' occurs twice"):
        read_bitext(get_task("bucc2018"), "test", "de", source)


def test_tatoeba_pairs_line_with_line(source: DataSource) -> None:
    put(source, "tatoeba", "tatoeba/sw-en.sw", "Moja\nMbili\n")
    put(source, "tatoeba", "tatoeba/sw-en.en", "Two\nOne\n")
    assert read_bitext(get_task("tatoeba"), "test", "sw", source)[2] is None
    put(source, "tatoeba", "tatoeba/tatoeba.swh-eng.swh", "Moja\nMbili\n")
    english = put(source, "tatoeba", "tatoeba/tatoeba.swh-eng.eng", "One\nTwo\n")
    left, right, gold = read_bitext(get_task("tatoeba"), "test", "sw", source)
    assert (left[1], right[1], gold) == (Sentence("1", "Mbili"), Sentence("1", "Two"), {("0", "0"), ("1", "1")})
    english.write_text("One\n")
    with pytest.raises(UserError, match="swh has 2 lines and .*eng 1"):
        read_bitext(get_task("tatoeba"), "test", "sw", source)


def test_running_text_alternates_between_files_and_holds_out_every_50th_line(source: DataSource) -> None:
    for code in ("de", "en"):
        put(source, "mlm", f"{code}.txt", "".join(f"{code} {n}\n\n" for n in range(1, 51)))
    tally: Counter[str] = Counter()
    train = rows(source, "mlm", "train", tally=tally)
    assert train[:3] == [Text("de:1", "de 1", "de"), Text("en:1", "en 1", "en"), Text("de:3", "de 2", "de")]
    assert (len(train), tally) == (100, {"blank passages": 96})
    put(source, "mlm", "de.txt", "".join(f"{n}\n" for n in range(1, 101)))
    assert [row.id for row in rows(source, "mlm", "dev")] == ["de:50", "de:100"]


def test_train_and_dev_fall_back_to_the_task_trained_on(source: DataSource) -> None:
    put(source, "mnli", "mnli/multinli_1.0_train.jsonl", [nli("neutral", "m")])
    put(source, "squad_v1", "squad_v1/dev-v1.1.json", squad())
    assert rows(source, "xnli", "train")[0].id == "m"
    assert rows(source, "xquad", "dev")[0].id == "q1"
    with pytest.raises(UserError, match="mnli has no language 'de'"):
        rows(source, "xnli", "train", "de")


def test_available_languages_and_files(source: DataSource) -> None:
    paths = [put(source, "xnli", f"xnli/test-{code}.tsv", "a\tb\n") for code in ("zh", "ar")]
    labels = put(source, "xnli", "xnli/test-labels.txt", "neutral\n")
    task = get_task("xnli")
    assert available_languages(task, "test", source) == ["ar", "zh"]
    assert available_languages(task, "dev", source) == []
    assert files_of(task, "test", "zh", source) == [paths[0], labels]
    assert files_of(task, "test", "zh", DataSource("hub")) == []


def test_byte_order_mark_and_crlf_leave_no_trace(source: DataSource) -> None:
    put(source, "xnli", "xnli/dev-en.tsv", "\ufeffa\tb\tneutral\r\nc\td\u2028e\u0085f\tneutral\n".encode())
    assert [(row.text_a, row.text_b) for row in rows(source, "xnli")] == [("a", "b"), ("c", "d\u2028e\u0085f")]
