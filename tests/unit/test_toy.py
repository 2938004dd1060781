"""The miniature world: the same bytes for the same seed, and labels that are true by construction."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stilts_ds.toy import LANGUAGES, PIVOT, targets
from stilts_ds.toy import world as world_module
from stilts_ds.toy.dice import Dice
from stilts_ds.toy.facts import passage, question_event, reading
from stilts_ds.toy.languages import words
from stilts_ds.toy.lexicon import ANTONYM, CONCEPTS, FIRST_NAMES, HYPERNYM, ORG_NAMES, PLACE_NAMES, SURNAMES
from stilts_ds.toy.meanings import MODIFIERS, Event
from stilts_ds.toy.relations import Relation, inference, paraphrase, roles_swapped
from stilts_ds.toy.render import sentence, text
from stilts_ds.toy.sources import Source, write_lines
from stilts_ds.toy.world import ensure_toy_world, write_world

NAMES = {*FIRST_NAMES, *SURNAMES, *PLACE_NAMES, *ORG_NAMES}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of seed 1 with the first lines of its running text: each language's are drawn one after the other."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_module, "TEXT_LINES", 400)
        write_world(folder, seed=1)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text("utf-8").splitlines()]


def tagged(path: Path) -> list[list[list[str]]]:
    blocks = path.read_text("utf-8").strip().split("\n\n")
    return [[line.split("\t") for line in block.splitlines()] for block in blocks]


def questions(path: Path) -> list[tuple[str, dict[str, Any]]]:
    articles = json.loads(path.read_text("utf-8"))["data"]
    return [(par["context"], qa) for article in articles for par in article["paragraphs"] for qa in par["qas"]]


def squad_files(world: Path) -> list[Path]:
    folders = ("intermediate/squad_v1", "intermediate/squad_v2", "xtreme/xquad", "xtreme/mlqa", "xtreme/tydiqa")
    return [path for folder in folders for path in sorted((world / folder).rglob("*.json"))]


@given(st.integers(0, 2**32), st.lists(st.integers(1, 2**32 - 1) | st.integers(1, 120), min_size=1, max_size=600))
def test_dice_draw_as_numpy_draws(seed: int, stops: list[int]) -> None:
    dice = Dice(seed, "a name")
    numpys = np.random.Generator(np.random.PCG64([seed, zlib.crc32(b"a name")]))
    assert [dice.below(stop) for stop in stops] == [int(numpys.integers(stop)) for stop in stops]


# SHA-256 of "path SHA-256-of-file" lines of the fixture above. Another one means that its text or its order of draws
# changed: then the shipped model and the numbers of the quickstart are of another world, and so is this line.
CODE_1 = "ce7f1276b974e6a57894f6fea54e3d0debecf37244295e9c1ced34572fc30671"
WORLD_1 = "f7a629721334eb5f9006d56c8c143bc424c349b76909770bb8ec4fc06e77d982"


def test_a_seed_has_the_same_bytes_on_every_machine(world: Path) -> None:
    programs = {name: digest for name, digest in digests(world).items() if name.startswith("code")}
    others = {name: digest for name, digest in digests(world).items() if name not in programs}
    assert (hash_of(others), hash_of(programs)) == (WORLD_1, CODE_1)


def hash_of(files: dict[str, str]) -> str:
    lines = "".join(f"{Path(name).as_posix()} {digest}\n" for name, digest in files.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def test_text_is_written_when_it_is_asked_for_and_with_the_seed_of_the_rest(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(world_module, "TEXT_LINES", 3)
    monkeypatch.setattr(world_module, "write_tasks", lambda folder, seed: None)
    monkeypatch.setattr(world_module, "write_code", lambda folder, seed: write_lines(folder / "code/x", [str(seed)]))
    folder = tmp_path / "data"
    ensure_toy_world(folder, 1, with_text=False)
    assert digests(folder).keys() == {"seed.txt", "code/x"}
    ensure_toy_world(folder, 1)
    first = digests(folder)
    assert set(first) == {"seed.txt", "code/x", *(f"text/{code}.txt" for code in LANGUAGES)}
    ensure_toy_world(folder, 2)
    second = digests(folder)
    assert second.keys() == first.keys() and not {name for name in first if first[name] == second[name]}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_another_seed_has_other_bytes_in_every_file(world: Path, tmp_path: Path) -> None:
    for write in targets.WRITERS:
        write(Source(2), tmp_path / "xtreme")
    written, first = digests(tmp_path), digests(world)
    assert written.keys() == {name for name in first if name.startswith("xtreme")}
    assert not {name for name in written if written[name] == first[name]}


def test_a_world_of_an_earlier_version_gets_programs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(world_module, "write_tasks", lambda folder, seed: pytest.fail("it is there already"))
    (tmp_path / "seed.txt").write_text("1")
    ensure_toy_world(tmp_path, 1, with_text=False)
    assert (tmp_path / "code/mbpp/mbpp.jsonl").exists()


def test_answers_stand_at_their_offsets(world: Path) -> None:
    assert len(squad_files(world)) == 2 + 2 + len(LANGUAGES) * 4 + 1
    for path in squad_files(world):
        found = questions(path)
        assert len({qa["id"] for _, qa in found}) == len(found)
        for context, qa in found:
            assert qa["answers"] or qa["is_impossible"], path
            for answer in qa["answers"]:
                start = answer["answer_start"]
                assert answer["text"] and context[start : start + len(answer["text"])] == answer["text"], path


def test_squad_v2_leaves_a_third_unanswered(world: Path) -> None:
    found = questions(world / "intermediate/squad_v2/train-v2.0.json")
    assert sum(qa["is_impossible"] for _, qa in found) == (len(found) + 2) // 3


def test_a_question_fits_one_fact_only() -> None:
    for index in range(200):
        drawn = reading(Dice(3, f"reading-{index}"), index)
        wanted = question_event(drawn.about, drawn.asked)
        known = [
            slot for slot in ("agent", "verb", "patient", "place") if slot != drawn.asked and getattr(wanted, slot)
        ]
        matches = [fact for fact in drawn.facts if all(getattr(fact, slot) == getattr(wanted, slot) for slot in known)]
        assert matches == [drawn.facts[drawn.index]]
        assert {passage(drawn, code).context.count(".") for code in LANGUAGES} == {3}


def test_labels_are_balanced(world: Path) -> None:
    base = world / "intermediate"
    labels = {
        "mnli": [row["gold_label"] for row in json_lines(base / "mnli/multinli_1.0_train.jsonl")],
        "anli": [row["label"] for row in json_lines(base / "anli_v1.0/R2/train.jsonl")],
        "qqp": [row[5] for row in rows(base / "qqp/train.tsv")[1:]],
        "hellaswag": [row["label"] for row in json_lines(base / "hellaswag/hellaswag_train.jsonl")],
        "csqa": [row["answerKey"] for row in json_lines(base / "commonsenseqa/train_rand_split.jsonl")],
        "xnli": (world / "xtreme/xnli/test-labels.txt").read_text().split(),
        "pawsx": [row[2] for row in rows(world / f"xtreme/pawsx/train-{PIVOT}.tsv")],
    }
    for name, found in labels.items():
        counts = Counter(found)
        assert max(counts.values()) - min(counts.values()) <= 1, (name, counts)


def entails(premise: Event, hypothesis: Event) -> bool:
    """Whether the premise says everything that the hypothesis says."""
    kept = all(getattr(hypothesis, slot) in (None, getattr(premise, slot)) for slot in MODIFIERS)
    kind = hypothesis.patient in (premise.patient, HYPERNYM.get(premise.patient))
    same = (premise.agent, premise.verb, premise.negated) == (hypothesis.agent, hypothesis.verb, hypothesis.negated)
    return kept and kind and same


def contradicts(premise: Event, hypothesis: Event) -> bool:
    """Whether one thing is turned into its opposite."""
    return (
        premise.negated != hypothesis.negated
        or ANTONYM.get(premise.verb) == hypothesis.verb
        or (premise.patient_attribute in ANTONYM and ANTONYM[premise.patient_attribute] == hypothesis.patient_attribute)
        or (None not in (premise.number, hypothesis.number) and premise.number != hypothesis.number)
    )


def test_inference_labels_follow_from_the_meanings() -> None:
    dice = Dice(5, "inference")
    for index in range(900):
        drawn = inference(dice, index)
        facts = entails(drawn.first, drawn.second), contradicts(drawn.first, drawn.second)
        expected = {"entailment": (True, False), "neutral": (False, False), "contradiction": (False, True)}
        assert facts == expected[drawn.label], drawn


def test_paraphrases_are_the_same_event_and_most_negatives_share_its_words() -> None:
    dice = Dice(5, "paraphrase")
    swapped = 0
    for index in range(400):
        drawn: Relation = paraphrase(dice, index)
        same = drawn.first == drawn.second
        assert drawn.label == ("1" if same else "0")
        swapped += drawn.second == roles_swapped(drawn.first)
        assert text(drawn.first, PIVOT, drawn.variants[0]) != text(drawn.second, PIVOT, drawn.variants[1])
    assert swapped > 40


@pytest.mark.parametrize("task", ["udpos", "panx"])
def test_tags_line_up_across_languages(world: Path, task: str) -> None:
    for split in ("dev", "test"):
        parsed = {code: tagged(world / "xtreme" / task / f"{split}-{code}.tsv") for code in LANGUAGES}
        assert {len(found) for found in parsed.values()} == {120}
        for found in parsed.values():
            assert all(len(row) == 2 and all(row) for words_ in found for row in words_)
    names = {code: [Counter(tag for _, tag in one if "-" in tag) for one in found] for code, found in parsed.items()}
    assert all(found == names[PIVOT] for found in names.values())


def test_inside_tags_follow_a_beginning(world: Path) -> None:
    for code in LANGUAGES:
        for one in tagged(world / "xtreme/panx" / f"test-{code}.tsv"):
            tags = [tag for _, tag in one]
            for before, tag in zip(["O", *tags], tags):
                assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_gold_pairs_exist_and_collections_have_no_doubles(world: Path) -> None:
    for code in [code for code in LANGUAGES if code != PIVOT]:
        for split in ("dev", "test"):
            name = f"{code}-{PIVOT}.{split}"
            sides = [dict(rows(world / "xtreme/bucc2018" / f"{name}.{side}")) for side in (code, PIVOT)]
            gold = rows(world / "xtreme/bucc2018" / f"{name}.gold")
            assert len(gold) == 50 and all(a in sides[0] and b in sides[1] for a, b in gold)
        pair = [rows(world / "xtreme/tatoeba" / f"tatoeba.{code}-{PIVOT}.{side}") for side in (code, PIVOT)]
        assert len(pair[0]) == len(pair[1]) == 150


def test_train_and_test_are_disjoint(world: Path) -> None:
    base = world / "intermediate"
    train = {(row["sentence1"], row["sentence2"]) for row in json_lines(base / "mnli/multinli_1.0_train.jsonl")}
    test = {tuple(row) for row in rows(world / f"xtreme/xnli/test-{PIVOT}.tsv")}
    assert len(train & test) <= 1
    asked = {(context, qa["question"]) for context, qa in questions(base / "squad_v1/train-v1.1.json")}
    for path in squad_files(world):
        if "squad_v1/train" not in path.as_posix():
            assert not asked & {(context, qa["question"]) for context, qa in questions(path)}, path


def test_languages_share_names_digits_and_punctuation_only(world: Path) -> None:
    for number, code in enumerate(LANGUAGES):
        assert len(set(words(code).values())) == len(CONCEPTS)
        for other in LANGUAGES[number + 1 :]:
            assert not set(words(code).values()) & set(words(other).values())
    vocabularies = [
        {word for one in tagged(world / "xtreme/udpos" / f"dev-{code}.tsv") for word, _ in one} for code in LANGUAGES
    ]
    for number, vocabulary in enumerate(vocabularies):
        shared = vocabulary & set().union(*vocabularies[number + 1 :])
        assert all(word in NAMES or re.fullmatch(r"[0-9.?]", word) for word in shared), shared


def test_word_order_differs_between_languages() -> None:
    fact = Event("PER:Mira", "eat", "bread", "past", place="LOC:Quito")
    slots = {code: [token.slot for token in sentence(fact, code) if token.slot] for code in LANGUAGES}
    assert slots["qaa"] == ["agent", "verb", "patient", "place"]
    assert slots["qab"] == ["place", "agent", "patient", "verb"]
    assert slots["qac"] == ["verb", "agent", "patient", "place"]
    assert slots["qad"] == ["place", "agent", "verb", "patient"]


def test_choices_differ_and_csv_has_the_official_columns(world: Path) -> None:
    for row in json_lines(world / "intermediate/hellaswag/hellaswag_train.jsonl"):
        assert len(set(row["endings"])) == 4
    with (world / "intermediate/cosmosqa/train.csv").open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    assert list(first) == ["id", "context", "question", "answer0", "answer1", "answer2", "answer3", "label"]
