"""The worlds of tests/tools/other_worlds.py: what each changes, and that the rest stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "other_worlds.py"
# A world is made in a process of its own: this one's modules stay as they are.
MADE = """
import json, sys
import other_worlds
other_worlds.WORLDS[sys.argv[1]]()
from stilts_ds.toy import choices, corpus, languages, meanings, relations
from stilts_ds.toy.sources import Source
source = Source(20)
dice = source.dice("many")
events = [meanings.event(dice, density=100) for _ in range(4000)]
json.dump({
    "words": {code: languages.words(code) for code in languages.LANGUAGES},
    "said": sorted({part for event in events for part in vars(event).values() if isinstance(part, str)}),
    "text": corpus.lines(source.dice("text/qaa"), "qaa", 400),
    "pairs": [str(pair) for pair in source.draw("pairs", 60, relations.inference)],
    "picks": [list(pick.nouns) for pick in source.draw("picks", 60, choices.pick)],
}, sys.stdout)
"""
SHAPE = """
import sys
import other_worlds
other_worlds.WORLDS[sys.argv[1]]()
from stilts_ds.toy import model, tokenizer
print(model.tiny_config(tokenizer.train_tokenizer(["gelo geko."] * 3, 40)).num_hidden_layers)
"""


def python(program: str, world: str) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(TOOL.parent)!r})\n{program}", world]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def made(world: str) -> Any:
    return json.loads(python(MADE, world))


@pytest.fixture(scope="module")
def unchanged() -> Any:
    return made("unchanged")


@pytest.mark.processes
def test_five_hundred_concepts_are_all_said_and_the_old_words_stay(unchanged: Any) -> None:
    grown = made("five_hundred_concepts")
    for code, words in grown["words"].items():
        assert len(words) == 501 == len(set(words.values()))
        assert list(words.items())[:77] == list(unchanged["words"][code].items())
    # 53 concepts of nine kinds; the tense, the number, the adverbs of time and names are as before.
    kinds = {said for said in grown["said"] if said.split("~")[0] in unchanged["words"]["qaa"]}
    assert len([said for said in kinds if "~" in said]) == 8 * 53
    assert {said.split("~")[0] for said in grown["said"]} == set(unchanged["said"])


@pytest.mark.processes
def test_a_third_of_the_words_is_shared(unchanged: Any) -> None:
    shared = made("shared_words")["words"]
    pivot = shared["qaa"]
    assert pivot == unchanged["words"]["qaa"]
    for code in ("qab", "qac", "qad"):
        alike = [concept for concept, word in shared[code].items() if word == pivot[concept]]
        assert len(alike) == 26 == -(-77 // 3) and len(set(shared[code].values())) == 77
        assert all(word == unchanged["words"][code][c] for c, word in shared[code].items() if c not in alike)


@pytest.mark.processes
def test_retold_stories_mix_no_languages_within_a_sentence(unchanged: Any) -> None:
    # Bare words tell the language; the two languages of a story share none.
    words = {code: set(words.values()) for code, words in unchanged["words"].items()}

    def languages_of(line: str) -> list[set[str]]:
        sentences = [sentence.split() for sentence in line.rstrip(".").split(".")]
        return [{code for code, own in words.items() if own & set(sentence)} for sentence in sentences]

    retold, before = ([languages_of(line) for line in lines] for lines in (made("retold")["text"], unchanged["text"]))
    assert max(len(codes) for story in retold for codes in story) == 1
    assert max(len(codes) for story in before for codes in story) == 2
    # Four of five, and sampling: a standard error of 2 %.
    share = sum(len(set.union(*story)) == 2 for story in retold) / len(retold)
    assert 0.74 < share < 0.86


@pytest.mark.processes
def test_eight_layers_and_the_same_text(unchanged: Any) -> None:
    assert python(SHAPE, "eight_layers") == "8\n"
    assert made("eight_layers") == unchanged


@pytest.mark.processes
def test_other_words_print_how_it_is_used() -> None:
    for arguments in ([], ["eight_layers"], ["nine_layers", "stilts"], ["retold", "python"]):
        process = subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)
        assert process.returncode == 2 and "other_worlds.py WORLD pretrain_toy OUT_DIR" in process.stdout
