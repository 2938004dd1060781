"""Code that is understood: readers, rankers of programs and their floors, search, documentation, running text."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
from family_contract import Contract, Sample, over_outputs, over_pool

from stilts_ds.config import EvaluationPart
from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import read_values, score_values
from stilts_ds.families.pair.attempts import FILE, METRICS, Attempt, Judged, Judgement
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.registry import family_of
from stilts_ds.sources.hub import RowContext
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import TASKS, get_task

CODE = ranks.SHARED / "data" / "code"
real = pytest.mark.skipif(not CODE.is_dir(), reason=f"no real data in {CODE}")
COSQA = "codexglue/Text-Code/NL-code-search-WebQuery/CoSQA"
DEFECT = "codexglue/Code-Code/Defect-detection/dataset"
CLONE = "codexglue/Code-Code/Clone-detection-BigCloneBench/dataset"


def read(folder: Path, name: str, split: str, language: str = "en") -> list[Any]:
    return list(read_examples(get_task(name), split, language, DataSource(code=folder)))


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def lines(*rows: Any) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


# --- CodeXGLUE's classification --------------------------------------------------------------------------------------


@real
def test_the_real_rows_of_cosqa() -> None:
    records = read(CODE, "cosqa", "dev")
    assert len(records) == 604 and Counter(record.label for record in records) == {"1": 313, "0": 291}
    assert (records[0].id, records[0].text_a) == ("cosqa-dev-0", "python check relation is symmetric")
    assert records[0].text_b.startswith("def is_edge_consistent(graph, u, v):\n")


@real
def test_devigns_rows_have_one_text(tmp_path: Path) -> None:
    (tmp_path / DEFECT).mkdir(parents=True)
    for split in ("train", "valid", "test"):
        shutil.copy(CODE / "codexglue" / "defect_fixture" / f"{split}.jsonl", tmp_path / DEFECT)
    records = read(tmp_path, "defect", "train")
    assert {record.text_b for record in records} == {""} and {record.label for record in records} <= {"0", "1"}
    assert records[0].text_a.startswith("static av_cold int vdadec_init(AVCodecContext *avctx)")
    assert len(records) == sum(1 for _ in (tmp_path / DEFECT / "train.jsonl").open())


def test_a_row_of_a_json_list_is_named_by_the_line_it_begins_on(tmp_path: Path) -> None:
    rows: list[Any] = [{"idx": f"q{i}", "doc": "sort a list", "code": "sorted(x)\n", "label": 1} for i in range(3)]
    rows[2]["label"] = 2
    text = json.dumps(rows, indent=1)
    path = write(tmp_path / COSQA / "cosqa-dev.json", text)
    line = text[: text.index('"q2"')].count("\n")  # the object's brace stands on the line before its id
    with pytest.raises(UserError, match=rf"{path.name}:{line}: unknown label '2'"):
        read(tmp_path, "cosqa", "dev")
    del rows[2]["label"]
    write(path, json.dumps(rows, indent=1))
    with pytest.raises(UserError, match=rf"cosqa-dev.json:{line}: there is no field `label`"):
        read(tmp_path, "cosqa", "dev")
    write(path, json.dumps([*rows[:2], "row"]))
    with pytest.raises(UserError, match=r"cosqa-dev.json:1: is no JSON object"):
        read(tmp_path, "cosqa", "dev")
    write(path, json.dumps({"rows": rows[:2]}))
    with pytest.raises(UserError, match="is no JSON list"):
        read(tmp_path, "cosqa", "dev")


def test_a_packed_file_is_read_and_a_damaged_one_named(tmp_path: Path) -> None:
    row = {"idx": "q0", "doc": "sort a list", "code": "sorted(x)", "label": "0"}
    path = write(tmp_path / COSQA / "cosqa-dev.json.gz", "")
    packed = gzip.compress(json.dumps([row]).encode())
    path.write_bytes(packed)
    assert [record.label for record in read(tmp_path, "cosqa", "dev")] == ["0"]
    for damaged in (packed[:-6], b"no gzip at all", packed[:12] + b"\0\0\0" + packed[15:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cosqa-dev.json.gz: the compressed file is damaged .*download the file"):
            read(tmp_path, "cosqa", "dev")


def clones(folder: Path, *rows: str) -> None:
    functions = [{"func": f"int f{i}() {{ return {i}; }}", "idx": str(100 + i)} for i in range(3)]
    write(folder / CLONE / "data.jsonl", lines(*functions))
    write(folder / CLONE / "valid.txt", "".join(f"{row}\n" for row in rows))


def test_clones_name_functions_of_another_file(tmp_path: Path) -> None:
    clones(tmp_path, "100\t101\t0", "102\t100\t1")
    first, second = read(tmp_path, "clone", "dev")
    assert (first.text_a, first.text_b, first.label) == ("int f0() { return 0; }", "int f1() { return 1; }", "0")
    assert (second.text_a, second.label) == ("int f2() { return 2; }", "1")
    # Functions are part of what is read: the split's hash follows them.
    before = find_origin(get_task("clone"), "dev", "en", DataSource(code=tmp_path)).hash
    write(tmp_path / CLONE / "data.jsonl", lines(*[{"func": "int g();", "idx": 100 + i} for i in range(3)]))
    assert find_origin(get_task("clone"), "dev", "en", DataSource(code=tmp_path)).hash != before


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("100\t7\t1", r"valid.txt:2: .*data.jsonl has no function '7'; use the files of one release"),
        ("100\t101", r"valid.txt:2: 2 columns, expected idx TAB idx TAB label"),
        ("100\t101\tyes", r"valid.txt:2: unknown label 'yes'"),
    ],
)
def test_a_bad_row_of_clones_is_named(tmp_path: Path, row: str, problem: str) -> None:
    clones(tmp_path, "100\t101\t0", row)
    with pytest.raises(UserError, match=problem):
        read(tmp_path, "clone", "dev")


def test_clones_without_their_functions_are_refused(tmp_path: Path) -> None:
    clones(tmp_path, "100\t101\t0")
    (tmp_path / CLONE / "data.jsonl").unlink()
    with pytest.raises(UserError, match=r"clone: there is no file .*data.jsonl; get it from https://github.com"):
        read(tmp_path, "clone", "dev")


def test_hub_rows_are_the_local_files_records() -> None:
    """Columns as the hub's cards have them: labels of the two CodeXGLUE copies are booleans."""
    rows = {
        "cosqa": {"idx": "q0", "doc": "a", "code": "b", "code_tokens": "b", "docstring_tokens": "", "label": 1},
        "defect": {"id": 3, "func": "a", "target": True, "project": "p", "commit_id": "c"},
        "clone": {"id": 4, "id1": 1, "id2": 2, "func1": "a", "func2": "b", "label": False},
    }
    wanted = {"cosqa": ("q0", "a", "b", "1"), "defect": ("3", "a", "", "1"), "clone": ("4", "a", "b", "0")}
    for name, row in rows.items():
        [hub] = TASKS[name].hub["dev"]
        context = RowContext(TASKS[name], "en", Counter(), {})
        [record] = family_of(TASKS[name]).converters[hub.schema]([row], "data", context)
        assert record == Pair(*wanted[name])
    bad = {"id": 3, "func": "a", "target": "maybe"}
    context = RowContext(TASKS["defect"], "en", Counter(), {})
    with pytest.raises(UserError, match=r"data\[0\]: label 'maybe' is none of 0 to 1"):
        list(family_of(TASKS["defect"]).converters["hub_devign"]([bad], "data", context))


def test_contested_labels_are_said() -> None:
    assert "contested" in TASKS["clone"].note


# --- does a program pass? --------------------------------------------------------------------------------------------


@real
def test_the_real_programs_of_mbxp_are_judged_by_their_execution() -> None:
    """Of 974 Python programs 801 pass; 374 of the problems train, 90 select and 500 are scored."""
    train, dev = read(CODE, "verify_mbpp", "train"), read(CODE, "verify_mbpp", "dev")
    test = read(CODE, "verify_mbxp", "test", "python")
    assert (len(train), len(dev), len(test)) == (374, 90, 500)
    numbers = [int(record.problem.removeprefix("MBPP/")) for record in test]
    assert min(numbers) == 11 and max(numbers) == 510
    assert len({record.problem for record in (*train, *dev, *test)}) == 964
    records = read(CODE, "verify_mbxp", "test", "typescript")
    assert len(records) == TASKS["verify_mbxp"].test_sizes["typescript"]
    assert {record.label for record in records} == {"passes", "fails"}
    # No verdicts of Java are there: its programs can be judged, and not scored.
    assert {record.label for record in read(CODE, "verify_mbxp", "test", "java")} == {None}


@real
def test_a_constant_answer_scores_its_floor_on_real_programs() -> None:
    gold = [family_of(TASKS["verify_mbxp"]).gold(r) for r in read(CODE, "verify_mbxp", "test", "php")]
    share = 100 * sum(judged.label == "passes" for judged in gold) / len(gold)
    scores = score_values(TASKS["verify_mbxp"], gold, [Judgement("passes", 0.3)] * len(gold), "php")
    assert scores["accuracy"] == scores["majority"] == pytest.approx(share)
    assert scores["f1"] == 0 and scores["auc"] == 50
    # One program a problem: there is nothing to pick from.
    assert scores["picked"] == scores["random_pick"] == pytest.approx(share)


def mbxp(folder: Path, samples: list[dict[str, Any]], verdicts: list[dict[str, Any]] | None) -> None:
    problems = [
        {
            "task_id": f"MBPP/{number}", "language": "python", "prompt": f"def f(x):\n  # {number}\n",
            "test": "def check(candidate):\n    assert candidate(1) == 1\n", "entry_point": "f",
            "description": f"Give {number}.", "canonical_solution": "  return x\n",
        }
        for number in (511, 512, 601)
    ]  # fmt: skip
    write(folder / "mbxp/mbpp_release_v1.jsonl", lines(*problems))
    write(folder / "mbxp/examples/mbpp_samples.jsonl", lines(*samples))
    if verdicts is not None:
        write(folder / "mbxp_verdicts/python.jsonl", lines(*verdicts))


def sample(number: int, completion: str = "  return x\n") -> dict[str, Any]:
    return {"task_id": f"MBPP/{number}", "completion": completion, "language": "python"}


def verdict(number: int, sample: int, verdict: str) -> dict[str, Any]:
    return {"id": f"MBPP/{number}", "sample": sample, "language": "python", "verdict": verdict}


def test_several_programs_of_a_problem_have_their_own_verdicts(tmp_path: Path) -> None:
    samples = [sample(511), sample(511, "  return 2\n"), sample(512), sample(601)]
    ours = [
        verdict(511, 0, "passed"),
        verdict(511, 1, "timeout"),
        verdict(512, 0, "withheld"),
        verdict(601, 0, "failed"),
    ]
    mbxp(tmp_path, samples, ours)
    task, tally = get_task("verify_mbpp"), Counter[str]()
    records = list(read_examples(task, "dev", "en", DataSource(code=tmp_path), tally))
    assert records == [
        Attempt("MBPP/511 0", "Give 511.", "def f(x):\n  # 511\n  return x\n", "passes", "MBPP/511"),
        Attempt("MBPP/511 1", "Give 511.", "def f(x):\n  # 511\n  return 2\n", "fails", "MBPP/511"),
    ]
    assert tally == {"programs that were not executed": 1}
    # Results in mxeval's form: the n-th row of a problem is of its n-th program.
    theirs = [{"task_id": row["task_id"], "passed": passed} for row, passed in zip(samples, (True, False, True, False))]
    mbxp(tmp_path, samples, theirs)
    assert [record.label for record in read(tmp_path, "verify_mbpp", "dev")] == ["passes", "fails", "passes"]
    assert [record.label for record in read(tmp_path, "verify_mbpp", "train")] == ["fails"]


@pytest.mark.parametrize(
    ("samples", "verdicts", "problem"),
    [
        ([sample(511), sample(512)], [verdict(511, 0, "passed")],
         r"python.jsonl: has no verdict on sample 0 of 'MBPP/512' in .*mbpp_samples.jsonl; execute that file again"),
        ([sample(511), sample(700)], [verdict(511, 0, "passed")], r"mbpp_samples.jsonl:2: no problem 'MBPP/700'"),
        ([{"task_id": "MBPP/511"}], [verdict(511, 0, "passed")], r"mbpp_samples.jsonl:1: has no 'completion'"),
        ([sample(511)], [verdict(511, 0, "right")], r"python.jsonl:1: unknown verdict 'right'"),
        ([sample(511)], [{"task_id": "MBPP/511", "passed": "yes"}], r"python.jsonl:1: 'passed' is neither true nor"),
        ([sample(511)], [{"passed": True}], r"python.jsonl:1: has no 'task_id'"),
        ([sample(511)], None, r"no file .*mbxp_verdicts/python.jsonl; get it from"),
    ],
)  # fmt: skip
def test_bad_programs_and_verdicts_are_named(
    tmp_path: Path, samples: list[dict[str, Any]], verdicts: list[dict[str, Any]] | None, problem: str
) -> None:
    mbxp(tmp_path, samples, verdicts)
    with pytest.raises(UserError, match=problem):
        read(tmp_path, "verify_mbpp", "dev")


GOLD = [Judged("passes", "a"), Judged("fails", "a"), Judged("fails", "b"), Judged("passes", "b"), Judged("fails", "c")]


def test_scores_of_rankers_by_hand() -> None:
    chances = (0.1, 0.6, 0.2, 0.3, 0.9)
    predicted = [Judgement("fails" if chance > 0.5 else "passes", chance) for chance in chances]
    scores = score_values(TASKS["verify_mbxp"], GOLD, predicted, "python")
    # Passing 0.1 is below all three failing ones, passing 0.3 below two of them: 5 of 6.
    assert scores["auc"] == pytest.approx(100 * 5 / 6)
    # Failing: two of three are called so, and nothing else is.
    assert scores["f1"] == pytest.approx(100 * 2 * 2 / (2 + 3))
    assert scores["accuracy"] == 80 and scores["majority"] == 60
    # Of a the first is picked, which passes; of b the first, which fails; c has none that passes.
    assert scores["picked"] == pytest.approx(100 / 3)
    assert scores["random_pick"] == pytest.approx(100 * (0.5 + 0.5 + 0) / 3)


def test_the_area_under_the_curve_is_that_of_all_pairs() -> None:
    generator = np.random.default_rng(3)
    labels = generator.choice(["passes", "fails"], 60)
    chances = generator.integers(0, 8, 60) / 7  # with ties
    gold = [Judged(str(label), str(i)) for i, label in enumerate(labels)]
    predicted = [Judgement("fails", float(chance)) for chance in chances]
    comparisons = [
        1.0 if chances[j] > chances[i] else 0.5 if chances[j] == chances[i] else 0.0
        for i in range(60) for j in range(60) if labels[i] == "passes" and labels[j] == "fails"
    ]  # fmt: skip
    units = METRICS["auc"].count(gold, predicted, "python")
    assert METRICS["auc"].score(units) == pytest.approx(100 * float(np.mean(comparisons)), abs=1e-10)


@pytest.mark.parametrize("label", ["passes", "fails"])
def test_where_all_programs_end_alike_nothing_is_told_apart(label: str) -> None:
    gold = [Judged(label, "a"), Judged(label, "b")]
    scores = score_values(TASKS["verify_mbxp"], gold, [Judgement(label, 0.1), Judgement(label, 0.9)], "python")
    assert scores["auc"] == 50 and scores["majority"] == scores["accuracy"] == 100


def test_judgements_come_back_from_their_files(tmp_path: Path) -> None:
    predicted = [Judgement("fails", math.nextafter(1.0, 0.0)), Judgement("passes", 1e-17)]
    FILE.write(tmp_path / "test-php.tsv", predicted)
    FILE.write_labels(tmp_path / "labels.tsv", GOLD[:2])
    task = TASKS["verify_mbxp"]
    assert read_values(tmp_path / "test-php.tsv", tmp_path / "labels.tsv", task) == (GOLD[:2], predicted)
    for line, problem in (
        ("passes", "has one column"), ("passes\t1.5", "'1.5' is no chance from 0 to 1"), ("passes\tnan", "no chance"),
        ("works\t0.5", "unknown label 'works'"),
    ):  # fmt: skip
        write(tmp_path / "bad.tsv", f"fails\t0.5\n{line}\n")
        with pytest.raises(UserError, match=rf"bad.tsv, line 2: .*{problem}"):
            FILE.read(tmp_path / "bad.tsv", task.labels)


def test_what_a_model_says_is_the_chance_of_its_logits() -> None:
    records = [Attempt("a 0", "do", "x", None, "a")] * 2
    outputs = [np.array([0.0, math.log(3)], np.float32), np.array([200.0, -200.0], np.float32)]
    decoded = family_of(TASKS["verify_mbxp"]).trained.decode(
        records, None, outputs, ("passes", "fails"), EvaluationPart()  # type: ignore[arg-type]
    )  # fmt: skip
    assert decoded[0].label == "fails" and decoded[0].fails == pytest.approx(0.75)
    assert decoded[1].label == "passes" and 0 <= decoded[1].fails < 1e-100


@pytest.mark.long
def test_judged_programs_and_search_keep_their_families_contracts(tmp_path: Path) -> None:
    problems = [
        {
            "task_id": f"MBPP/{number}", "language": "python", "prompt": f"def f(x):\n  # {number}\n",
            "test": "def check(candidate):\n    assert candidate(1) == 1\n", "entry_point": "f",
            "description": f"Give {number} for x.", "canonical_solution": "  return x\n",
            "text": f"Give {number} for x.", "code": f"def f(x):\r\n  return {number}", "test_list": ["assert f(1)"],
        }
        for number in range(511, 541)
    ]  # fmt: skip
    numbers = range(511, 541)
    mbxp(tmp_path, [sample(n) for n in numbers], [verdict(n, 0, ("passed", "failed")[n % 3 == 0]) for n in numbers])
    write(tmp_path / "mbxp/mbpp_release_v1.jsonl", lines(*problems))
    write(tmp_path / "mbpp/mbpp.jsonl", lines(*[{**row, "task_id": 511 + i} for i, row in enumerate(problems)]))
    source = DataSource(code=tmp_path)
    for name, reference in (("verify_mbpp", over_outputs), ("mbpp_search", over_pool)):
        Contract(Sample(TASKS[name], source, "dev", "en", reference), tmp_path / name, 24).check_all()
