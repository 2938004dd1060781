"""Which part of a multiword token gives the fused form its tag: as XTREME's own converter chooses, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest
from reader_files import empty_source, put, rows

from stilts_ds.data.reader import find_origin
from stilts_ds.families.registry import FAMILIES
from stilts_ds.sources.source import DataSource, Part
from stilts_ds.tasks.registry import get_task


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    return empty_source(tmp_path)


def treebank(*words: str) -> str:
    """`number form tag head enhanced` a word; a multiword token has its range and form alone."""
    lines = []
    for word in words:
        cells = word.split()
        if len(cells) == 2:
            lines.append("\t".join([*cells, *"_" * 8]))
        else:
            number, form, tag, head, enhanced = cells
            lines.append("\t".join([number, form, "_", tag, "_", "_", head, "dep", enhanced, "_"]))
    return "\n".join(lines) + "\n"


def tags_of(source: DataSource, code: str, *words: str) -> tuple[str, ...]:
    put(source, "udpos", f"ud-treebanks-v2.5/UD/{code}_x-ud-test.conllu", treebank(*words))
    [sentence] = rows(source, "udpos", "test", code)
    return sentence.tags


NOUN_AND_PARTICLE = ("1-2 ab", "1 a NOUN 2 _", "2 b PART 3 _", "3 c VERB 0 _")


def test_the_highest_part_gives_the_tag_whatever_its_kind(source: DataSource) -> None:
    """NOUN comes before PART in the order of tags, but the particle is the noun's head (seen in Tamil)."""
    assert tags_of(source, "ta", *NOUN_AND_PARTICLE) == ("PART", "VERB")


def test_ancestors_count_not_the_steps_to_the_root(source: DataSource) -> None:
    """An enhanced edge gives part 1 a second head, and with it more ancestors than part 2 has."""
    words = ("1-2 ab", "1 a VERB 3 3:dep|4:dep", "2 b DET 3 _", "3 c NOUN 0 _", "4 d NOUN 3 _")
    assert tags_of(source, "it", *words) == ("DET", "NOUN", "NOUN")
    plain = ("1-2 ab", "1 a VERB 3 _", "2 b DET 3 _", "3 c NOUN 0 _", "4 d NOUN 3 _")
    assert tags_of(source, "it", *plain) == ("VERB", "NOUN", "NOUN")  # equally high: the order of tags


def test_circles_and_heads_that_are_not_there_end(source: DataSource) -> None:
    words = ("1-2 ab", "1 a NOUN 2 2:dep|8.1:dep", "2 b PART 1 99:dep", "3 c VERB 0 _")
    assert tags_of(source, "ta", *words) == ("NOUN", "VERB")


def test_rows_read_by_the_older_rule_are_not_reused(source: DataSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of a split changes with the version of the reader of its files, and only of those."""
    put(source, "udpos", "ud-treebanks-v2.5/UD/ta_x-ud-test.conllu", treebank(*NOUN_AND_PARTICLE))
    put(source, "udpos", "udpos/dev-en.tsv", "a\tNOUN\n")

    def hashes() -> list[str]:
        asked = [("test", "ta"), ("dev", "en")]
        return [find_origin(get_task("udpos"), split, code, source).hash for split, code in asked]

    now = hashes()
    versions = FAMILIES["tag"].reader_versions
    monkeypatch.setitem(versions, "conllu", versions["conllu"] + 1)  # type: ignore[arg-type]
    later = hashes()
    assert later[0] != now[0] and later[1] == now[1]


@pytest.mark.parametrize("name, sentences, words", [("ta_ttb", 120, 1_772), ("it_isdt", 482, 9_680)])
def test_every_word_is_that_of_xtremes_own_converter(name: str, sentences: int, words: int, shared_data: Path) -> None:
    folder = shared_data / "ud_fused"
    if not folder.is_dir():
        pytest.skip("needs the converted treebanks in ../shared/data/ud_fused, which are not here")
    language = name.split("_")[0]
    part = Part(folder / f"{name}-ud-test.conllu", get_task("udpos"), language, "test")
    read = list(FAMILIES["tag"].readers["conllu"](part))
    expected = [
        [line.split("\t") for line in block.splitlines()]
        for block in (folder / f"{name}-ud-test.xtreme.tsv").read_text(encoding="utf-8").strip().split("\n\n")
    ]
    found = [[list(pair) for pair in zip(sentence.words, sentence.tags)] for sentence in read]
    assert len(found) == sentences and sum(map(len, found)) == words
    assert found == expected
