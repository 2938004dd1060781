"""Noise in the words of code prompts, and how robust the programs written to them are."""

from __future__ import annotations

import ast
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import stilts
from stilts_launcher.cli import build_parser
from stilts_launcher.noise import write

from stilts_ds.data.prompt_noise import language_code, write_noisy_prompts
from stilts_ds.errors import UserError
from stilts_ds.evaluate.recode_files import robustness_of_files
from stilts_ds.execute.benchmarks import read_problems
from stilts_ds.families.generate.prompt_text import find_text
from stilts_ds.noise.spec import parse_noise

PYTHON = '''from typing import List


def helper(x):
    """ Words of the helper function stay as they are. """
    return x


def below_zero(operations: List[int], limit: int) -> bool:
    """ You are given a list of operations on a bank account that starts with
    zero balance. Tell whether the balance falls below the limit, and return True then.
    For example, below_zero([1, -4], 0) is one.
    >>> below_zero([1, 2, 3], 0)
    False

    The list called operations may be empty.
    """
'''
JAVA = """class BelowZero {
    /**
     * Tell whether the balance of the account falls below zero.
     * >>> below_zero([1, 2, 3])
     * False
     *
     */
    public static Boolean belowZero(List<Object> operations) {
"""


def test_the_words_of_a_prompt_are_its_documentation_without_examples_and_code() -> None:
    found = find_text(PYTHON, "below_zero", "python")
    assert found.text.split("\n") == [
        "You are given a list of operations on a bank account that starts with",
        "zero balance. Tell whether the balance falls below the limit, and return True then.",
        "The list called operations may be empty.",
    ]
    kept = [found.text[start:end] for start, end in found.protected]
    assert kept == ["operations", "limit,", "True", "operations"]
    assert find_text(JAVA, "belowZero", "java").text == "Tell whether the balance of the account falls below zero."
    assert not find_text("def f(x):\n", "f", "python").lines


def row(prompt: str, number: int = 0, entry: str = "below_zero", **more: str) -> dict[str, Any]:
    test = "def check(candidate):\n    assert candidate([1, -4], 0)\n"
    return {"task_id": f"HumanEval/{number}", "prompt": prompt, "entry_point": entry, "test": test, **more}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def noisy(path: Path, benchmark: str, noise: str, output: Path, language: str | None = None) -> list[dict[str, Any]]:
    write_noisy_prompts(benchmark, path, parse_noise(noise, noise), language, None, output)
    [made] = (output / f"{benchmark}@{noise}").glob("*.jsonl")
    return [json.loads(line) for line in made.read_text().splitlines()]


def skeleton(prompt: str) -> str:
    """The program in a prompt without its documentation."""
    tree = ast.parse(prompt + "    pass\n")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            texts = [part for part in node.body if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)]
            node.body = [part for part in node.body if part not in texts]
    return ast.dump(tree)


@pytest.mark.parametrize("kind", ["typo", "char", "case", "space"])
def test_signature_doctest_and_code_stay_and_the_words_change(kind: str, tmp_path: Path) -> None:
    rows = [row(PYTHON, number) for number in range(20)]
    made = noisy(written(tmp_path / "problems.jsonl", rows), "humaneval", f"{kind}-10", tmp_path / "out")
    for old, new in zip(rows, made):
        assert new["prompt"] != old["prompt"] and {**new, "prompt": ""} == {**old, "prompt": ""}
        assert skeleton(new["prompt"]) == skeleton(old["prompt"])
        kept = [line for line in PYTHON.split("\n") if line not in find_text(PYTHON, "below_zero", "python").text]
        code = [line for line in kept if not line.strip(' "').startswith(("You", "zero", "The list"))]
        assert all(line in new["prompt"].split("\n") for line in code)
        assert new["prompt"].count("operations") == PYTHON.count("operations") and "limit," in new["prompt"]
    assert len({one["prompt"] for one in made}) > 15, "errors depend on the problem"
    manifest = json.loads((tmp_path / f"out/humaneval@{kind}-10/noise.json").read_text())
    assert abs(manifest["edits"] - 0.1 * manifest["letters"]) <= len(rows) and manifest["unchanged"] == []


def test_a_noisy_file_is_read_by_the_benchmarks_own_reader_and_rate_0_is_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "problems.jsonl", [row(PYTHON)])
    [same] = noisy(path, "humaneval", "typo-0", tmp_path / "out")
    assert same == row(PYTHON)
    noisy(path, "humaneval", "typo-20", tmp_path / "out")
    [problem] = read_problems("recode", tmp_path / "out/humaneval@typo-20/problems.jsonl").values()
    assert problem.entry == "below_zero" and problem.prompt != PYTHON


def test_mbpps_wording_stands_in_a_field_of_its_own(tmp_path: Path) -> None:
    text = "Write a function to find the minimum cost path to reach (m, n) in cost[][]."
    given = {"task_id": 11, "text": text, "code": "def f(x):\n    return x\n", "test_list": ["assert f(1) == 1"]}
    [made] = noisy(written(tmp_path / "mbpp.jsonl", [given]), "mbpp", "typo-20", tmp_path / "out")
    assert made["text"] != text and "(m, n)" in made["text"] and made["text"].endswith(" cost[][].")
    assert {**made, "text": text} == given


def test_prompts_that_noise_cannot_change_are_told(tmp_path: Path) -> None:
    bare = written(tmp_path / "bare.jsonl", [row("def below_zero(operations):\n")])
    with pytest.raises(UserError, match="typo noise finds nothing to change in the words of these prompts"):
        noisy(bare, "humaneval", "typo-10", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    chinese = written(tmp_path / "zh.jsonl", [row('def f(x):\n    """ 你会得到一个列表。 """\n', entry="f")])
    with pytest.raises(UserError, match="no keyboard types its script directly"):
        noisy(chinese, "mhumaneval", "typo-10", tmp_path / "out", "zh")
    with pytest.raises(UserError, match="--lists has no dictionaries/ list for 'en'"):
        noisy(written(tmp_path / "a.jsonl", [row(PYTHON)]), "humaneval", "switch-10", tmp_path / "out")
    with pytest.raises(UserError, match="no language is called 'Germann'; did you mean German"):
        language_code("Germann")


def verdicts(path: Path, passed: list[list[int]], word: str = "failed") -> Path:
    rows = [
        {"id": f"p{problem}", "sample": sample, "language": "python", "verdict": "passed" if right else word}
        for problem, samples in enumerate(passed)
        for sample, right in enumerate(samples)
    ]
    return written(path, rows)


@pytest.mark.processes
def test_the_command_scores_verdicts_as_recode_defines_it(tmp_path: Path) -> None:
    """Four problems, greedy: right on both perturbed prompts, on one of them, wrong and right on one, wrong on both."""
    nominal = verdicts(tmp_path / "nominal.jsonl", [[1], [1], [0], [0]])
    first = verdicts(tmp_path / "first.jsonl", [[1], [1], [0], [0]])
    second = verdicts(tmp_path / "second.jsonl", [[1], [0], [1], [0]])
    [(k, found)] = robustness_of_files(nominal, [first, second]).items()
    assert (k, found.passed, found.robust, found.drop, found.relative) == (1, 0.5, 0.25, 0.5, 0.5)
    shown = stilts("score", "--verdicts", nominal, "--perturbed", first, second, cwd=tmp_path)
    assert "| k | pass@k | RP2@k | RD2@k | RR2@k |" in shown
    assert "| 1 | 50.00 | 25.00 | 50.00 | 50.00 |" in shown
    none = verdicts(tmp_path / "none.jsonl", [[0], [0], [0], [0]])
    assert robustness_of_files(none, [first])[1].drop is None


@pytest.mark.processes
def test_verdicts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    nominal = verdicts(tmp_path / "nominal.jsonl", [[1, 0], [1, 1]])
    with pytest.raises(UserError, match=r"other.jsonl: 'p0' has samples \[0\], and \[0, 1\] in .*nominal.jsonl"):
        robustness_of_files(nominal, [verdicts(tmp_path / "other.jsonl", [[1], [1, 1]])])
    with pytest.raises(UserError, match="'p2' has samples"):
        robustness_of_files(nominal, [verdicts(tmp_path / "more.jsonl", [[1, 0], [1, 1], [1, 1]])])
    with pytest.raises(UserError, match="uneven.jsonl: problems have 1 to 2 samples"):
        robustness_of_files(verdicts(tmp_path / "uneven.jsonl", [[1], [1, 1]]), [nominal])
    with pytest.raises(UserError, match="'p0', sample 1 was withheld"):
        robustness_of_files(verdicts(tmp_path / "kept.jsonl", [[1, 0], [1, 1]], "withheld"), [nominal])
    shown = stilts("score", "--perturbed", nominal, cwd=tmp_path, status=2)
    assert "--perturbed needs --verdicts with one file" in shown
    shown = stilts("score", tmp_path, "--verdicts", nominal, cwd=tmp_path, status=2)
    assert "no run is read: leave it out" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "humaneval"], "--benchmark and --problems go together"),
        (["xnli", "--benchmark", "humaneval", "--problems", "x.jsonl"], "give a target task, or --benchmark"),
        ([], "give a target task, or --benchmark"),
        (["--benchmark", "humaneval", "--problems", "x.jsonl", "--context"], "takes no --context"),
        (["--benchmark", "humaneval", "--problems", "x.jsonl", "--rate", "101"], "give at most 100"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_told(words: list[str], message: str) -> None:
    given = build_parser().parse_args(["noise", *words, "--kind", "typo", "--output", "out"])
    with pytest.raises(UserError, match=message):
        write(given)


def with_line_feeds(value: Any) -> Any:
    if isinstance(value, list):
        return [with_line_feeds(item) for item in value]
    return re.sub(r"\r\n?", "\n", value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("benchmark", "file", "language"),
    [
        ("humaneval", "humaneval/HumanEval.jsonl.gz", None),
        ("humaneval_xl", "humaneval_xl/python/German.jsonl.gz", None),
        ("humaneval_xl", "humaneval_xl/java/English.jsonl.gz", None),
        ("mbxp", "mbxp/mbphp_release_v1.2.jsonl.gz", None),
        ("mbpp", "mbpp/mbpp.jsonl.gz", None),
    ],
)
def test_real_prompts_change_in_their_words_alone(
    benchmark: str, file: str, language: str | None, shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data / "code" / file
    made = noisy(path, benchmark, "typo-5", tmp_path, language)
    old = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert len(made) == len(old)
    same = json.loads((tmp_path / f"{benchmark}@typo-5/noise.json").read_text())["unchanged"]
    assert len(same) < len(old) / 10
    problems = read_problems(benchmark, path)
    for before, after in zip(old, made):
        field = "text" if benchmark == "mbpp" else "prompt"
        # MBPP's programs have CR LF, which the reader makes a line feed.
        others = {name: with_line_feeds(value) for name, value in before.items()}
        assert {**others, field: ""} == {**after, field: ""}
        if field == "text":
            continue
        problem = problems[before["task_id"]]
        words = find_text(before["prompt"], problem.entry, problem.language)
        kept = [line for line in before["prompt"].split("\n") if ">>>" in line or f"{problem.entry}(" in line]
        assert all(line in after["prompt"].split("\n") for line in kept)
        assert before["prompt"].count("\n") == after["prompt"].count("\n") and words.prompt == before["prompt"]
        if benchmark == "humaneval":
            assert skeleton(before["prompt"]) == skeleton(after["prompt"])


def test_recodes_own_files_are_read_as_they_are(shared_data: Path) -> None:
    nominal = read_problems("recode", shared_data / "code/recode/nominal/HumanEval.jsonl.gz")
    files = sorted((shared_data / "code/recode").glob("*/humaneval_*_s?.jsonl.gz"))
    assert len(files) == 25
    for path in files:
        problems = read_problems("recode", path)
        assert problems.keys() == nominal.keys() and len(problems) == 164, path
        assert sum(problems[name].prompt != nominal[name].prompt for name in problems) > 20, path
