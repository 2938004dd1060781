"""Hub rows become the records that local files give. The hub is replaced by parquet files written here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from reader_files import available_languages, files_of, read_bitext
from report_runs import build_run

from stilts_ds import hub_client
from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.errors import UserError
from stilts_ds.families.bitext.record import Sentence
from stilts_ds.families.choice.record import Choice
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.tag.record import Tagged
from stilts_ds.families.tag.treebank import treebank_row
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import read_json, write_json
from stilts_ds.sources import hub
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import TASKS, get_task

HUB = DataSource("hub")
LOAD = datasets.load_dataset
Serve = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Call with rows (and column types): every hub request then reads them from a parquet file and is noted."""

    def start(rows: list[dict[str, Any]], **types: Any) -> list[tuple[Any, ...]]:
        table = datasets.Dataset.from_list(rows)
        for column, kind in types.items():
            table = table.cast_column(column, kind)
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        table.to_parquet(str(file))
        asked: list[tuple[Any, ...]] = []

        def answer(repo: str, config: str, split: str, revision: str) -> Any:
            asked.append((repo, config, split, revision))
            return LOAD("parquet", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))

        monkeypatch.setattr(datasets, "load_dataset", answer)
        monkeypatch.setattr(hub, "pin", lambda data_set, kept: data_set)
        return asked

    return start


def rows(task: str, split: str = "dev", language: str = "en", tally: Counter[str] | None = None) -> list[Any]:
    return list(read_examples(get_task(task), split, language, HUB, tally))


def test_nli_drops_rows_without_a_label(serve: Serve) -> None:
    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    asked = serve([{"premise": "p", "hypothesis": "h", "label": label} for label in (2, -1, 0)], label=names)
    tally: Counter[str] = Counter()
    found = rows("xnli", "test", "sw", tally)
    place = "facebook/xnli sw test"
    assert found == [Pair(f"{place}[0]", "p", "h", "contradiction"), Pair(f"{place}[2]", "p", "h", "entailment")]
    assert tally == {"rows without a gold label (-)": 1}
    assert asked == [("facebook/xnli", "sw", "test", "b8dd5d7af51114dbda02c0e3f6133f332186418e")]


def test_anli_plus_joins_five_data_sets(serve: Serve) -> None:
    asked = serve([{"premise": "p", "hypothesis": "h", "label": 1}])
    assert len(rows("anli_plus")) == 5
    assert [(repo, split) for repo, _, split, _ in asked] == [
        ("facebook/anli", "dev_r1"),
        ("facebook/anli", "dev_r2"),
        ("facebook/anli", "dev_r3"),
        ("nyu-mll/glue", "validation_matched"),
        ("stanfordnlp/snli", "validation"),
    ]


def test_paraphrase_pairs(serve: Serve) -> None:
    serve([{"question1": "a", "question2": "b", "label": 1, "idx": 9}])
    assert rows("qqp") == [Pair("9", "a", "b", "1")]
    serve([{"sentence1": "a", "sentence2": "b", "label": 0, "id": 3}])
    assert rows("pawsx", "train") == [Pair("3", "a", "b", "0")]
    serve([{"sentence1": "a", "sentence2": "b", "label": 7, "id": 3}])
    with pytest.raises(UserError, match=r"paws-x en train\[0\]: label 7 is none of 0 to 1"):
        rows("pawsx", "train")


def question(id: str, text: list[str], start: list[int]) -> dict[str, Any]:
    return {"id": id, "question": "Who?", "context": "Ada did", "answers": {"text": text, "answer_start": start}}


def test_questions(serve: Serve) -> None:
    serve([question("1", ["Ada"], [0]), question("2", [], [])])
    assert rows("squad_v2")[0] == Span("1", "Who?", "Ada did", (Answer("Ada", 0),))
    assert [span.impossible for span in rows("squad_v2")] == [False, True]
    serve([question("1", [], []), question("2", [], [])])
    assert [span.impossible for span in rows("xquad", "test", "de")] == [False, False]
    serve([question("1", ["Ada"], [0]), question("2", [], [])])
    with pytest.raises(UserError, match="xquad test de: example '2' has no label, unlike those before"):
        rows("xquad", "test", "de")
    serve([question("1", ["Ada"], [3])])
    with pytest.raises(UserError, match="is not at character 3"):
        rows("squad_v1")


def test_tydiqa_keeps_its_language(serve: Serve) -> None:
    asked = serve([question("finnish-1-2", ["Ada"], [0]), question("english-1-2", ["Ada"], [0])])
    assert [span.id for span in rows("tydiqa", "test", "fi")] == ["finnish-1-2"]
    assert asked[0][:3] == ("google/xtreme", "tydiqa", "validation")
    with pytest.raises(UserError, match="tydiqa dev te: there are no examples"):
        rows("tydiqa", "dev", "te")


def test_choices(serve: Serve) -> None:
    serve([{"ind": 4, "ctx_a": "He", "ctx_b": "it", "endings": ["a", "b"], "label": "1"}])
    assert rows("hellaswag") == [Choice("4", "He", ("it a", "it b"), 1)]
    answers = {f"answer{index}": str(index) for index in range(4)}
    serve([{"id": "c", "context": "x", "question": "y", **answers, "label": 2}])
    assert rows("cosmosqa") == [Choice("c", "x y", ("0", "1", "2", "3"), 2)]
    serve([{"id": "q", "question": "Q?", "choices": {"label": ["A", "B"], "text": ["a", "b"]}, "answerKey": "B"}])
    assert rows("commonsenseqa") == [Choice("q", "Q?", ("a", "b"), 1)]
    serve([{"premise": "P.", "choice1": "a", "choice2": "b", "question": "cause", "label": 0, "idx": 5}])
    assert rows("xcopa", "test", "qu") == [Choice("5", "P. What was the cause?", ("a", "b"), 0)]


def test_tags_take_the_data_sets_own_names(serve: Serve) -> None:
    names = datasets.List(datasets.ClassLabel(names=["O", "B-PER", "I-PER"]))
    asked = serve([{"tokens": ["Ann", "ran"], "ner_tags": [1, 0]}], ner_tags=names)
    assert rows("panx", "train") == [Tagged("google/xtreme PAN-X.en train[0]", ("Ann", "ran"), ("B-PER", "O"))]
    serve([{"tokens": ["Ann"], "pos_tags": ["PROPN"]}])
    assert rows("udpos", "test", "fa")[0].tags == ("PROPN",)
    assert asked[0][1] == "PAN-X.en"


# What the hub's `universal_dependencies` holds of 1-2 Im, 1 In, 2 dem, 2.1 (an empty node), 3 Haus.
IM_HAUS = {
    "text": "Im Haus", "tokens": ["Im", "In", "dem", "leer", "Haus"], "upos": ["_", "ADP", "DET", "VERB", "NOUN"],
    "head": ["None", "3", "1", "None", "0"], "deps": ["None", "None", "[('det', 3), ('x', (2, '.', 1))]",
                                                      "[('root', 0)]", "None"],
}  # fmt: skip


def treebank_record(**changes: Any) -> tuple[Any, Counter[str]]:
    tally: Counter[str] = Counter()
    context = hub.RowContext(get_task("udpos"), "pl", tally, {"upos": None})
    return treebank_row({**IM_HAUS, **changes}, "ud[0]", context), tally


def test_a_treebanks_row_is_fused_as_its_file_is() -> None:
    """In of two ancestors (3, 0) beats dem of four: 1 over its head, 3 over the enhanced edge, and 0."""
    assert treebank_record()[0] == Tagged("ud[0]", ("Im", "Haus"), ("ADP", "NOUN"))
    flat = treebank_record(text="In dem Haus", tokens=IM_HAUS["tokens"][1:], upos=IM_HAUS["upos"][1:],
                           head=IM_HAUS["head"][1:], deps=IM_HAUS["deps"][1:])  # fmt: skip
    assert flat[0] == Tagged("ud[0]", ("In", "dem", "Haus"), ("ADP", "DET", "NOUN"))


def test_the_text_says_where_a_multiword_token_ends() -> None:
    """`a` has three parts in the first text and two in the second."""
    row = {"tokens": ["a", "x", "y", "b", "b"], "upos": ["_", "NOUN", "VERB", "ADJ", "NUM"], "deps": ["None"] * 5,
           "head": ["None", "2", "0", "2", "2"]}  # fmt: skip
    assert treebank_record(text="a b", **row)[0] == Tagged("ud[0]", ("a", "b"), ("VERB", "NUM"))
    assert treebank_record(text="a  b b", **row)[0] == Tagged("ud[0]", ("a", "b", "b"), ("VERB", "ADJ", "NUM"))
    with pytest.raises(UserError, match=r"ud\[0\]: its words spell its text in no way: .*; use the treebank's file"):
        treebank_record(text="a c", **row)
    with pytest.raises(UserError, match="its words spell its text in more than one way"):
        treebank_record(text="aa a", tokens=list("axaaxa"), upos=list("_XX_XX"), deps=["None"] * 6,
                        head=["None", "0", "0"] * 2)  # fmt: skip


def test_a_treebanks_row_without_words_is_counted() -> None:
    row = {"text": "_ _", "tokens": ["_", "_"], "upos": ["NOUN", "VERB"], "head": ["2", "0"], "deps": ["None"] * 2}
    assert treebank_record(**row) == (None, {"sentences whose words are withheld": 1})
    with pytest.raises(UserError, match="its columns have different lengths; check the data set's revision"):
        treebank_record(head=["0"])


def test_tatoeba_puts_english_second(serve: Serve) -> None:
    row = {"source_sentence": "Moja", "target_sentence": "One", "source_lang": "swh", "target_lang": "eng"}
    swapped = {"source_sentence": "Two", "target_sentence": "Mbili", "source_lang": "eng", "target_lang": "swh"}
    asked = serve([row, swapped])
    left, right, gold = read_bitext(get_task("tatoeba"), "test", "sw", HUB)
    assert left == [Sentence("0", "Moja"), Sentence("1", "Mbili")]
    assert right == [Sentence("0", "One"), Sentence("1", "Two")]
    assert gold == {("0", "0"), ("1", "1")}
    assert asked[0][1:3] == ("tatoeba.swh", "validation")
    # mteb's copy has XTREME-R's languages, and a line break at the end of each sentence.
    serve([{"sentence1": "Vienas\n", "sentence2": "One\n", "lang": "lit-eng"}])
    [bitext] = rows("tatoeba", "test", "sw")
    assert (bitext.source[0].text, bitext.pivot[0].text) == ("Vienas", "One")


def test_what_the_hub_lacks_is_said(serve: Serve) -> None:
    with pytest.raises(UserError, match="ccg: data.intermediate is not set; the hub has not got .* Make ccg/train.tsv"):
        rows("ccg", "train")
    with pytest.raises(UserError, match="bucc2018: data.xtreme is not set; the hub has not got its files"):
        read_bitext(get_task("bucc2018"), "dev", "zh", HUB)
    assert available_languages(get_task("xcopa"), "train", HUB) == []
    assert available_languages(get_task("xnli"), "test", HUB) == list(TASKS["xnli"].languages)
    assert available_languages(get_task("mnli"), "train", HUB) == ["en"]
    assert files_of(get_task("mnli"), "train", "en", HUB) == []


def test_a_failing_download_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(hub_client, "WAITS", ())
    message = (
        r"cannot load Rowan/hellaswag .* from the hub: no connection to .* in 1 try \(no route\); .* fill the cache"
    )
    with pytest.raises(UserError, match=message):
        rows("hellaswag")


def test_without_network_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def asleep(seconds: float) -> None:
        raise AssertionError(f"waits {seconds} s")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub_client.time, "sleep", asleep)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("offline")))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and the cache in HF_HOME=.* does not have it"):
        rows("hellaswag")


# --- moving revisions ------------------------------------------------------------------------------------------------

COSMOS = TASKS["cosmosqa"].hub["dev"][0]
NAME = "allenai/cosmos_qa@refs/convert/parquet"


class Api:
    """A hub whose branch stands at `commit`; None: out of reach."""

    commit: str | None = None
    asked = 0

    def dataset_info(self, repo: str, revision: str, timeout: float) -> Any:
        assert (repo, revision) == ("allenai/cosmos_qa", "refs/convert/parquet") and timeout > 0
        Api.asked += 1
        if Api.commit is None:
            raise ConnectionError
        return type("Info", (), {"sha": Api.commit})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Api]:
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    hub._newest_commit.cache_clear()
    Api.commit, Api.asked = None, 0
    return Api


def test_only_branches_are_resolved_and_only_once(api: type[Api], tmp_path: Path) -> None:
    api.commit = "f" * 40
    kept = tmp_path / "cache" / "hub_commits.json"
    assert hub.pin(COSMOS, kept).revision == "f" * 40
    assert read_json(kept) == {NAME: "f" * 40}
    api.commit = "e" * 40  # the branch moves on
    hub._newest_commit.cache_clear()
    assert hub.pin(COSMOS, kept).revision == "f" * 40 and api.asked == 1
    pinned = TASKS["mnli"].hub["dev"][0]
    assert hub.pin(pinned, kept) is pinned


def test_without_network_the_cached_copy_tells_its_commit(api: type[Api], tmp_path: Path) -> None:
    kept = tmp_path / "hub_commits.json"
    with pytest.raises(UserError, match="cosmos_qa: the revision refs/convert/parquet moves, and its commit is not"):
        hub.pin(COSMOS, kept)
    assert not kept.exists()
    versions = tmp_path / "hf" / "allenai___cosmos_qa" / "default" / "0.0.0"
    for age, commit in enumerate(["a" * 40, "b" * 40, "c" * 40]):
        (versions / commit).mkdir(parents=True)
        os.utime(versions / commit, (1000 - age, 1000 - age))
    (versions / f"{'d' * 40}.incomplete").mkdir()
    assert hub.pin(COSMOS, kept).revision == "a" * 40
    assert read_json(kept) == {NAME: "a" * 40}


def test_the_commit_is_part_of_what_phases_and_rows_are_named_by(api: type[Api], tmp_path: Path) -> None:
    found = {}
    for commit in ("f" * 40, "e" * 40):
        api.commit = commit
        hub._newest_commit.cache_clear()
        source = DataSource("hub", hub_commits=tmp_path / commit / "hub_commits.json")
        found[commit] = find_origin(TASKS["cosmosqa"], "train", "en", source)
        assert [data_set.revision for data_set in found[commit].hub] == [commit]
    assert found["f" * 40].hash != found["e" * 40].hash


def test_damaged_commits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "hub_commits.json").write_text('{"a": "main"}')
    with pytest.raises(UserError, match="hub_commits.json holds no commits; delete it"):
        hub.pin(COSMOS, tmp_path / "hub_commits.json")


def test_the_report_names_the_commit(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=["pawsx"], languages="all", examples=5,
                    intermediate={"none": [], "cosmosqa": ["cosmosqa"]})  # fmt: skip
    write_report(run, ComparisonSettings(resamples=200))
    assert "hub_commits" not in read_json(run.results)
    write_json(tmp_path / "cache" / "hub_commits.json", {NAME: "f" * 40, "other/set@main": "e" * 40})
    write_report(run, ComparisonSettings(resamples=200))
    assert read_json(run.results)["hub_commits"] == {NAME: "f" * 40}
    assert f"Moving hub revisions: `{NAME}: {'f' * 40}`" in run.report.read_text(encoding="utf-8")
