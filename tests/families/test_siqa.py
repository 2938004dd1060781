"""Social IQa before COPA: the prompts, and a choice head that goes on in the next phase or begins anew."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import ranks
import small
import torch
from reader_files import empty_source, put, rows

from stilts_ds.data.reader import read_examples
from stilts_ds.errors import UserError
from stilts_ds.export import export_model, keep_head
from stilts_ds.families.choice.record import Choice
from stilts_ds.families.choice.record import siqa as hub_siqa
from stilts_ds.families.registry import family_of
from stilts_ds.model.heads import HeadSpec
from stilts_ds.run_dir import PhaseDir
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task

ROW = {"context": "Ann fell.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "correct": "B"}
DEV = "siqa/socialIQa_v1.4_dev.jsonl"
REAL = ranks.SHARED / "data/xtreme_r"
SIQA, COPA = HeadSpec("siqa", "choice", width=3), HeadSpec("xcopa", "choice", width=2)


def test_the_prompt_is_context_and_question(tmp_path: Path) -> None:
    source = empty_source(tmp_path)
    put(source, "siqa", DEV, [ROW])
    [record] = rows(source, "siqa")
    assert (record.prompt, record.choices, record.label) == ("Ann fell. Why?", ("a", "b", "c"), 1)
    put(source, "siqa", DEV, [{**ROW, "correct": "D"}])
    with pytest.raises(UserError, match=r"dev\.jsonl:1: `correct` is 'D', expected A, B or C"):
        rows(source, "siqa")


def test_the_hub_counts_answers_from_one() -> None:
    row = {key: value for key, value in ROW.items() if key != "correct"}
    record = hub_siqa({**row, "label": "3\n"}, "siqa[0]", None)  # type: ignore[arg-type]
    assert record == Choice("siqa[0]", "Ann fell. Why?", ("a", "b", "c"), 2)
    with pytest.raises(UserError, match=r"siqa\[0\]: `label` is '0', expected 1, 2 or 3"):
        hub_siqa({**row, "label": "0"}, "siqa[0]", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind, question", [("cause", "What was the cause?"), ("effect", "What was the effect?")])
def test_copa_asks_what_xtreme_r_asks(kind: str, question: str, tmp_path: Path) -> None:
    source = empty_source(tmp_path)
    row = {"premise": "It rained.", "choice1": "a", "choice2": "b", "question": kind, "label": 0, "idx": 4}
    put(source, "xcopa", "xcopa/et/val.et.jsonl", [row])
    [record] = rows(source, "xcopa", language="et")
    assert record.prompt == f"It rained. {question}"


@pytest.mark.data("xtreme_r")
def test_every_row_of_the_official_files_is_read(tmp_path: Path) -> None:
    (tmp_path / "siqa").mkdir()
    packed = REAL / "siqa/socialIQa_v1.4_dev.jsonl.gz"
    (tmp_path / DEV).write_bytes(gzip.decompress(packed.read_bytes()))
    for test in (REAL / "xcopa/data").glob("*/test.*.jsonl.gz"):
        unpacked = tmp_path / "xcopa" / test.parent.name / test.stem
        unpacked.parent.mkdir(parents=True)
        unpacked.write_bytes(gzip.decompress(test.read_bytes()))
    source = DataSource(intermediate=tmp_path, xtreme=tmp_path)
    assert len(list(read_examples(get_task("siqa"), "dev", "en", source))) == 1_954
    task = get_task("xcopa")
    counts = {code: len(list(read_examples(task, "test", code, source))) for code in task.languages}
    assert counts == dict.fromkeys(task.languages, 500) and len(counts) == 11


# --- XCOPA's prediction files ----------------------------------------------------------------------------------------


def test_xcopa_is_answered_in_xtreme_rs_layout(tmp_path: Path) -> None:
    task = get_task("xcopa")
    files = family_of(task).files(task)
    path = tmp_path / files.name("test", "et")
    files.write(path, [1, 0])
    assert path.name == "test-et.jsonl" and path.read_text() == '{"label": 1}\n{"label": 0}\n'
    assert files.read(path, ()) == files.read_labels(path, ()) == [1, 0]
    # The data set's own rows hold their label, so that they can be scored against.
    path.write_text('{"premise": "It rained.", "label": 1, "idx": 4}\n')
    assert files.read_labels(path, ()) == [1]
    siqa = get_task("siqa")
    assert family_of(siqa).files(siqa).name("dev", "en") == "dev-en.tsv"


@pytest.mark.parametrize(
    "line, problem",
    [
        ("1", r"test-et\.jsonl.*line 2.*`label` is None, which is no index from 0; write \{\"label\": 0\} a line"),
        ('{"label": true}', "line 2.*`label` is True"),
        ('{"label": -1}', "line 2.*`label` is -1"),
        ("{", "line 2.*is not JSON"),
    ],
)
def test_a_faulty_line_is_named(line: str, problem: str, tmp_path: Path) -> None:
    task = get_task("xcopa")
    path = tmp_path / "test-et.jsonl"
    path.write_text(f'{{"label": 0}}\n{line}\n')
    with pytest.raises(UserError, match=problem):
        family_of(task).files(task).read(path, ())


# --- keeping a head --------------------------------------------------------------------------------------------------


def exported(folder: Path, *specs: HeadSpec) -> PhaseDir:
    model = small.model(seed=5, specs=list(specs))
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    class NoTokenizer:
        def save(self, where: Path) -> None:
            (where / "tokenizer.json").write_text("{}")

    export_model(folder, model.encoder, NoTokenizer(), list(specs), parameters, {"step": 1})  # type: ignore[arg-type]
    return PhaseDir(folder)


def test_a_head_of_three_choices_goes_on_with_two(tmp_path: Path) -> None:
    before = exported(tmp_path / "siqa", SIQA)
    assert json.loads(before.heads_json.read_text())["heads"][0]["width"] == 3
    kept, new = small.model(seed=9, specs=[COPA]), small.model(seed=9, specs=[COPA])
    assert keep_head(kept, COPA, before) == "siqa"
    theirs = small.model(seed=5, specs=[SIQA]).heads["siqa"].state_dict()
    for name, value in kept.heads["xcopa"].state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert not torch.equal(kept.heads["xcopa"].dense.weight, new.heads["xcopa"].dense.weight)


def test_a_phase_without_such_a_head_leaves_a_new_one(tmp_path: Path) -> None:
    model = small.model(seed=9, specs=[COPA])
    was = model.heads["xcopa"].dense.weight.clone()
    assert keep_head(model, COPA, exported(tmp_path / "nli", small.SPECS[0])) == ""
    assert torch.equal(model.heads["xcopa"].dense.weight, was)


def test_of_two_such_heads_none_is_chosen(tmp_path: Path) -> None:
    before = exported(tmp_path / "both", SIQA, HeadSpec("hellaswag", "choice", width=4))
    with pytest.raises(UserError, match="several heads for 'xcopa': siqa, hellaswag; set keep_head=false"):
        keep_head(small.model(specs=[COPA]), COPA, before)
