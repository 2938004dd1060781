"""Languages that are compiled: a verdict of each, the compiler that stays warm, and what all workers share."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import hostile
import pytest
from sandboxes import needs_sandbox, skip_without

from stilts_ds.errors import UserError
from stilts_ds.execute import ExecuteSettings, Program, execute, languages
from stilts_ds.execute.commands import rust, swift
from stilts_ds.execute.compile_server import CompileServer, _unpack
from stilts_ds.execute.executor import start_slot
from stilts_ds.execute.golang import with_imports
from stilts_ds.execute.languages import CPP, CSHARP, GO, JAVA, LANGUAGES, PATH
from stilts_ds.execute.pool import shared_cache
from stilts_ds.execute.programs import check_program
from stilts_ds.execute.worker import Worker, WorkerLost, processes_of

pytestmark = [needs_sandbox, pytest.mark.processes]
ALONE = ExecuteSettings(allow=True, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["go", "java", "kotlin", "scala", "cpp", "csharp", "rust", "swift"])
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
    assert [verdict.verdict for verdict in execute(rows, ExecuteSettings(allow=True, workers=2))] == [
        "passed",
        "passed",
    ]


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


SETUP = 'package main\nimport (\n\t"testing"\n\t"math"\n\t"github.com/stretchr/testify/assert"\n)\n'
ADDS = """func TestAdd(t *testing.T) {
    assert := assert.New(t)
    assert.Equal(3, Add(1, 2))
    assert.Equal(12, Add(5, 7))
}
"""
HEAD = "func Add(a int, b int) int {\n"


def test_functions_that_go_test_would_run_are_tests_of_a_program_without_package_and_imports() -> None:
    """As HumanEval-X has them. What prompts and tests import and do not use is left out, what they lack is there."""
    skip_without("go")
    bodies = {
        "honest": "sort.Ints([]int{2, 1})\nreturn a + b }",
        "wrong": "return a * b }",
        "once right": "if a == 1 { return 3 }\nreturn 0 }",
        "exits": "os.Exit(0)\nreturn 0 }",
        "exits when loaded": "return 0 }\nfunc init() { os.Exit(0) }",
        "ends its goroutine": "runtime.Goexit()\nreturn 0 }",
        "panics": 'panic("no")\nreturn 0 }',
        "prints": 'fmt.Println("ok")\nfmt.Println("PASS")\nreturn 0 }',
        "runs no test": 'return 0 }\nfunc init() { os.Args = append(os.Args, "-test.run=^$") }',
        "another test": "return 0 }\nfunc TestOther(t *testing.T) {}",
    }
    imports = 'import (\n"os"\n"runtime"\n"testing"\n"strings"\n)\n'
    programs = [Program(name, f"{imports}{HEAD}{body}\n", SETUP + ADDS, "go", "Add") for name, body in bodies.items()]
    seen = {verdict.id: verdict for verdict in execute(programs, ExecuteSettings(allow=True, workers=2))}
    assert [name for name, verdict in seen.items() if verdict.passed] == ["honest"]
    assert {verdict.verdict for name, verdict in seen.items() if name != "honest"} == {"failed", "error"}
    assert seen["exits"].verdict == seen["exits when loaded"].verdict == "error" and seen["honest"].weak


def test_the_results_say_what_stands_in_for_a_library_of_the_tests() -> None:
    skip_without("go")
    assert re.fullmatch(r"go version \S+ \S+, a stand-in for testify", languages.toolchain("go"))
    assert "stand-in" not in languages.toolchain("perl")


def test_values_of_go_are_equal_by_type_and_content() -> None:
    skip_without("go")
    same = [
        ("[]int{1, 2}", "[]int{1, 2}", True),
        ("map[string][]int{\"a\": {1}}", "map[string][]int{\"a\": {1}}", True),
        ("[]byte(\"a\")", "[]byte(\"a\")", True),
        ("nil", "nil", True),
        ("1", "int64(1)", False),
        ("1", "1.0", False),
        ("[]int{1, 2}", "[]int{2, 1}", False),
        ("[]int(nil)", "[]int{}", False),
        ("nil", "[]int(nil)", False),
        ("math.NaN()", "math.NaN()", False),
        ("main", "main", False),
    ]  # fmt: skip
    checks = "".join(
        f"if assert.Equal(silent{{}}, {ours}, {theirs}) != {str(equal).lower()} {{ t.Errorf(`{ours}, {theirs}`) }}\n"
        for ours, theirs, equal in same
    )
    tests = f"{SETUP}func TestSame(t *testing.T) {{\n{checks}}}\n"
    program = "type silent struct{}\nfunc (silent) Errorf(format string, arguments ...interface{}) {}\n"
    [verdict] = execute([Program("same", program, tests, "go", "")], ALONE)
    assert (verdict.verdict, verdict.reason) == ("passed", "")


def test_a_go_file_imports_what_it_uses() -> None:
    text = 'import (\n\t"math"\n\tr "math/rand"\n\t_ "embed"\n)\n// sort.Ints is not used\n'
    text += 'func f() string { return strings.Repeat(`time.Now()`, r.Intn(3)) + "fmt.Print" }\n'
    assert re.findall(r'^\t(\w*) "(\S+)"$', with_imports(text), re.MULTILINE) == [
        ("r", "math/rand"), ("_", "embed"), ("", "strings"),
    ]  # fmt: skip
    assert with_imports(text).startswith("package main\n") and with_imports("package main\n").count("package") == 1


def test_swifts_assertions_are_compiled_and_the_number_comes_last() -> None:
    """No Swift compiler was there to run it with."""
    given = swift("func add() {}", "assert(true)", "7")
    assert given["files"] == {"main.swift": 'func add() {}\nassert(true)\nprint("\\n7")\n'}
    compiler, run = (step["argv"] for step in given["steps"])
    assert compiler[:2] == ["swiftc", "-Onone"] and run == ["./program"]


def test_programs_of_a_toolchain_that_is_missing_are_withheld_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "missing", lambda name, path: languages.LANGUAGES[name].tools)
    program = Program("p", hostile.HONEST["swift"], hostile.TESTS["swift"], "swift", "add")
    [verdict] = execute([program], ALONE)
    assert verdict.verdict == "withheld" and "swiftc" in verdict.reason


def test_a_toolchain_outside_usr_is_found_where_its_folder_is_readable() -> None:
    """npm's commands stand in node_modules/.bin, those of a compiler that was unpacked in bin."""
    assert ExecuteSettings(readable=("/var/lib",)).tool_path == f"/var/lib/.bin:/var/lib/bin:{PATH}"


def test_every_language_is_a_constant_with_what_it_needs() -> None:
    assert list(LANGUAGES) == [
        "python", "javascript", "typescript", "php", "ruby", "perl", "go", "java", "kotlin", "scala", "cpp", "csharp",
        "rust", "swift",
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
