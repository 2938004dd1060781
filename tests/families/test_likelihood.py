"""How a model sees known solutions, and the scores of programs beside pass@1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_generate import FORM, Author, asked, concluded, encoder, exercise  # noqa: F401 - a fixture

from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import score_values
from stilts_ds.execute.passk import pass_at_k
from stilts_ds.execute.programs import Program, Verdict
from stilts_ds.families.generate.floors import floors_path, write_floors
from stilts_ds.families.generate.likelihood import CANDIDATES, Likelihood, measuring, read_likelihoods
from stilts_ds.families.generate.predictions import FILE
from stilts_ds.families.generate.record import Gold
from stilts_ds.families.generate.score import WrittenProgram, parses
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.tasks.registry import TASKS


def problems(count: int) -> list[Any]:
    """Solutions that grow from problem to problem; one stands there twice."""
    return [exercise(number, "    return x" + "\n" * (number + 1)) for number in range(count)] + [exercise(99)]


def measure(given: Any) -> dict[str, Any]:
    measured: dict[str, Any] = concluded(given.model, measuring(given))
    return measured


def test_the_place_of_a_solution_is_among_nine_others(encoder: Tokenizer) -> None:  # noqa: F811
    measured = measure(asked(Author(encoder, []), problems(CANDIDATES)))
    # All ten different solutions are candidates of each problem, and the shorter is the likelier.
    assert [measured[f"p/{number}"]["rank"] for number in range(CANDIDATES)] == list(range(1, CANDIDATES + 1))
    assert measured["p/99"] == measured["p/0"]
    assert all(value["candidates"] == CANDIDATES for value in measured.values())


def test_which_others_are_drawn_does_not_depend_on_their_order(encoder: Tokenizer) -> None:  # noqa: F811
    author = Author(encoder, [])
    forwards = measure(asked(author, problems(25)))
    backwards = measure(asked(author, problems(25)[::-1]))
    assert forwards == backwards
    # Another problem draws other nine: places of one solution differ.
    assert len({value["rank"] for value in forwards.values()}) > 2


def test_a_place_behind_equally_likely_ones_is_the_last_of_theirs(encoder: Tokenizer) -> None:  # noqa: F811
    class Constant(Author):
        def losses(self, family: Any, head: str, made: Any, setting: Any) -> list[np.ndarray]:
            return [np.ones(3)] * len(made)

    measured = measure(asked(Constant(encoder, []), problems(CANDIDATES)))
    assert {value["rank"] for value in measured.values()} == {CANDIDATES}


def test_exercises_without_solutions_are_not_measured(encoder: Tokenizer) -> None:  # noqa: F811
    given = asked(Author(encoder, []), [exercise(0, ""), exercise(1, "")])
    assert measure(given) == {}


# --- scores ----------------------------------------------------------------------------------------------------------


RIGHT = FORM + "    return x\n"


def attempt(problem: int, sample: int, verdict: str, text: str = RIGHT, **keys: Any) -> WrittenProgram:
    language = keys.pop("language", "python")
    program = Program(f"p/{problem}", text, "assert f(1)\n", language, "f", sample)
    given = Verdict(program.id, sample, language, verdict, keys.pop("reason", ""), keys.pop("weak", False))
    return WrittenProgram(program, given, keys.get("likelihood"))


GOLD = [Gold("p/0", FORM + "    return x\n"), Gold("p/1", "")]


def test_pass_at_ten_is_of_ten_programs_or_left_out() -> None:
    verdicts = [["passed"] * 3 + ["failed"] * 9, ["failed"] * 12]
    programs = [attempt(p, s, verdict) for p, of_problem in enumerate(verdicts) for s, verdict in enumerate(of_problem)]
    scores = score_values(TASKS["humaneval"], GOLD, programs, "en")
    assert scores["pass@1"] == pytest.approx(100 * 3 / 12 / 2)
    assert scores["pass@10"] == pytest.approx(50 * float(pass_at_k(12, 3, 10)))
    assert "pass@100" not in scores and "solution_mrr" not in scores
    # One problem with nine samples: pass@10 of the other alone would be another number.
    assert "pass@10" not in score_values(TASKS["humaneval"], GOLD, programs[:21], "en")


def test_known_solutions_are_scored_by_token_and_by_place() -> None:
    likelihoods = Likelihood(6, 8, 1, 10), Likelihood(0, 2, 4, 10)
    programs = [attempt(number, 0, "failed", likelihood=seen) for number, seen in enumerate(likelihoods)]
    scores = score_values(TASKS["humaneval"], GOLD, programs, "en")
    assert (scores["solution_tokens"], scores["solution_first"], scores["solution_mrr"]) == (60, 50, 62.5)


def test_floors_are_shares_of_the_problems_that_they_were_executed_for(tmp_path: Path) -> None:
    labels = tmp_path / "test-en.jsonl"
    FILE.write_labels(labels, GOLD)
    programs = [attempt(0, 0, "passed"), attempt(1, 0, "failed")]
    assert not any(name.startswith("floor") for name in score_values(TASKS["humaneval"], GOLD, programs, "en"))
    passes = {"constant": {"p/0": True, "p/1": False}, "empty": {"p/0": False, "p/1": False}, "shuffled": {"p/1": True}}
    write_floors(labels, passes, {"constant": "return True"})
    scores = score_values(TASKS["humaneval"], FILE.read_labels(labels, ()), programs, "en")
    assert (scores["floor_constant"], scores["floor_empty"], scores["floor_shuffled"]) == (50, 0, 100)
    floors_path(labels).write_text('{"constant": [1]}')
    with pytest.raises(UserError, match=r"test-en.floors.json: is no file of floors; remove it"):
        FILE.read_labels(labels, ())


@pytest.mark.parametrize(
    ("language", "text", "verdict", "reason", "wanted"),
    [
        ("python", FORM + "    return x\n", "failed", "", True),
        ("python", FORM + "    return (x\n", "error", "", False),
        ("python", FORM + "    return '\\d'\n", "failed", "", True),  # an invalid escape is a warning
        ("python", "(" * 5000, "error", "", False),
        ("javascript", "", "error", "SyntaxError: Unexpected token ';'", False),
        ("javascript", "", "error", "TypeError: x is undefined", True),
        ("php", "", "error", 'syntax error, unexpected token ";"', False),
        ("ruby", "", "error", "SyntaxError: program.rb:3: syntax error", False),
        ("java", "", "compile-error", "", False),
        ("go", "", "failed", "", True),
        ("perl", "", "error", 'syntax error: Global symbol "$x" requires explicit package name', False),
        ("perl", "", "error", "Can't locate No/Such.pm in @INC", True),
        ("perl", "", "failed", "", True),
        ("typescript", "", "withheld", "", None),
    ],
)
def test_whether_a_program_parses(language: str, text: str, verdict: str, reason: str, wanted: bool | None) -> None:
    assert parses(attempt(0, 0, verdict, text, language=language, reason=reason)) is wanted


def test_parsing_is_left_out_where_nothing_tells() -> None:
    """Of programs that share a process with their tests an interpreter's complaint may be about either."""
    weak = [attempt(number, 0, "failed", language="perl", weak=True) for number in range(2)]
    assert "parses" not in score_values(TASKS["multi_humaneval"], GOLD, weak, "perl")
    assert parses(attempt(0, 0, "passed", language="perl", weak=True)) is True
    python = [attempt(0, 0, "passed"), attempt(1, 0, "error", "def f(")]
    assert score_values(TASKS["humaneval"], GOLD, python, "en")["parses"] == 50


def test_a_damaged_file_of_likelihoods_is_named(tmp_path: Path) -> None:
    path = tmp_path / "test-en.likelihood.json"
    assert read_likelihoods(tmp_path / "test-en.jsonl") == {}
    for content in ({"p/0": {"right": 1}}, [1], {"p/0": 3}):
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(UserError, match="test-en.likelihood.json: is not what predicting writes"):
            read_likelihoods(tmp_path / "test-en.jsonl")
