"""The tool that compares two runs to the byte: it finds every kind of difference, and the plans are those of before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
import same_results

TOOL = ranks.ROOT / "tests" / "tools" / "same_results.py"
GOLDEN_PLANS = ranks.ROOT / "tests" / "golden" / "plans.json"
TRAINED, RETRIEVAL = "target-xnli-0123", "retrieval-none-4567"
ROWS = "89abcdef"
MAKERS = {"git_commit": "old", "versions": {"python": "3.11"}, "platform": "here"}
OTHER_MAKERS = {"git_commit": "new", "versions": {"python": "3.12"}, "platform": "there"}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_tensors(path: Path, values: bytes) -> None:
    """A safetensors file with one bfloat16 tensor `w`."""
    header = json.dumps({"w": {"dtype": "BF16", "shape": [len(values) // 2], "data_offsets": [0, len(values)]}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + values)


def make_run(run: Path, makers: dict[str, Any] = MAKERS, seconds: float = 1.5) -> Path:
    """A finished run of one trained and one retrieval phase, with the files that stilts writes and little in them."""
    phases = [
        {"id": RETRIEVAL, "kind": "retrieval", "train": [], "evaluate": ["tatoeba"], "seed": 0, "training": {}},
        {"id": TRAINED, "kind": "target", "train": ["xnli"], "evaluate": [], "seed": 1, "training": {"rate": 0.1}},
    ]
    write(run / "plan.json", {"name": "made up", "phases": phases, "provenance": {**makers, "model_hash": "ff"}})
    for phase in phases:
        folder = run / "phases" / str(phase["id"])
        write(folder / "phase.json", {**phase, "provenance": makers})
        status = {"seconds": seconds, "state": "done", "trained": True, "token": makers["git_commit"]}
        write(folder / "status.json", status)
        write(folder / "predictions" / "xnli" / "test-en.tsv", "entailment\n")
        write(folder / "predictions" / "xnli" / ".test-en.tsv.inputs.json", {"split": "test"})
        write(folder / "results" / "xnli.json", {"main": {"en": 50.0}, "provenance": makers})
    trained = run / "phases" / TRAINED
    steps = [{"step": step, "train/learning_rate": 0.1, "train/loss": 1 / step, "time/data_share": seconds}
             for step in (1, 2)]  # fmt: skip
    steps.append({"step": 2, "eval/xnli/en/accuracy": 50.0})
    write(trained / "metrics.jsonl", "".join(json.dumps(step) + "\n" for step in steps))
    write(trained / "heads.json", {"heads": [{"name": "nli"}], "files": {"heads.safetensors": "aa"}, "seal": "bb"})
    write(trained / "README.md", f"# A model\n\nCode: commit `{makers['git_commit']}`.\n")
    write(trained / "encoder" / "config.json", {"hidden_size": 8, "transformers_version": makers["git_commit"]})
    write(trained / "encoder" / "stilts.json", {"init": makers["platform"], "step": 2, "provenance": makers})
    write(trained / "encoder" / "tokenizer.json", "{}")
    write_tensors(trained / "encoder" / "model.safetensors", b"\0\1\2\3")
    write_tensors(trained / "heads.safetensors", b"\4\5")
    write(run / "cache" / ROWS / "manifest.json", {"key": {"task": "xnli", "split": "train", "language": "en"}})
    write(run / "cache" / ROWS / "input_ids.npy", "numbers")
    write(run / "cache" / "tokenizer-0.json", {"special": [0, 1]})
    write(run / "labels" / "xnli" / "test-en.tsv", "neutral\n")
    write(run / "results.json", {"rows": {"none": 50.0}})
    write(run / "report.csv", "table,score\nmatrix,50.0\n")
    return run


def compare(left: Path, right: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit status and lines of the comparison, but for those about kinds that are equal."""
    status = same_results.main(["compare", str(left), str(right)])
    told = capsys.readouterr()
    return status, [line for line in (told.out + told.err).splitlines() if not line.endswith("compared, equal")]


def changed(path: str, before: str, after: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        text = (run / path).read_text()
        assert before in text
        (run / path).write_text(text.replace(before, after, 1))

    return change


PHASE = f"phases/{TRAINED}"
CHANGES = {
    "plan: phases/target-xnli-0123/training/rate: 0.1 | 0.2":
        changed("plan.json", '"rate": 0.1', '"rate": 0.2'),
    "phase files: target-xnli-0123/seed: 1 | 2":
        changed(f"{PHASE}/phase.json", '"seed": 1', '"seed": 2'),
    "statuses: target-xnli-0123/trained: true | 1":
        changed(f"{PHASE}/status.json", '"trained": true', '"trained": 1'),
    "cache: rows/xnli train en 89abcdef/arrays/input_ids.npy: ":
        changed(f"cache/{ROWS}/input_ids.npy", "numbers", "others!"),
    "curves: target-xnli-0123/train/loss/2: 0.5 | 0.5000001":
        changed(f"{PHASE}/metrics.jsonl", '"train/loss": 0.5', '"train/loss": 0.5000001'),
    "weights: target-xnli-0123/heads.safetensors/w/2: ":
        lambda run: write_tensors(run / PHASE / "heads.safetensors", b"\4\6"),
    "models: target-xnli-0123/config/hidden_size: 8 | 9":
        changed(f"{PHASE}/encoder/config.json", '"hidden_size": 8', '"hidden_size": 9'),
    'model cards: target-xnli-0123/0: "# A model" | "# The model"':
        changed(f"{PHASE}/README.md", "# A model", "# The model"),
    "predictions: target-xnli-0123/xnli/test-en.tsv: ":
        changed(f"{PHASE}/predictions/xnli/test-en.tsv", "entailment", "neutral"),
    "stamps: target-xnli-0123/xnli/.test-en.tsv.inputs.json: ":
        changed(f"{PHASE}/predictions/xnli/.test-en.tsv.inputs.json", "test", "dev"),
    "labels: xnli/test-en.tsv: ":
        changed("labels/xnli/test-en.tsv", "neutral", "entailment"),
    "results: target-xnli-0123/xnli.json/main/en: 50.0 | 50":
        changed(f"{PHASE}/results/xnli.json", "50.0", "50"),
    'report: report.csv/1: "matrix,50.0" | "matrix,50.1"':
        changed("report.csv", "50.0", "50.1"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "change"), CHANGES.items(), ids=[line.split(":")[0] for line in CHANGES])
def test_every_kind_of_difference_is_found_and_named(
    line: str, change: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = make_run(tmp_path / "left"), make_run(tmp_path / "right")
    change(right)
    status, lines = compare(left, right, capsys)
    kind, _, first = line.partition(": ")
    assert status == 1 and len(lines) == 1, lines
    assert lines[0].startswith(f"{kind}: ") and f" compared, 1 differ, first {first}" in lines[0]


def test_the_changes_above_are_of_every_kind(tmp_path: Path) -> None:
    assert [line.split(":")[0] for line in CHANGES] == list(same_results.record_run(make_run(tmp_path))["kinds"])


def test_two_runs_by_other_code_at_another_time_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = make_run(tmp_path / "left"), make_run(tmp_path / "right", OTHER_MAKERS, seconds=99.0)
    assert compare(left, right, capsys) == (0, [])
    record = tmp_path / "left.json"
    assert same_results.main(["record", str(left), str(record)]) == 0
    assert "curves 5, weights 6" in capsys.readouterr().out
    assert compare(record, right, capsys) == (0, [])
    assert str(tmp_path) not in record.read_text()


def test_what_is_there_on_one_side_only_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = make_run(tmp_path / "left"), make_run(tmp_path / "right")
    (right / "cache" / ROWS).rename(right / "cache" / "fedcba98")
    (right / PHASE / "results" / "xnli.json").unlink()
    status, lines = compare(left, right, capsys)
    assert status == 1
    assert lines[0].startswith("cache: 6 compared, 2 differ, first rows/xnli train en 89abcdef: {")
    assert lines[0].endswith("| absent")
    assert lines[1:] == ['results: 1 compared, 1 differ, first target-xnli-0123/xnli.json: {"main": {"en": 50.0}, '
                         '"provenance": {}} | absent']  # fmt: skip


def test_another_order_of_keys_is_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = make_run(tmp_path / "left"), make_run(tmp_path / "right")
    write(right / "results.json", {"more": 1, "rows": {"none": 50.0}})
    write(left / "results.json", {"rows": {"none": 50.0}, "more": 1})
    line = "report: 5 compared, 1 differ, first results.json (order of keys): rows | more"
    assert compare(left, right, capsys) == (1, [line])


def test_a_file_in_another_form_is_not_compared_by_its_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = make_run(tmp_path / "left"), make_run(tmp_path / "right")
    (right / "results.json").write_text('{"rows": {"none": 50.0}}')
    status, [line] = compare(left, right, capsys)
    assert status == 2 and f"{right / 'results.json'} is not in the form" in line


def test_a_comparison_of_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = make_run(tmp_path / "left"), make_run(tmp_path / "right")
    for run in (left, right):
        shutil.rmtree(run / "cache")
    assert compare(left, right, capsys) == (1, ["cache: nothing was compared"])
    write(tmp_path / "empty.json", {"of": "run", "kinds": {}})
    status, [line] = compare(tmp_path / "empty.json", tmp_path / "empty.json", capsys)
    assert status == 1 and line == "nothing was compared: the first record is empty"
    write(tmp_path / "other.json", [])
    status, [line] = compare(tmp_path / "other.json", left, capsys)
    assert status == 2 and line.endswith("other.json is no record; `record` and `plans` write one")


def test_a_run_that_is_not_finished_is_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    changed(f"{PHASE}/status.json", '"done"', '"stopped:SIGTERM"')(run)
    status, [line] = compare(run, run, capsys)
    assert status == 2 and f"{TRAINED} is stopped:SIGTERM; record a run when all its phases are done" in line


@pytest.mark.processes
def test_the_shipped_recipes_are_planned_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every phase id and every phase's text, 600 of them, as they were recorded.

    A change that is meant to plan otherwise records anew: `same_results.py plans`, and says so in CHANGELOG.md.
    """
    now = tmp_path / "plans.json"
    done = subprocess.run([sys.executable, str(TOOL), "plans", str(now)], env=ranks.environment(), cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert compare(GOLDEN_PLANS, now, capsys) == (0, [])
    record = json.loads(now.read_text())
    assert list(record["kinds"]) == list(same_results.RECIPES) and len(record["kinds"]["xstilts"]["phases"]) == 523
    record["kinds"]["xstilts"]["settings"]["target pawsx"]["training"]["learning_rate"] = 1e-3
    write(now, record)
    line = "first settings/target pawsx/training/learning_rate: 3e-06 | 0.001"
    status, [told] = compare(GOLDEN_PLANS, now, capsys)
    assert status == 1 and told.startswith("xstilts: ") and told.endswith(line)


@pytest.mark.processes
def test_the_program_tells_its_use() -> None:
    told = subprocess.run([sys.executable, str(TOOL), "--help"], capture_output=True, text=True, check=True).stdout
    assert all(verb in told for verb in ("record RUN_DIR OUT.json", "plans OUT.json", "compare A B"))
