"""Exercises to rows, programs to files and verdicts to scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from folding_tokenizer import folding
from tiny_decoders import plain_tokenizer

from stilts_ds.config import EvaluationPart, TrainingPart, parse_recipe
from stilts_ds.data.reader import read_examples
from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import read_values, score_values
from stilts_ds.evaluate.score_run import score_task
from stilts_ds.execute.benchmarks import Problem
from stilts_ds.execute.programs import Verdict, read_programs, write_verdicts
from stilts_ds.families.asked import Work
from stilts_ds.families.generate import rows
from stilts_ds.families.generate.predictions import FILE, Endings, unscored, verdicts_path, work
from stilts_ds.families.generate.record import Exercise, gold
from stilts_ds.families.generate.rows import encode_exercises
from stilts_ds.families.generate.score import WrittenProgram
from stilts_ds.families.registry import family_of
from stilts_ds.named_tasks import check_tasks
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.whitespace import SAMPLES, CodeTokenizer, mark_whitespace
from stilts_ds.run_dir import RunDir
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import TASKS, get_task

FORM = "def f(x):\n"


def exercise(number: int, solution: str = "    return x\n", prompt: str = FORM) -> Exercise:
    problem = Problem(f"p/{number}", "python", FORM, "f", "assert f(1) == 1\n", canonical=solution)
    return Exercise(problem.id, prompt, solution, problem)


@pytest.fixture(scope="module")
def encoder() -> Tokenizer:
    return Tokenizer(folding([mark_whitespace(text) for text in (*SAMPLES, "a §¶→·⇥ b", FORM)]), "small")


@pytest.fixture(scope="module")
def decoder() -> Tokenizer:
    return Tokenizer(plain_tokenizer([*SAMPLES, FORM], eos_token="<|end|>"), "small", sees="left")


# --- rows ------------------------------------------------------------------------------------------------------------


def test_an_encoders_row_is_a_prefix_and_what_is_read_from_left_to_right(encoder: Tokenizer) -> None:
    made = encode_exercises([exercise(0)], encoder, (), TrainingPart(max_seq_length=64))
    code = CodeTokenizer(encoder)
    prompt, solution = code.prompt_slices([FORM]).lists()[0], code.slices(["    return x\n"]).lists()[0]
    template = encoder.template
    ids = [*template.prefix, *prompt, *template.middle, *solution, template.single_suffix[0]]
    assert made.input_ids.tolist() == ids
    begin = len(template.prefix) + len(prompt) + len(template.middle)
    assert made.prefix is not None and made.prefix.tolist() == made.second.tolist() == [begin]
    targets = rows.targets(made, 0, [5], np.array([0] * 5 + ids), None)  # type: ignore[arg-type]
    assert targets.tokens.tolist() == list(range(5 + begin - 1, 5 + len(ids) - 1))
    assert targets.gold.tolist() == ids[begin:] and rows.target_count(made, 0, 0.15) == len(targets.gold)


def test_a_decoder_goes_on_from_the_prompts_last_token(decoder: Tokenizer) -> None:
    made = encode_exercises([exercise(0)], decoder, (), TrainingPart(max_seq_length=64))
    assert made.prefix is None
    end = decoder.template.single_suffix[0]
    assert made.input_ids[-1] == end
    assert decoder.backend.decode(made.input_ids[:-1].tolist()) == FORM + "    return x\n"


def test_an_exercise_without_a_solution_is_its_prompt(encoder: Tokenizer) -> None:
    made = encode_exercises([exercise(0, ""), exercise(1)], encoder, (), TrainingPart(max_seq_length=64))
    assert made.row_lengths[0] == made.second[0] == made.second[1]
    assert rows.target_count(made, 0, 0.15) == 0


def test_long_rows_keep_their_prompts_end_and_are_counted(decoder: Tokenizer) -> None:
    long_prompt, long_solution = "x = 1\n" * 30 + FORM, "    x = 2\n" * 30
    cases = [
        exercise(0),
        exercise(1, prompt=long_prompt),
        exercise(2, long_solution),
        exercise(3, long_solution, long_prompt),
    ]
    made = encode_exercises(cases, decoder, (), TrainingPart(max_seq_length=32))
    assert made.row_lengths.max() == 32
    assert dict(made.tally) == {rows.CUT_PROMPTS: 2, rows.CUT_SOLUTIONS: 2}
    end = decoder.template.single_suffix[0]
    for row in range(4):
        ids = made.input_ids[made.starts[row] : made.starts[row + 1]].tolist()
        prompt = decoder.backend.decode(ids[: made.second[row]])
        assert prompt.endswith(FORM) and cases[row].prompt.endswith(prompt)
        # What is cut is not taught to end there.
        assert (ids[-1] == end) == (row < 2)


def test_solutions_that_do_not_come_back_are_counted(encoder: Tokenizer) -> None:
    made = encode_exercises(
        [exercise(0), exercise(1, "    return '漢'\n")], encoder, (), TrainingPart(max_seq_length=64)
    )
    assert dict(made.tally) == {rows.CHANGED: 1}


# --- writing ---------------------------------------------------------------------------------------------------------


class Author:
    """A model that writes the same texts for each prompt."""

    first = True

    def __init__(self, tokenizer: Tokenizer, texts: list[str]) -> None:
        self.tokenizer, self.texts = tokenizer, texts

    def broadcast(self, value: Any) -> Any:
        return value

    def write(self, head: str, rows: Any, decoding: Any) -> list[list[list[int]]]:
        self.decoding, self.lengths = decoding, rows.row_lengths.tolist()
        code = CodeTokenizer(self.tokenizer)
        return [code.slices(self.texts).lists() for _ in decoding.names]

    def outputs(self, family: Any, head: str, made: Any, setting: Any) -> list[np.ndarray]:
        """It foresees every token but the first of each solution."""
        solutions = family.trained.dev_gold(made, None)
        return [np.concatenate([[-1], gold[1:]]) for gold in solutions]

    def losses(self, family: Any, head: str, made: Any, setting: Any) -> list[np.ndarray]:
        """The shorter a solution, the likelier."""
        return [np.full(len(gold), len(gold)) for gold in family.trained.dev_gold(made, None)]


def concluded(author: Author, work: Work) -> Any:
    """What rank 0 makes of what the author says to all of a split's passes."""
    family, made = family_of(TASKS["humaneval"]), []
    for passes in work.passes:
        if passes.made == "programs":
            made.append(author.write("code", passes.rows, passes.decoding))
        else:
            made.append(getattr(author, passes.made)(family, "code", passes.rows, TrainingPart()))
    return work.conclude(made)


def predict(given: Any) -> Any:
    return concluded(given.model, work(family_of(TASKS["humaneval"]), given))


def asked(author: Author, exercises: list[Exercise], **generate: Any) -> Any:
    def rows_of(name: str, setting: Any, texts: Any) -> Any:
        return encode_exercises(texts()[0], author.tokenizer, (), setting)

    task = dataclasses.replace(get_task("humaneval"), stop=("\ndef", "\nprint"))
    split = SimpleNamespace(task=task, name="test", language="en", records=lambda: exercises, rows_of=rows_of)
    part = EvaluationPart(**{"generate": generate})
    return SimpleNamespace(
        split=split, head="code", setting=TrainingPart(max_seq_length=48), evaluation=part, model=author, kept={}
    )


def test_what_a_model_writes_is_a_file_of_programs(decoder: Tokenizer, tmp_path: Path) -> None:
    author = Author(decoder, ["    return x\n", "    return 1\nprint(f)\ndef g", "    return '\0'\n"])
    given = asked(author, [exercise(0), exercise(1)], samples=3, temperature=1.0, max_new_tokens=8)
    attempts = predict(given)
    assert attempts is not None
    path = tmp_path / "test-en.jsonl"
    FILE.write(path, attempts)
    programs, faults = read_programs(path)  # as `stilts execute` does
    assert not faults and [(program.id, program.sample) for program in programs] == [
        (f"p/{number}", sample) for number in range(2) for sample in range(3)
    ]
    # The prompt, and what was written up to the first stop string; a null character is in no program.
    assert [program.program for program in programs[:3]] == [
        FORM + "    return x\n", FORM + "    return 1", FORM + "    return '\ufffd'\n"
    ]  # fmt: skip
    assert programs[0].tests == "assert f(1) == 1\n" and programs[0].entry == "f"
    assert FILE.read(path, ()) == attempts
    # Two problems are too few for a place among ten; each solution's first token is not foreseen.
    tokens = given.kept["test-en.likelihood.json"]["p/0"]["tokens"]
    measured = {"right": tokens - 1, "tokens": tokens, "rank": 0, "candidates": 0}
    assert given.kept == {"test-en.likelihood.json": {"p/0": measured, "p/1": measured}}
    assert author.decoding.names == ["humaneval\np/0", "humaneval\np/1"]


def test_prompts_leave_room_for_programs_but_keep_half_the_row(decoder: Tokenizer) -> None:
    author = Author(decoder, [""])
    for tokens, longest in ((8, 40), (40, 24)):
        predict(asked(author, [exercise(0, "", "y = 1\n" * 40)], max_new_tokens=tokens))
        assert author.lengths == [longest]


def test_a_program_ends_at_the_first_of_its_own_stop_strings(encoder: Tokenizer) -> None:
    code = CodeTokenizer(encoder)
    ends = Endings(code, ("\ndef", "\nif x"))
    for text, cut in (("  x\ndef y", "  x"), ("if x", "if x"), ("y\nif x\ndef", "y"), ("\n", "\n")):
        ids = code.slices([text]).lists()[0]
        assert ends.text(ids) == cut
        reached = [ends.are_reached(ids[: count + 1]) for count in range(len(ids))]
        assert any(reached) == (cut != text)
        if any(reached):  # not before it is whole
            assert code.text(ids[: reached.index(True) + 1]).endswith(("\ndef", "\nif x"))


def test_a_stop_string_whose_characters_take_several_tokens_ends_a_program(decoder: Tokenizer) -> None:
    code = CodeTokenizer(decoder)
    ids = code.slices(["x\n終"]).lists()[0]
    assert len(ids) > 4  # of UTF-8's three bytes each is a token
    ends = Endings(code, ("終",))
    assert [ends.are_reached(ids[: count + 1]) for count in range(len(ids))] == [False] * (len(ids) - 1) + [True]
    assert ends.text(ids) == "x\n"


# --- files and scores ------------------------------------------------------------------------------------------------


def attempts(*samples: tuple[int, int]) -> list[WrittenProgram]:
    return [
        WrittenProgram(exercise(number).problem.program(f"    return {sample}\n", sample), None)
        for number, sample in samples
    ]


def written(folder: Path, verdicts: dict[tuple[int, int], str]) -> tuple[Path, Path]:
    path, labels = folder / "test-en.jsonl", folder / "labels.jsonl"
    FILE.write(path, attempts(*verdicts))
    FILE.write_labels(labels, [gold(exercise(number)) for number in sorted({number for number, _ in verdicts})])
    rows = [Verdict(f"p/{number}", sample, "python", verdict) for (number, sample), verdict in verdicts.items()]
    write_verdicts(verdicts_path(path), rows)
    return path, labels


def test_a_score_is_read_from_verdicts_and_runs_nothing(tmp_path: Path) -> None:
    told = {
        (0, 0): "passed",
        (0, 1): "failed",
        (0, 2): "withheld",
        (1, 0): "error",
        (1, 1): "timeout",
        (2, 0): "passed",
    }
    path, labels = written(tmp_path, told)
    task = TASKS["humaneval"]
    scores = score_values(task, *read_values(path, labels, task), "en")
    # (1/2 + 0 + 1) / 3; neither pass@10 of so few samples nor what was not measured.
    assert scores == {"pass@1": pytest.approx(50.0), "parses": 100.0, "same_program": 0.0}


def test_programs_that_were_not_executed_are_told_with_the_command(tmp_path: Path) -> None:
    path, labels = written(tmp_path, {(0, 0): "passed"})
    assert unscored(path) is None
    FILE.write(path, attempts((0, 0)))  # predicted again: the verdicts were of other programs
    assert f"stilts execute {path} -o {tmp_path}/test-en.verdicts.jsonl --allow" in str(unscored(path))
    with pytest.raises(UserError, match="1 program without a verdict"):
        read_values(path, labels, TASKS["humaneval"])


def test_a_language_that_could_not_be_judged_is_left_open_and_not_scored_with_nothing(tmp_path: Path) -> None:
    """One problem whose programs are all withheld is enough: the others alone would be another number."""
    path, _ = written(tmp_path, {(0, 0): "passed", (1, 0): "withheld", (1, 1): "failed"})
    assert unscored(path) is None
    path, _ = written(tmp_path, {(0, 0): "passed", (1, 0): "withheld"})
    lines = verdicts_path(path).read_text().replace('"reason": ""', '"reason": "the tests need lodash"')
    verdicts_path(path).write_text(lines)
    assert "no program of p/1 could be judged: the tests need lodash; install that, then" in str(unscored(path))


def test_verdicts_of_other_programs_are_refused(tmp_path: Path) -> None:
    path, labels = written(tmp_path, {(0, 0): "passed", (1, 0): "passed"})
    verdicts = verdicts_path(path).read_text().split("\n")
    verdicts_path(path).write_text(verdicts[0] + "\n")
    with pytest.raises(UserError, match="is of other programs than test-en.jsonl, such as sample 0 of 'p/1'"):
        read_values(path, labels, TASKS["humaneval"])
    path.write_text(path.read_text().split("\n")[0] + "\n")
    with pytest.raises(UserError, match="1 of 2 problems have no answer: 'p/1'"):
        read_values(path, labels, TASKS["humaneval"])


# --- benchmarks and who may be scored on them ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, split, language, count, first",
    [
        ("mbpp", "train", "en", 374, "MBPP/601"),
        ("mbpp", "dev", "en", 90, "MBPP/511"),
        ("humaneval", "test", "en", 164, "HumanEval/0"),
        ("humaneval_xl", "test", "de", 80, "python/0"),
        ("humaneval_xl_java", "test", "zh", 80, "java/0"),
        ("mbxp", "test", "php", 498, "MBPHP/11"),
        ("mbxp", "test", "go", 483, "MBGP/11"),
    ],
)
def test_official_files_are_read_as_they_are_shipped(
    name: str, split: str, language: str, count: int, first: str, shared_data: Path
) -> None:
    source = DataSource(code=shared_data / "code")
    records = list(read_examples(get_task(name), split, language, source))
    assert len(records) == count and records[0].id == first
    assert not any("\r" in record.prompt + record.solution for record in records)
    if split == "train":
        assert all(record.solution for record in records)
    stops = [stop for record in records for stop in get_task(name).stop if stop in record.solution]
    assert not stops, "a stop string stands in a known solution"


def recipe(targets: list[str], *condition: str) -> Any:
    given = {"name": "x", "targets": targets, "intermediate": {"c": list(condition)}}
    return parse_recipe(given, "the recipe")


@pytest.mark.parametrize("target", ["humaneval", "humaneval_xl", "humaneval_xl_php", "multi_humaneval"])
def test_nobody_is_scored_on_problems_that_it_trained_on(target: str) -> None:
    with pytest.raises(
        UserError, match=f"{target} is scored on problems of HumanEval .0-163., on which intermediate.c trains"
    ):
        check_tasks(recipe([target], "humaneval_solutions"))
    check_tasks(recipe([target], "mbpp"))
    check_tasks(recipe(["mbxp"], "humaneval_solutions"))


def test_the_train_exercises_in_mbxps_files_cannot_be_scored() -> None:
    given = {"name": "x", "targets": ["mbxp"], "evaluation": {"splits": {"mbxp": "train"}}}
    with pytest.raises(UserError, match="mbxp has no split 'train' of its own"):
        check_tasks(parse_recipe(given, "the recipe"))


def test_settings_of_programs_leave_other_predictions_as_they_are() -> None:
    from stilts_ds.evaluate.stamp import Stamp

    def stamp(name: str, **generate: Any) -> Any:
        split = SimpleNamespace(hash="h", name="test", family=family_of(TASKS[name]))
        return Stamp.of("phase", "w", EvaluationPart(**{"generate": generate}), split, {})  # type: ignore[arg-type]

    assert stamp("xnli") == stamp("xnli", top_p=0.5) and "generate" not in stamp("xnli").settings
    assert stamp("humaneval") != stamp("humaneval", top_p=0.5)
    assert json.dumps(stamp("humaneval").settings["generate"])


def test_programs_that_wait_to_be_executed_are_missing_and_not_unlabelled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path)
    phase: Any = SimpleNamespace(id="target", condition="none", seed=1, training={})
    data: Any = SimpleNamespace(task=get_task, scored_split=lambda task: "test", languages=lambda *_: (["en"], []))
    file = FILE.name("test", "en")
    for folder in (run.phase(phase.id).predictions / "humaneval", run.labels / "humaneval"):
        folder.mkdir(parents=True)
    problem = exercise(0).problem
    FILE.write(
        run.phase(phase.id).predictions / "humaneval" / file, [WrittenProgram(problem.program("    return x\n"), None)]
    )
    FILE.write_labels(run.labels / "humaneval" / file, [gold(exercise(0))])
    result = score_task(run, recipe(["humaneval"]), phase, "humaneval", data)
    assert (result.missing, result.unlabelled, result.mean) == (("en",), (), None)
    assert "humaneval en is not scored yet: its programs have not been executed" in caplog.text
    caplog.clear()
    # The run itself executes them at its end: no warning of what needs nobody's hand.
    given = {"name": "x", "targets": ["humaneval"], "execute": {"allow": True}}
    score_task(run, parse_recipe(given, "the recipe"), phase, "humaneval", data)
    assert not caplog.records
