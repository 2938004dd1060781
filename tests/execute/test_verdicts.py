"""Verdicts: what passes, what does not, which are weak, and how long a program may take."""

from __future__ import annotations

import time
from pathlib import Path

import hostile
import pytest
from sandboxes import needs_sandbox, skip_without

from stilts_ds.execute import ExecuteSettings, Program, Verdict, execute
from stilts_ds.execute.languages import LANGUAGES
from stilts_ds.execute.pool import Workers
from stilts_ds.execute.programs import VERDICTS
from stilts_ds.families.generate.score import WrittenProgram, parses

pytestmark = [needs_sandbox, pytest.mark.processes]
QUICK = ExecuteSettings(allow=True, workers=2, seconds=1.0, rerun=False)


def verdicts_of(*rows: tuple[str, str], settings: ExecuteSettings = QUICK, entry: str = "f") -> list[Verdict]:
    """Verdicts of (program, tests) pairs, in one call."""
    programs = [Program(f"p/{number}", program, tests, "python", entry) for number, (program, tests) in enumerate(rows)]
    return execute(programs, settings)


def test_values_of_every_plain_type_arrive_as_they_were_returned() -> None:
    values = (
        "None", "True", "-7", "10 ** 5000", "2.5", "float('inf')", "'\\ud800 text'", "b'raw'", "1 + 2j", "[1, [2]]",
        "(1, (2,))", "{1, 2}", "frozenset({1})", "{(1, 2): [3], None: {4}}", "range(1, 9, 2)", "bytearray(b'x')",
    )  # fmt: skip
    rows = [
        (f"def f(x):\n    return {value}", f"got = f({value})\nassert got == {value} and type(got) is type({value})")
        for value in values
    ]
    assert [verdict.verdict for verdict in verdicts_of(*rows)] == ["passed"] * len(values)


def test_arguments_arrive_as_the_tests_gave_them() -> None:
    program = "def f(*args, **named):\n    return repr((args, named))"
    given = "(1, 2.5, 'x', [None, True], {'a': (1, {2})}, key=b'raw')"
    assert verdicts_of((program, f"assert f{given} == repr((lambda *a, **n: (a, n)){given})"))[0].passed


def test_dictionaries_and_iterators_of_the_standard_library_count_as_what_they_hold() -> None:
    program = "import collections\ndef f(kind):\n    return {}"
    rows = [
        (program.format("collections.Counter('aab')"), "assert f(1) == {'a': 2, 'b': 1}"),
        (program.format("collections.deque([1, 2])"), "assert f(1) == [1, 2]"),
        (program.format("collections.namedtuple('P', 'x y')(1, 2)"), "assert f(1) == (1, 2)"),
        (program.format("(n * n for n in range(4))"), "assert list(f(1)) == [0, 1, 4, 9]"),
        (program.format("{1: 2}.keys()"), "assert f(1) == {1}"),
        ("import re\ndef f(text):\n    return re.match('a', text)", "assert f('ab') and not f('b')"),
    ]
    assert [verdict.verdict for verdict in verdicts_of(*rows)] == ["passed"] * len(rows)


def test_wrong_programs_are_told_apart_by_how_they_are_wrong() -> None:
    rows = [
        ("def f(x):\n    return x + 1", "assert f(1) == 1"),
        ("def f(x):\n    return undefined", "assert f(1) == 1"),
        ("def f(x):\n    return object()", "assert f(1) == 1"),
        ("def f(x)\n    return 1", "assert f(1) == 1"),
        ("def g(x):\n    return 1", "assert f(1) == 1"),
        ("def f(x):\n    while True: pass", "assert f(1) == 1"),
        ("def f(x):\n    return 1", "assert 1 == 1"),
        ("def f(x):\n    raise SystemExit(0)", "try:\n    f(1)\nexcept BaseException:\n    pass"),
    ]
    expected = ["failed", "error", "wrong-type", "error", "error", "timeout", "bad-tests", "error"]
    seen = verdicts_of(*rows)
    assert [verdict.verdict for verdict in seen] == expected
    assert set(expected) < set(VERDICTS)
    assert "does not define f" in seen[4].reason and "never call f" in seen[6].reason


def test_an_exception_that_the_tests_expect_is_a_pass() -> None:
    tests = "try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass"
    assert verdicts_of(("def f(x):\n    raise ValueError('no')", tests))[0].passed
    assert not verdicts_of(("def f(x):\n    raise KeyError('no')", tests))[0].passed


def test_tests_that_need_the_programs_objects_get_one_process_and_a_weak_verdict() -> None:
    tree = "class Node:\n    def __init__(self, value): self.value = value\ndef f(node):\n    return node.value"
    kinds = "def f(values, kind):\n    return [value for value in values if not isinstance(value, kind)]"
    weak_objects, weak_types, strong = verdicts_of(
        (tree, "root = Node(3)\nassert f(root) == 3"),
        (kinds, "assert f([1, 'a'], int) == ['a']"),
        ("def f(x):\n    return x", "assert f(3) == 3"),
    )
    assert weak_objects.passed and weak_objects.weak
    assert weak_types.passed and weak_types.weak
    assert strong.passed and not strong.weak


def test_a_program_cannot_choose_the_weak_way() -> None:
    """It may say that its answer is an object; that is a wrong type, and no reason to give it the tests."""
    program = "class Same:\n    def __eq__(self, other): return True\ndef f(x):\n    return Same()"
    [verdict] = verdicts_of((program, "assert f(1) == 1"))
    assert (verdict.verdict, verdict.weak) == ("wrong-type", False)


ANSWERED = hostile.read_sections("weak_way.txt")


@pytest.mark.parametrize("case", ANSWERED)
def test_no_answer_of_a_program_chooses_the_weak_way(case: str) -> None:
    """What it returns comes back as an argument, or fails the tests in words of a missing function."""
    language = case.split("-")[0]
    skip_without(language)
    texts = ANSWERED[case]
    [verdict] = execute([Program("p", texts["program"], texts["tests"], language, "add")], QUICK)
    assert not verdict.passed and not verdict.weak, verdict.reason


@pytest.mark.parametrize(
    ("language", "program", "tests"),
    [
        ("python", "def add(a, b): return a + b\ndef own(x): return x", "assert own(add(1, 2)) == 3"),
        ("javascript", "function add(a, b) { return a + b }\nfunction own(x) { return x }",
         "require('assert').ok(own(add(1, 2)) === 3)"),
        ("php", "<?php function add($a, $b) { return $a + $b; } function own($x) { return $x; }",
         'if (own(add(1, 2)) !== 3) throw new Exception("1");'),
        ("php", "<?php class Own { public $x = 1; } function add($a, $b) { return $a->x + $b; }",
         'if (add(new Own(), 2) !== 3) throw new Exception("1");'),
        ("ruby", "def own(x) = x\ndef add(a, b) = a + b", "raise '1' unless own(add(1, 2)) == 3"),
        ("ruby", "Own = Struct.new(:x)\ndef add(a, b) = a.x + b", "raise '1' unless add(Own.new(1), 2) == 3"),
        ("perl", "sub own { $_[0] } sub add { $_[0] + $_[1] } 1;", 'die "1" unless own(add(1, 2)) == 3; 1;'),
        ("perl", "sub Own::new { bless {x => 1} } sub add { $_[0]->{x} + $_[1] } 1;",
         'die "1" unless add(Own->new(), 2) == 3; 1;'),
    ],
)  # fmt: skip
def test_tests_that_name_what_the_program_alone_defines_get_a_weak_verdict(
    language: str, program: str, tests: str
) -> None:
    skip_without(language)
    [verdict] = execute([Program("p", program, tests, language, "add")], QUICK)
    assert verdict.passed and verdict.weak, verdict.reason


def test_a_slow_problem_gets_ten_times_its_own_solutions_seconds_and_a_second_chance_alone() -> None:
    slow = "import time\ndef f(x):\n    while time.process_time() < {}: pass\n    return x\n"
    tests = "assert f(1) == 1"
    programs = [
        Program("slow", slow.format(1.3), tests, "python", "f", canonical=slow.format(0.3)),
        Program("quick", slow.format(1.3), tests, "python", "f", canonical="def f(x): return x"),
    ]
    right, wrong = execute(programs, ExecuteSettings(allow=True, workers=1, seconds=1.0))
    assert right.passed and right.alone and right.limit >= 3
    assert wrong.verdict == "timeout" and wrong.alone and wrong.limit == 1.0


def test_verdicts_come_in_the_order_of_the_programs() -> None:
    rows = [(f"def f(x):\n    return {number}", "assert f(1) % 3 == 0") for number in range(20)]
    seen = verdicts_of(*rows)
    assert [verdict.id for verdict in seen] == [f"p/{number}" for number in range(20)]
    assert [verdict.passed for verdict in seen] == [number % 3 == 0 for number in range(20)]


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_dies_is_replaced_and_only_its_sample_is_lost() -> None:
    workers = Workers(QUICK)
    programs = [Program(str(n), "def f(x): return x", "assert f(1) == 1", "python", "f") for n in range(3)]
    with workers.of("python", 1) as started:
        process = started[0].worker.process
        below = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert below
        process.kill()
        process.wait()
        # What the sandbox runs dies with its process, and on a busy machine answers first.
        deadline = time.monotonic() + 60
        while any(is_alive(pid) for pid in below):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        seen = workers.run(started, programs, lambda program: 1.0, lambda verdict: None)
    assert [verdict.verdict for verdict in seen] == ["error", "passed", "passed"]
    assert "new one was started" in seen[0].reason


@pytest.mark.parametrize("language", ["javascript", "php", "ruby", "perl"])
def test_script_languages_are_judged_in_two_processes(language: str) -> None:
    skip_without(language)
    honest, tests = hostile.HONEST[language], hostile.TESTS[language]
    wrong = honest.replace("+", "*")
    forged = {
        "javascript": "is equal to everything",
        "php": "is true",
        "ruby": "is equal to everything",
        "perl": "overloads eq",
    }[language]
    texts = [honest, wrong, hostile.ATTACKS[language][forged], hostile.ATTACKS[language]["exits"]]
    programs = [Program(str(number), text, tests, language, "add") for number, text in enumerate(texts)]
    seen = execute(programs, QUICK)
    assert [verdict.passed for verdict in seen] == [True, False, False, False]
    assert not any(verdict.weak for verdict in seen)


def test_a_benchmarks_loose_comparison_is_a_setting() -> None:
    skip_without("php")
    tests = hostile.TESTS["php"]
    programs = [Program("p", hostile.ATTACKS["php"]["is true"], tests, "php", "add")]
    [strict] = execute(programs, QUICK)
    [loose] = execute(programs, ExecuteSettings(allow=True, judge="benchmark", rerun=False))
    assert (strict.verdict, loose.verdict) == ("failed", "passed")


def test_a_missing_toolchain_withholds_and_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setitem(LANGUAGES, "perl", replace(LANGUAGES["perl"], tools=("perl-that-is-nowhere",)))
    from stilts_ds.execute.languages import missing

    missing.cache_clear()
    programs = [
        Program("p", hostile.HONEST["perl"], hostile.TESTS["perl"], "perl", "add"),
        Program("q", hostile.HONEST["python"], hostile.TESTS["python"], "python", "add"),
    ]
    withheld, passed = execute(programs, QUICK)
    missing.cache_clear()
    assert withheld.verdict == "withheld" and "perl-that-is-nowhere" in withheld.reason
    assert passed.passed


# A library that the tests load and nobody has; a program that loads it itself, or raises what Python says of it.
LOADS = {
    "python": ("import nosuch\n", "def add(x, y): raise ModuleNotFoundError('x', name='nosuch')\n"),
    "javascript": ("require('nosuch');\n", "function add(x, y) { require('nosuch'); }\n"),
    "ruby": ("require 'nosuch'\n", "def add(x, y)\n  require 'nosuch'\nend\n"),
    "perl": ("use Nosuch;\n", "sub add { require Nosuch; }\n"),
}


@pytest.mark.parametrize("language", LOADS)
def test_a_library_that_the_tests_lack_fails_nobody_and_saves_no_program(language: str) -> None:
    skip_without(language)
    needs, wrong = LOADS[language]
    honest, tests = hostile.HONEST[language], hostile.TESTS[language]
    withheld, failed = execute(
        [Program("p", honest, needs + tests, language, "add"), Program("q", wrong, tests, language, "add")], QUICK
    )
    assert (withheld.verdict, withheld.reason.lower()) == ("withheld", "the tests need nosuch")
    assert failed.verdict == "error"


@pytest.mark.parametrize(
    "body, parsed",
    [
        ("return 7; }", True),
        ("return 7; }\n__END__\nno { Perl", True),
        ("return nosuch(1); }", True),
        ("die 'at load'; } add();", True),
        ("require Nosuch; } add();", True),
        ("return 7;", False),
        ("use strict; $undeclared = 7; }", False),
        ("return 7 }}", False),
    ],
)
def test_perl_says_whether_it_took_a_program(body: str, parsed: bool) -> None:
    skip_without("perl")
    program = Program("p", f"sub add {{ {body}\n", hostile.TESTS["perl"], "perl", "add")
    [verdict] = execute([program], QUICK)
    assert parses(WrittenProgram(program, verdict)) is parsed and not verdict.passed
