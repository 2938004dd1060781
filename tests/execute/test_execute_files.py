"""The files of `stilts execute`: bad rows are named by line and remedy, verdicts come back as they were written."""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import stilts
from sandboxes import needs_sandbox
from stilts_launcher.execute_settings import add_settings, read_settings

from stilts_ds.errors import UserError
from stilts_ds.execute import ExecuteSettings, Program, Verdict, execute, read_programs, read_verdicts, write_verdicts
from stilts_ds.execute.passk import score_verdicts, scores_table

pytestmark = pytest.mark.processes

GOOD = {"id": "p/0", "program": "def f(x):\n    return x\n", "tests": "assert f(1) == 1\n", "entry": "f"}
BAD: dict[str, tuple[Any, str]] = {
    "no id": ({**GOOD, "id": None}, "has no 'id'; give the problem's name"),
    "empty id": ({**GOOD, "id": ""}, "has no 'id'"),
    "no program": ({key: GOOD[key] for key in ("id", "tests", "entry")}, "has no 'program'; add it"),
    "program of another type": ({**GOOD, "program": ["x"]}, "'program' is [\"x\"], and a text is needed"),
    "unknown language": ({**GOOD, "language": "pyton"}, "unknown language 'pyton'; did you mean python"),
    "unknown key": ({**GOOD, "test": "x"}, "unknown key 'test'; did you mean tests"),
    "null characters": ({**GOOD, "program": "x\0y"}, "holds a null character, so it is no source text"),
    "ten megabytes": (
        {**GOOD, "program": "#" * 10_000_000},
        "the program has 10,000,000 characters, more than 1,048,576",
    ),
    "tests that do not parse": ({**GOOD, "tests": "assert f(1 == "}, "the tests are no Python"),
    "no tests": ({**GOOD, "tests": " \n"}, "'tests' are empty, and every program would pass"),
    "no entry point": ({**GOOD, "entry": ""}, "'entry' is ''; name the function that the tests call"),
    "an entry point that is a word of Python": ({**GOOD, "entry": "if"}, "'entry' is 'if'; name the function"),
    "an entry point that is no name": ({**GOOD, "entry": "f()"}, "'entry' is 'f()'"),
    "a script without an entry point": ({**GOOD, "language": "js", "entry": ""}, "'entry' is ''; name the function"),
    "an entry point that is code": ({**GOOD, "language": "php", "entry": "f() {} function g"}, "'entry' is 'f() {}"),
    "tests that mark none": ({**GOOD, "language": "rust"}, "the tests mark no function with #[test]"),
    "Go tests that hold none": ({**GOOD, "language": "go"}, "the tests have no `func main()` and no `func Test"),
    "Go tests with more of testify": (
        {
            **GOOD,
            "language": "go",
            "tests": 'import "github.com/stretchr/testify/assert"\nfunc TestF(t *testing.T) { assert.True(t, f()) }',
        },
        "the tests call assert.True, and of github.com/stretchr/testify/assert only New and Equal are here",
    ),
    "Go tests for Go's runner": (
        {**GOOD, "language": "go", "tests": 'func TestF(t *testing.T) { t.Run("one", func(t *testing.T) {}) }'},
        "the tests call t.Run(), which needs Go's own runner of tests",
    ),
    "a sample that is no number": ({**GOOD, "sample": "two"}, "'sample' is \"two\"; number samples 0, 1, 2, ..."),
    "a list": ([1, 2], "not a JSON object; write one object a line"),
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_by_line_and_remedy_and_the_rest_is_kept_if_asked(kind: str, tmp_path: Path) -> None:
    row, message = BAD[kind]
    path = write(tmp_path / "programs.jsonl", GOOD, row, {**GOOD, "id": "p/1"})
    with pytest.raises(UserError) as refusal:
        read_programs(path)
    assert f"{path}:2: " in str(refusal.value) and message in str(refusal.value)
    assert "--skip-bad" in str(refusal.value)
    programs, faults = read_programs(path, skip_bad=True)
    assert [program.id for program in programs] == ["p/0", "p/1"] and len(faults) == 1


def test_the_same_sample_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "programs.jsonl", GOOD, {**GOOD, "sample": 1}, GOOD)
    with pytest.raises(UserError, match=r"programs.jsonl:3: id 'p/0', sample 0 stands in .*programs.jsonl:1 already"):
        read_programs(path)


def test_binary_files_broken_json_and_damaged_gzip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "programs.jsonl"
    path.write_bytes(b"\xff\xfe\x00binary\n")
    with pytest.raises(UserError, match=r"programs.jsonl:1: not UTF-8 text"):
        read_programs(path)
    path.write_text('{"id": 1,\n')
    with pytest.raises(UserError, match=r"programs.jsonl:1: not JSON"):
        read_programs(path)
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-9])
    with pytest.raises(UserError, match="the compressed file is damaged"):
        read_programs(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="no program to execute in it"):
        read_programs(path)


def test_a_gzipped_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "programs.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert read_programs(path) == ([Program(**GOOD)], [])


def test_verdicts_are_read_as_they_were_written_and_steer_no_terminal(tmp_path: Path) -> None:
    verdicts = [
        Verdict("p/0", 0, "python", "passed", seconds=0.5, limit=3.0),
        Verdict("p/0", 1, "python", "error", "\x1b]0;owned\x07 \u202e", weak=True),
    ]
    path = tmp_path / "verdicts.jsonl"
    write_verdicts(path, verdicts)
    assert read_verdicts(path) == verdicts
    assert path.read_bytes().isascii() and b"\x1b" not in path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["verdicts.jsonl"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"verdict": "pass"}, "unknown verdict 'pass'; did you mean passed"),
        ({"sample": "0"}, "'sample' is \"0\"; give a file that `stilts execute` wrote"),
        ({"sample": True}, "'sample' is true"),
        ({"weak": "no"}, "'weak' is \"no\""),
        ({"seconds": None}, "'seconds' is null"),
        ({"natural_language": 5}, "'natural_language' is 5"),
        ({"passed": True}, "unknown key 'passed'"),
    ],
)
def test_verdict_files_are_checked(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    whole = {"id": "p", "sample": 0, "language": "python", "verdict": "passed"}
    with pytest.raises(UserError, match=f"v.jsonl:1: {message}"):
        read_verdicts(write(tmp_path / "v.jsonl", {**whole, **row}))


def test_a_name_of_a_verdict_makes_no_row_of_the_table(tmp_path: Path) -> None:
    row = {"id": "p", "sample": 0, "language": "python", "verdict": "passed", "natural_language": "\x1b[2J\nb  1"}
    shown = scores_table(score_verdicts(read_verdicts(write(tmp_path / "v.jsonl", row))), {})
    assert len(shown.splitlines()) == 2 and "\\x1b[2J b 1" in shown


def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "programs.jsonl"
    path.write_text(json.dumps(GOOD) + "\n", encoding="utf-8-sig")
    assert [program.id for program in read_programs(path)[0]] == ["p/0"]


@pytest.mark.parametrize(
    ("output", "status", "message"),
    [
        ("../here/programs.jsonl", 2, "is the file that is read; give the verdicts another name"),
        (".", 2, "is a folder; name the file of verdicts in it"),
        ("/proc/here/v.jsonl", 1, "No such file or directory"),
    ],
)
def test_verdicts_have_a_place_before_anything_is_executed(
    output: str, status: int, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    path = write(folder / "programs.jsonl", GOOD)
    before = path.read_bytes()
    shown = stilts("execute", path, "-o", output, "--allow", cwd=folder, status=status)
    assert message in shown and "on 1 worker" not in shown
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers is 0: give 1 to 256"),
        ({"seconds": 0}, "seconds is 0: give 0.1 to 3600"),
        ({"readable": ("/nowhere/at/all",)}, "readable: /nowhere/at/all is no folder; give the whole path"),
        ({"readable": ("/tmp",)}, "readable: /tmp cannot be shown: the sandbox has a folder of its own there"),
        ({"readable": ("/",)}, "readable: / cannot be shown"),
        ({"judge": "kind"}, "judge is 'kind': give strict, benchmark, exit-status"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExecuteSettings(**settings)


def test_nothing_is_executed_without_consent(tmp_path: Path) -> None:
    for settings in (None, ExecuteSettings(), ExecuteSettings(workers=1)):
        with pytest.raises(UserError, match="run only where you allow it: --allow, `execute.allow: true` in a file"):
            execute([Program(**GOOD)], settings)
    path = write(tmp_path / "programs.jsonl", GOOD)
    refused = stilts("execute", path, "-o", "v.jsonl", cwd=tmp_path, status=2)
    assert "run only where you allow it" in refused
    (tmp_path / "no.yaml").write_text("execute:\n  workers: 1\n")
    refused = stilts("execute", path, "-o", "v.jsonl", "--settings", "no.yaml", cwd=tmp_path, status=2)
    assert "run only where you allow it" in refused
    assert not (tmp_path / "v.jsonl").exists()


def test_settings_come_from_a_file_and_options_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / "execute.yaml"
    more = "apart: false, rerun: false, readable: [/opt]"
    file.write_text(f"execute: {{allow: true, workers: 3, seconds: 2, judge: benchmark, {more}}}\n")
    parser = argparse.ArgumentParser()
    add_settings(parser)

    def read(*words: str) -> ExecuteSettings:
        return read_settings(parser.parse_args([*words]))

    assert read() == ExecuteSettings()
    assert read("--settings", str(file)) == ExecuteSettings(True, 3, 2.0, "benchmark", False, False, ("/opt",))
    chosen = read("--settings", str(file), "--workers", "1", "--judge", "strict", "--readable", "/srv")
    assert chosen == ExecuteSettings(True, 1, 2.0, "strict", False, False, ("/opt", "/srv"))
    assert read("--allow", "--one-process", "--seconds", "9") == ExecuteSettings(allow=True, seconds=9.0, apart=False)
    for text, message in (
        ("execute: {alow: true}", "execute.yaml: unknown key 'execute.alow'; did you mean allow"),
        ("execute: {workers: 0}", "execute.yaml: .*execute.workers"),
        ("allow: true", "execute.yaml: unknown key 'allow'"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read("--settings", str(file))


@needs_sandbox
def test_consent_in_a_file_is_consent(tmp_path: Path) -> None:
    path = write(tmp_path / "programs.jsonl", GOOD)
    (tmp_path / "execute.yaml").write_text("execute:\n  allow: true\n  workers: 1\n")
    stilts("execute", path, "-o", "v.jsonl", "--settings", "execute.yaml", cwd=tmp_path)
    assert [verdict.passed for verdict in read_verdicts(tmp_path / "v.jsonl")] == [True]
    assert json.loads((tmp_path / "v.summary.json").read_text())["settings"]["workers"] == 1


def test_an_exit_status_is_no_verdict_on_python() -> None:
    with pytest.raises(UserError, match="use strict or benchmark for Python"):
        execute([Program(**GOOD)], ExecuteSettings(allow=True, judge="exit-status"))


@needs_sandbox
def test_the_command_writes_verdicts_a_summary_and_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "programs.jsonl", GOOD, {**GOOD, "sample": 1, "program": "def f(x): return 2"}, [1])
    refused = stilts("execute", "--allow", path, "-o", "v.jsonl", cwd=tmp_path, status=2)
    assert "programs.jsonl:3: not a JSON object" in refused and not (tmp_path / "v.jsonl").exists()
    shown = stilts("execute", "--allow", path, "-o", "v.jsonl", "--skip-bad", cwd=tmp_path)
    assert "left out: " in shown and "judge: strict" in shown and "50.00" in shown
    summary = json.loads((tmp_path / "v.summary.json").read_text())
    assert summary["toolchains"]["python"].startswith("Python 3.")
    assert summary["scores"][0]["values"] == {"pass@1": 0.5, "pass@10": None, "pass@100": None}
    scored = stilts("score", "--verdicts", "v.jsonl", "v.jsonl", cwd=tmp_path)
    assert "pass@1 less that of v.jsonl: +0.00 (+0.00 to +0.00, bootstrap over 1 problem)" in scored


def test_options_that_need_each_other_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "programs.jsonl", GOOD)
    shown = stilts("execute", "--allow", path, "-o", "v.jsonl", "--benchmark", "humaneval", cwd=tmp_path, status=2)
    assert "--benchmark and --problems go together" in shown
    shown = stilts("execute", "--allow", path, "-o", "v.jsonl", "--floors", cwd=tmp_path, status=2)
    assert "--canonical, --floors and --split need --benchmark" in shown
