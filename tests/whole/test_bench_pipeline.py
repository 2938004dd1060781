"""The benchmark of the input pipeline: it compares like with like, and says so in its results."""

from __future__ import annotations

import json
from pathlib import Path

import pieces
import pytest
from stilts_bench import pipeline as bench_pipeline
from stilts_launcher import cli

from stilts_ds.errors import UserError
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.span.rows import encode_span
from stilts_ds.rows.tokenizer import Tokenizer

XLMR = Tokenizer(pieces.xlmr_tokenizer(), "xlmr")
WORDS = ["the", "cat", "sat", "on", "a", "mat", "dogs", "zebra", "☃", "and", "", "so", "on"]


def sentence(number: int, words: int = 9) -> str:
    return " ".join(WORDS[(number * 5 + i * i) % len(WORDS)] for i in range(1 + number % words))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "intermediate"
    bench_pipeline.write_rows(
        folder / bench_pipeline.BUILT,
        [bench_pipeline.Pair(str(i), sentence(i), sentence(i + 3), "neutral") for i in range(20)],
        40,
    )
    (folder / "qqp").mkdir()
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    lines = [f"{i}\t1\t2\t{sentence(i + 1)}\t{sentence(i)}\t{i % 2}\n" for i in range(20)]
    (folder / "qqp" / "train.tsv").write_text(header + "".join(lines), encoding="utf-8")
    for name, version in (("squad_v1", "v1.1"), ("squad_v2", "v2.0")):
        (folder / name).mkdir()
        paragraphs = [{"context": f"x {sentence(i, 40)} " + "the cat " * 30 * i, "qas": [
            {"id": f"{i}.{j}", "question": sentence(i + j), "answers": [{"text": "x", "answer_start": 0}]}
            for j in range(3)]} for i in range(9)]  # fmt: skip
        whole = json.dumps({"data": [{"paragraphs": paragraphs}]})
        (folder / name / f"train-{version}.json").write_text(whole, encoding="utf-8")
    XLMR.save(tmp_path / "model")
    return folder


def test_the_command_measures_every_case(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "found.jsonl"
    words = ["bench", "pipeline", "--model", data.parent / "model", "--intermediate", data, "--rows", 50,
             "--rounds", 1, "--out", out]  # fmt: skip
    assert cli.main(list(map(str, words))) == 0
    found = {line["case"]: line for line in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    assert list(found) == ["pairs mnli", "pairs qqp", "windows squad_v1", "windows squad_v2", "plan 10000",
                           "plan 100000", "plan 1000000", "build 50"]  # fmt: skip
    assert found["windows squad_v1"]["windows"] > found["windows squad_v1"]["rows"] == 27
    assert found["windows squad_v1"]["contexts"] == 9
    assert found["plan 10000"]["slowest_rank"]["max"] <= 1.02
    assert found["build 50"]["rows"] == found["build 50"]["load"]["items"] == 50
    assert all(line["machine"]["git_commit"] and line["time"] for line in found.values())
    assert len(capsys.readouterr().out.splitlines()) == len(found)


@pytest.mark.parametrize("spoil", ["ids", "characters", "count"])
def test_windows_that_differ_are_not_timed(spoil: str) -> None:
    records = [Span(str(i), sentence(i), f"x {sentence(i, 40)}", (Answer("x", 0),)) for i in range(6)]
    setting = bench_pipeline.SPAN_SETTING
    theirs = pieces.xlmr_tokenizer()(
        [r.question for r in records], [r.context for r in records], truncation="only_second",
        max_length=setting.max_seq_length, stride=setting.doc_stride, return_overflowing_tokens=True,
        return_offsets_mapping=True, padding="max_length",
    )  # fmt: skip
    rows = encode_span(records, XLMR, (), setting)
    bench_pipeline.check_windows(rows, theirs, records)
    assert rows.place is not None
    if spoil == "count":
        rows = rows.take(5)
    elif spoil == "ids":
        rows.input_ids[7] += 1
    else:
        rows.place[rows.starts[1] - 2, 1] += 1
    with pytest.raises(UserError, match="the gate before timing failed"):
        bench_pipeline.check_windows(rows, theirs, records)


@pytest.mark.parametrize(("words", "shown"), [(["-h"], "stilts bench kernels"), (["kernels", "-h"], "--tune")])
def test_help_is_of_what_was_named(words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", *words])
    assert stopped.value.code == 0 and shown in capsys.readouterr().out


def test_options_of_bench_reach_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["bench", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "error: " in capsys.readouterr().err
