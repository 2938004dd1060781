"""Noisy tasks by family: labels that still hold, the same strings by name and out of files, faults that are told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small_recipe
from conftest import stilts
from reader_files import empty_source, put, rows

from stilts_ds.data.data import Data
from stilts_ds.data.noise_files import write_noise_files
from stilts_ds.data.noisy import empty_cells
from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import score_folder
from stilts_ds.evaluate.touched import Touched, write_touched
from stilts_ds.families.ranking.mentions import mention_of, mention_text
from stilts_ds.families.ranking.record import Candidate, Query
from stilts_ds.families.registry import family_of
from stilts_ds.model_files import TOY
from stilts_ds.named_tasks import check_tasks
from stilts_ds.noise.clusters import Edit, Noised
from stilts_ds.noise.kinds import KINDS, Site, kind
from stilts_ds.noise.noiser import Collector, make_noiser
from stilts_ds.noise.spec import NoiseSpec
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task, tasks_named

PREMISE = "Die Straße war gestern für alle Fußgänger gesperrt."
NLI = "".join(f"{PREMISE}\tEine Hypothese mit der Nummer {word}.\tneutral\n" for word in ("eins", "zwei", "drei"))
CONTEXT = "Im Jahr 1990 baute Jürgen Müller eine sehr lange Straße nach Köln, die bis heute niemand benutzt hat."
QUESTIONS = [
    {"id": "a", "question": "Wer baute die Straße?", "answers": [{"text": "Jürgen Müller", "answer_start": 19}]},
    {"id": "b", "question": "Wohin führte sie?", "answers": [{"text": "nach Köln", "answer_start": 56}]},
]
SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": QUESTIONS}]}]}
TAGS = "Jürgen\tB-PER\nMüller\tI-PER\nbaute\tO\neine\tO\nStraße\tO\n.\tO\n\nKöln\tB-LOC\nist\tO\ngroß\tO\n\n"
COPA = [
    {"premise": "Der Mann öffnete den Hahn.", "choice1": "Wasser floss heraus.", "choice2": "Die Tür ging auf.",
     "question": "effect", "idx": 0, "label": 0}
]  # fmt: skip


def xquad_r(question: str) -> dict[str, Any]:
    """One paragraph of three sentences, one question and its answer in the second."""
    asked = {"id": "q", "question": question, "answers": [{"text": "Two", "answer_start": 5}]}
    return {"data": [{"paragraphs": [
        {"context": "One. Two. {Three}.", "sentence_breaks": [[0, 4], [5, 9], [10, 18]], "qas": [asked]}
    ]}]}  # fmt: skip


@pytest.fixture()
def source(tmp_path: Path) -> DataSource:
    source = empty_source(tmp_path)
    put(source, "xnli", "xnli/test-de.tsv", NLI)
    put(source, "xquad", "xquad/xquad.de.json", SQUAD)
    put(source, "panx", "panx/test-de.tsv", TAGS * 20)
    put(source, "xcopa", "xcopa/it/test.it.jsonl", COPA)
    put(source, "tatoeba", "tatoeba/tatoeba.deu-eng.deu", "Guten Morgen zusammen!\nDie Straße ist lang.\n")
    put(source, "tatoeba", "tatoeba/tatoeba.deu-eng.eng", "Good morning everyone!\nThe road is long.\n")
    put(source, "bucc2018", "bucc2018/de-en.dev.de", "de-1\tGuten Morgen zusammen!\nde-2\tDie Straße ist lang.\n")
    put(source, "bucc2018", "bucc2018/de-en.dev.en", "en-1\tGood morning everyone!\n")
    put(source, "bucc2018", "bucc2018/de-en.dev.gold", "de-1\ten-1\n")
    for language in get_task("lareqa").languages:
        put(source, "lareqa", f"lareqa/xquad-r/{language}.json", xquad_r("Wer baute die Straße nach Köln?"))
    return source


LANGUAGES = {"xcopa": "it"}
POOLED = {"lareqa": get_task("lareqa").languages}
NAMES = ["xnli@typo-10", "xquad@typo-10", "xquad@typo-20-context", "panx@char-20", "xcopa@case-20", "tatoeba@typo-20",
         "lareqa@typo-20"]  # fmt: skip


def noisy(source: DataSource, name: str, split: str = "test") -> list[Any]:
    return rows(source, name, split, LANGUAGES.get(get_task(name).plain_name, "de"))


@pytest.mark.parametrize("name", [*NAMES, "bucc2018@char-20"])
def test_files_of_a_noisy_task_are_read_by_the_clean_one_as_the_same_examples(
    name: str, source: DataSource, tmp_path: Path
) -> None:
    task = get_task(name)
    split, language = "dev" if task.plain_name == "bucc2018" else "test", LANGUAGES.get(task.plain_name, "de")
    write_noise_files(task, split, [language], source, tmp_path / "out")
    written = DataSource("local", xtreme=tmp_path / "out" / name)
    clean = [vars_of(record) for record in rows(written, task.plain_name, split, language)]
    assert clean == [vars_of(record) for record in noisy(source, name, split)]
    manifest = json.loads((tmp_path / "out" / name / "noise.json").read_text())
    assert manifest["files"][language]["edits"] > 0 and manifest["generator"]["noise"] == "3"
    # LAReQA's questions search the candidates of ten more languages, whose own questions have no noise.
    assert manifest["clean"] == [code for code in POOLED.get(task.plain_name, ()) if code != language]
    assert all(len(digest) == 64 for digest in manifest["files"][language]["sha256"].values())


def vars_of(record: Any) -> dict[str, Any]:
    """A record's fields, without what only a file's name tells."""
    named_by_task = hasattr(record, "pivot")
    return {key: getattr(record, key) for key in record.__slots__ if key != "id" or not named_by_task}


@pytest.mark.parametrize("name", [*NAMES, "bucc2018@char-20"])
def test_at_rate_0_the_records_are_the_clean_ones(name: str, source: DataSource) -> None:
    split = "dev" if name.startswith("bucc") else "test"
    plain = name.partition("@")[0]
    kind, _, _ = name.partition("@")[2].partition("-")
    made = [vars_of(record) for record in noisy(source, f"{plain}@{kind}-0", split)]
    assert made == [vars_of(record) for record in noisy(source, plain, split)]


def test_a_shared_premise_stays_one_text_and_labels_stay(source: DataSource) -> None:
    pairs = noisy(source, "xnli@typo-10")
    assert len({pair.text_a for pair in pairs}) == 1 and pairs[0].text_a != PREMISE
    assert [pair.label for pair in pairs] == ["neutral"] * 3


def test_questions_alone_get_noise_and_passages_when_asked(source: DataSource) -> None:
    for record, clean in zip(noisy(source, "xquad@typo-20"), noisy(source, "xquad")):
        assert record.question != clean.question and (record.context, record.answers) == (clean.context, clean.answers)
    first, second = noisy(source, "xquad@typo-20-context")
    assert first.context == second.context != CONTEXT
    for record, text in ((first, "Jürgen Müller"), (second, "nach Köln")):
        [answer] = record.answers
        assert record.context[answer.start : answer.start + len(text)] == text == answer.text


def test_tags_stay_as_many_and_entities_keep_their_words_under_code_switching(
    source: DataSource, tmp_path: Path
) -> None:
    (tmp_path / "lists/dictionaries").mkdir(parents=True)
    dictionary = tmp_path / "lists/dictionaries/en-de.tsv"
    dictionary.write_text("# CC0\nstreet\tStraße\nbuilt\tbaute\nCologne\tKöln\nbig city\tgroß\n", encoding="utf-8")
    lists = DataSource("local", xtreme=source.xtreme, noise=tmp_path / "lists")
    first, second = noisy(lists, "panx@switch-100")[:2]
    assert first.words == ("Jürgen", "Müller", "built", "eine", "Street", ".")
    assert second.words == ("Köln", "ist", "groß")  # an entity, and a word whose translation would be two words
    assert [len(record.words) for record in (first, second)] == [len(record.tags) for record in (first, second)]


def test_words_are_counted_where_spaces_stand_between_them(source: DataSource, tmp_path: Path) -> None:
    put(source, "xnli", "xnli/test-zh.tsv", "这条街今天禁止行人通行\t尤尔根说的\tneutral\n" * 5)
    write_noise_files(get_task("xnli@char-10"), "test", ["de", "zh"], source, tmp_path / "out")
    files = json.loads((tmp_path / "out/xnli@char-10/noise.json").read_text())["files"]
    assert files["zh"]["words_touched_percent"] is None and files["de"]["words_touched_percent"] > 20


def test_copas_question_stays_and_the_english_side_of_a_bitext_too(source: DataSource) -> None:
    [choice] = noisy(source, "xcopa@typo-20")
    assert choice.prompt.endswith(" What was the effect?") and choice.choices != ("Wasser floss heraus.",)
    [bitext], [clean] = noisy(source, "tatoeba@typo-20"), noisy(source, "tatoeba")
    assert bitext.pivot == clean.pivot and bitext.source != clean.source and bitext.gold == clean.gold


def test_candidates_stay_and_a_mention_is_misspelled_alike_in_both_of_its_places() -> None:
    pool = (Candidate("Q1", "Leeds. A city."),)
    for number in range(20):
        text = mention_text("Gestern sah Schmidt {von  Bath} die Stadt Leeds: Nord im Regen", 42, 53, "x")
        query = Query(str(number), text, ("Q1",), "d", pool)
        collected = Collector(NoiseSpec("typo", 30))
        family_of(get_task("mewslix")).noisy([query], collected, get_task("mewslix"))
        noiser = make_noiser(collected, "de", "mewslix dev de", {})
        [made] = family_of(get_task("mewslix")).noisy([query], noiser, get_task("mewslix"))
        mention = mention_of(made.text)
        assert mention is not None and made.text.count("{") == 1 and made.text != text
        assert made.text.startswith(f"{mention}: ") and f"{{ {mention} }}" in made.text
        assert made.pool == pool and made.right == ("Q1",)


def test_a_row_of_xcopa_keeps_its_number_as_a_number(source: DataSource, tmp_path: Path) -> None:
    write_noise_files(get_task("xcopa@case-0"), "test", ["it"], source, tmp_path)
    assert json.loads((tmp_path / "xcopa@case-0/xcopa/it/test.it.jsonl").read_text()) == COPA[0]


def test_what_noise_touched_is_written_beside_the_labels(tmp_path: Path, source: DataSource) -> None:
    local = {"source": "local", "xtreme": str(source.xtreme)}
    data = Data(small_recipe.recipe(targets=["xnli", "xnli@typo-20", "panx", "panx@char-20"], data=local), tmp_path)
    for name in ("xnli@typo-20", "panx@char-20", "xnli"):
        split, labels = data.split(get_task(name), "test", "de"), tmp_path / f"{name}.tsv"
        write_touched(labels, split, Tokenizer.load(TOY))
        found = Touched.load(labels)
        if name == "xnli":
            assert found is None
            continue
        _, tally = split.origin.with_noise(split.origin.clean().read())
        assert found is not None and found.errors == pytest.approx(tally.edits_per_100_letters, abs=1e-4)
        assert found.words == pytest.approx(tally.words_touched_percent, abs=1e-4)
        assert found.words > found.errors and 10 < found.pieces < 100


def test_a_noisy_task_has_its_own_hash_and_trains_as_the_clean_one(source: DataSource) -> None:
    hashes = {find_origin(get_task(name), "test", "de", source).hash for name in
              ("xnli", "xnli@typo-5", "xnli@typo-10", "xnli@typo-5-s2", "xnli@char-5")}  # fmt: skip
    assert len(hashes) == 5
    task = get_task("panx@typo-5")
    assert (task.train_on, task.head_name, task.pivot) == ("panx", "panx", "en")
    assert get_task("tatoeba@typo-5").trains is False


# --- what is empty, and what is refused -------------------------------------------------------------------------------


def test_cells_that_do_not_apply_are_listed(source: DataSource) -> None:
    empty = empty_cells(get_task("xnli@case-5"), ["de", "hi", "th"], source)
    assert empty == {"hi": "Devanagari letters have no case", "th": "Thai letters have no case"}
    with pytest.raises(UserError, match="xnli@case-5: applies to none of hi, th .*Devanagari letters have no case"):
        empty_cells(get_task("xnli@case-5"), ["hi", "th"], source)
    with pytest.raises(UserError, match="data.noise has no list for it in dictionaries/"):
        empty_cells(get_task("xnli@switch-10"), ["de"], source)


def test_a_set_that_would_be_clean_is_not_called_noisy(source: DataSource, tmp_path: Path) -> None:
    (tmp_path / "lists/misspellings").mkdir(parents=True)
    (tmp_path / "lists/misspellings/de.tsv").write_text("nirgends\tnirgens\n", encoding="utf-8")
    lists = DataSource("local", xtreme=source.xtreme, noise=tmp_path / "lists")
    with pytest.raises(UserError, match="natural noise finds nothing to change in these texts"):
        noisy(lists, "xnli@natural-10")


@dataclass
class Careless:
    """Noise that pays no heed to what is protected: it puts one text in place of another."""

    change: tuple[int, int, str]
    spec: NoiseSpec = NoiseSpec("typo", 5, context=True)

    def text(self, text: str, example: str, field: str, protected: object = ()) -> Noised:
        if field != "context":
            return Noised(text, ())
        start, end, new = self.change
        return Noised(text[:start] + new + text[end:], (self.change,))


@pytest.mark.parametrize("change", [(22, 23, ""), (18, 21, " J"), (30, 32, "xx")], ids=["inside", "start", "end"])
def test_a_gold_answer_that_an_edit_would_cut_ends_with_a_message(
    change: tuple[int, int, str], source: DataSource
) -> None:
    task = get_task("xquad@typo-5-context")
    [record, *_] = rows(source, "xquad", "test", "de")
    assert record.answers[0].start == 19 and len(record.answers[0].text) == 13
    with pytest.raises(UserError, match="question a: noise would cut the gold answer 'Jürgen Müller'"):
        family_of(task).noisy([record], Careless(change), task)
    [moved] = family_of(task).noisy([record], Careless((0, 2, "Einst im")), task)
    assert moved.answers[0].start == 25


def test_a_dictionary_with_one_column_is_refused_with_its_line(source: DataSource, tmp_path: Path) -> None:
    (tmp_path / "lists/dictionaries").mkdir(parents=True)
    (tmp_path / "lists/dictionaries/de-en.tsv").write_text("Haus\thouse\nStraße\n", encoding="utf-8")
    lists = DataSource("local", xtreme=source.xtreme, noise=tmp_path / "lists")
    with pytest.raises(UserError, match=r"de-en.tsv:2: expected word TAB word"):
        noisy(lists, "xnli@switch-10")


@pytest.mark.parametrize(
    "name, message",
    [
        ("panx@space-5", "space noise would change which words there are; take typo, char"),
        ("xnli@typo-5-context", "xnli has no passages; leave -context out"),
        ("mnli@typo-5", "noise is for the texts of targets that are scored"),
        ("xnli@typo-500", "give at most 100"),
    ],
)
def test_noise_that_a_task_cannot_bear_is_refused_before_anything_runs(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_tasks(small_recipe.recipe(targets=[name]))


# --- scoring, and a kind of one's own ---------------------------------------------------------------------------------


def test_predictions_of_a_noisy_task_are_scored_by_its_name(tmp_path: Path) -> None:
    for folder, labels in (("labels", "neutral\nentailment\n"), ("predictions", "neutral\nneutral\n")):
        for name in ("xnli", "xnli@typo-5", "notes@home"):
            path = tmp_path / folder / name / "test-de.tsv"
            path.parent.mkdir(parents=True)
            path.write_text(labels)
    tasks = tasks_named(path.name for path in (tmp_path / "labels").iterdir())
    assert list(tasks) == ["xnli", "xnli@typo-5"]
    scores = score_folder(tmp_path / "predictions", tmp_path / "labels", "test", tasks)
    assert "xnli@typo-5" in json.dumps(scores, default=vars)


def test_a_new_kind_is_one_function(source: DataSource) -> None:
    """As CONTRIBUTING.md says, word for word."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.partition("## Adding a kind of noise")[2]
    code = section.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"kind": kind, "Site": Site, "Edit": Edit}
    try:
        exec(compile(code, "CONTRIBUTING.md", "exec"), names)
        assert noisy(source, "xnli@doubled-100")[0].text_b.startswith("EEiinnee HHyyppootthheessee")
    finally:
        KINDS.pop("doubled", None)


@pytest.mark.processes
def test_the_command_writes_files_and_lists_empty_cells(source: DataSource, tmp_path: Path) -> None:
    said = stilts("noise", "xnli", "--kind", "case", "--rate", 5, "--language", "de", "--language", "hi", "--xtreme",
                  source.xtreme, "--output", "out", cwd=tmp_path)  # fmt: skip
    assert "xnli@case-5 hi: empty, Devanagari letters have no case" in said
    assert (tmp_path / "out/xnli@case-5/xnli/test-de.tsv").exists()


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, split, language",
    [("udpos@char-10", "dev", "te"), ("panx@typo-10", "dev", "yo"), ("xquad@typo-5-context", "test", "hi")],
)
def test_labels_of_real_sets_hold(name: str, split: str, language: str, shared_data: Path) -> None:
    source = DataSource("local", xtreme=shared_data / "xtreme")
    task = get_task(name)
    if language == "te":
        split = "test"
    clean = list(read_examples(get_task(task.plain_name), split, language, source))[:150]
    records, tally = find_origin(task, split, language, source).with_noise(clean)
    rate = 100 * tally.edits / tally.letters
    assert task.noise is not None and abs(rate - task.noise.rate) < 0.15 * task.noise.rate
    for record, before in zip(records, clean):
        if hasattr(record, "words"):
            assert len(record.words) == len(before.words) and record.tags == before.tags and all(record.words)
        else:
            for answer in record.answers:
                assert record.context[answer.start : answer.start + len(answer.text)] == answer.text
    assert sum(record != before for record, before in zip(records, clean)) > 0.5 * len(clean)
