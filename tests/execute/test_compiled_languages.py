"""Languages that are compiled: a verdict of each, the compiler that stays warm, and what all workers share."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import hostile
import pytest
from sandboxes import needs_sandbox, skip_without

from stilts_ds.errors import UserError
from stilts_ds.execute import Program, Settings, execute, languages
from stilts_ds.execute.commands import rust
from stilts_ds.execute.compile_server import CompileServer, _unpack
from stilts_ds.execute.executor import start_slot
from stilts_ds.execute.languages import CPP, CSHARP, GO, JAVA, LANGUAGES, PATH
from stilts_ds.execute.pool import shared_cache
from stilts_ds.execute.programs import check_program
from stilts_ds.execute.worker import Worker, WorkerLost, processes_of

pytestmark = [needs_sandbox, pytest.mark.processes]
ALONE = Settings(allow=True, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["go", "java", "kotlin", "scala", "cpp", "csharp", "rust"])
def test_compiled_languages_are_judged_in_one_process_and_say_so(language: str) -> None:
    skip_without(language)
    honest, exits = hostile.HONEST[language], hostile.ATTACKS[language]["exits"]
    texts = [honest, honest.replace("a + b", "a * b"), exits, honest.replace("a + b", "a + ;"), honest]
    programs = [Program(str(n), text, hostile.TESTS[language], language, "add") for n, text in enumerate(texts)]
    seen = execute(programs, ALONE)
    assert [verdict.passed for verdict in seen] == [True, False, False, False, True]
    assert seen[3].verdict == "compile-error" and "#" not in seen[3].reason
    assert all(verdict.weak for verdict in seen)


def assert_confined(worker: Worker) -> None:
    """As root its processes can be told by their user id: the compiler has no capability, and the filter."""
    if worker.uid is None:
        return
    compilers = []
    for process in processes_of(worker.uid):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        if status["Name"] == "java":
            compilers.append({name: status[name] for name in ("Seccomp", "NoNewPrivs", "CapEff", "CapBnd")})
    assert compilers == [{"Seccomp": "2", "NoNewPrivs": "1", "CapEff": "0" * 16, "CapBnd": "0" * 16}]


def test_a_compile_server_that_is_lost_is_started_anew_and_no_program_is_blamed() -> None:
    skip_without("java")
    server = CompileServer(JAVA, (), PATH)
    try:
        first = server.compile({"A.java": "class A { static int three() { return 3; } }"})
        assert list(first.classes) == ["A.class"] and first.classes["A.class"][:4] == bytes.fromhex("cafebabe")
        # Nothing of one program is there for the next.
        assert "cannot find symbol" in server.compile({"B.java": "class B { int x = A.three(); }"}).problem
        assert server.worker is not None
        assert_confined(server.worker)
        os.kill(server.worker.process.pid, signal.SIGKILL)
        again = server.compile({"inner/C.java": "class C { class D {} }"})
        assert sorted(again.classes) == ["C$D.class", "C.class"] and not again.problem
    finally:
        server.close()


def test_a_compiler_that_takes_too_long_is_a_timeout_that_is_tried_once_more_alone() -> None:
    skip_without("java")
    impatient = replace(JAVA, compile_seconds=-1000)  # the limit is over before the compiler has started
    server = CompileServer(impatient, (), PATH)
    compiled = server.compile({"A.java": "class A {}"})
    assert compiled.lost and not compiled.classes and "does not" in compiled.problem and server.worker is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LANGUAGES, "java", impatient)
        [verdict] = execute([Program("p", hostile.HONEST["java"], hostile.TESTS["java"], "java", "add")], ALONE)
    assert (verdict.verdict, verdict.alone) == ("timeout", True) and "the compiler" in verdict.reason


def test_an_answer_of_a_compile_server_that_is_cut_off_is_a_lost_server() -> None:
    whole = bytes(4) + b"\0\0\0\1A" + b"\0\0\0\3abc"
    assert _unpack(whole).classes == {"A": b"abc"}
    for cut in (whole[:-1], whole[:9], b""):
        with pytest.raises(WorkerLost, match="no answer that can be read"):
            _unpack(cut)


def test_what_is_compiled_once_is_shared_and_no_worker_may_write_to_it() -> None:
    skip_without("go")
    head = 'package main\nimport "os"\nfunc add(a int, b int) int {\n'
    programs = {
        "write": 'if os.WriteFile("/cache/x", nil, 0600) == nil { return 0 }',
        "read": 'entries, _ := os.ReadDir("/cache/go"); if len(entries) == 0 { return 0 }',
    }
    rows = [
        Program(name, f"{head}{text}\nreturn a + b\n}}\n", hostile.TESTS["go"], "go", "add")
        for name, text in programs.items()
    ]
    assert [verdict.verdict for verdict in execute(rows, Settings(allow=True, workers=2))] == ["passed", "passed"]


def test_the_shared_folder_goes_when_the_workers_go() -> None:
    skip_without("go")
    with shared_cache(GO, ALONE) as folder:
        assert folder is not None and os.listdir(f"{folder}/go")
        start_slot(GO, ALONE, folder).close()
    assert not os.path.exists(folder)
    with shared_cache(JAVA, ALONE) as nothing:
        assert nothing is None


def test_values_of_c_sharp_are_equal_by_type_and_content() -> None:
    """The class that stands in for the library that MBXP's tests name."""
    skip_without("csharp")
    same = [
        ("new List<int> {1, 2}", "new List<int> {1, 2}", True),
        ("new List<int> {2, 1}", "new List<int> {1, 2}", False),
        ("new List<object> {1, 2.0}", "new List<object> {1, 2}", False),
        ("new HashSet<List<int>> {new List<int> {2}, new List<int> {1}}",
         "new HashSet<List<int>> {new List<int> {1}, new List<int> {2}}", True),
        ("new Dictionary<string, int> {{\"b\", 2}, {\"a\", 1}}",
         "new Dictionary<string, int> {{\"a\", 1}, {\"b\", 2}}", True),
        ("new Dictionary<string, int> {{\"a\", 1}}", "new Dictionary<string, int> {{\"a\", 2}}", False),
        ("(object)null", "(object)0", False),
    ]  # fmt: skip
    checks = "".join(f"if (compare.Compare({ours}, {theirs}).AreEqual != {str(equal).lower()}) throw new Exception("
                     f'"{number}");\n' for number, (ours, theirs, equal) in enumerate(same))  # fmt: skip
    program = "using System; using System.Collections.Generic; using KellermanSoftware.CompareNetObjects;\n"
    tests = "namespace Solution { public class Program { public static void Main(string[] words) {\n"
    tests += f"var compare = new CompareLogic();\n{checks}}} }} }}\n"
    [verdict] = execute([Program("same", program, tests, "csharp", "Add")], ALONE)
    assert (verdict.verdict, verdict.reason) == ("passed", "")


def test_every_function_that_rusts_tests_mark_is_called() -> None:
    tests = "#[cfg(test)]\nmod tests {\n#[test]\n    fn one() {}\n#[test] // why\n    /* and\n how */ fn two() {}\n}"
    [main] = rust("", tests, "7").get("files", {}).values()
    assert "tests::one();\n    tests::two();\n" in main and main.count("pub fn ") == 2
    assert "#[" not in main
    with pytest.raises(UserError, match="x:1: the tests mark no function with #.test., so that none would run"):
        check_program(Program("p", "fn add() {}", "mod tests {}", "rust", "add"), "x:1")


def test_every_language_is_a_constant_with_what_it_needs() -> None:
    assert list(LANGUAGES) == [
        "python", "javascript", "typescript", "php", "ruby", "perl", "go", "java", "kotlin", "scala", "cpp", "csharp",
        "rust",
    ]  # fmt: skip
    for language in LANGUAGES.values():
        assert language.name == "python" or (language.tools and language.version and language.together)
        assert not language.driver or language.interpreter
    assert CPP.warm is not None and CSHARP.warm is None


def test_a_compiler_that_does_not_name_its_version_loses_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "VERSION_SECONDS", 0.2)
    monkeypatch.setitem(LANGUAGES, "perl", replace(LANGUAGES["perl"], version=("sleep", "60")))
    languages.toolchain.cache_clear()
    assert languages.toolchain("perl") == "sleep, which did not name its version within 0.2 s"
    languages.toolchain.cache_clear()
