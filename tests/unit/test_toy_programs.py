"""Programs of the miniature world: right by construction, and other functions to train on than to be tested on."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stilts_ds.config import parse_recipe
from stilts_ds.data.data import fitted_task
from stilts_ds.data.reader import read_examples
from stilts_ds.model_files import TOY
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.whitespace import CodeTokenizer
from stilts_ds.sources.source import DataSource
from stilts_ds.toy import LANGUAGES, PIVOT
from stilts_ds.toy.model import add_characters
from stilts_ds.toy.world import write_code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_code(folder, seed=1)
    return folder


def exercises(world: Path, name: str, split: str, code: str) -> list[Any]:
    toy = parse_recipe({"name": "x", "targets": ["humaneval_xl"], "data": {"source": "toy"}}, "the recipe")
    return list(read_examples(fitted_task(name, toy), split, code, DataSource(code=world / "code")))


def test_known_solutions_pass_their_tests_and_other_functions_do_not(world: Path) -> None:
    """The solutions are this project's own, of the form `x + 3 + 5`: they may run here."""
    for name, split in (("mbpp", "train"), ("humaneval_xl", "test")):
        problems = exercises(world, name, split, PIVOT)
        for exercise, following in zip(problems, problems[1:]):
            assert re.fullmatch(r"def f\(x\):\n    return x \+ [2-9] \+ [2-9]\n", exercise.solution)
            exec(exercise.solution + exercise.problem.tests, {})
            sums = [sum(map(int, re.findall("[2-9]", other.solution))) for other in (exercise, following)]
            if sums[0] != sums[1]:
                with pytest.raises(AssertionError):
                    exec(following.solution + exercise.problem.tests, {})


def test_a_program_for_all_problems_passes_few_of_them(world: Path) -> None:
    """What a model can write without reading the story; it may only be right where numbers happen to have one sum."""
    problems = exercises(world, "humaneval_xl", "test", PIVOT)
    sums = Counter(sum(map(int, re.findall("[2-9]", problem.solution))) for problem in problems)
    assert max(sums.values()) <= 0.2 * len(problems) and len(sums) > 8


def test_no_function_that_is_tested_was_trained_on(world: Path) -> None:
    learnt = {e.solution for split in ("train", "dev") for e in exercises(world, "mbpp", split, PIVOT)}
    tested = {e.solution for e in exercises(world, "humaneval_xl", "test", PIVOT)}
    assert len(learnt) > 40 and len(tested) > 5 and not learnt & tested


def test_a_story_tells_the_same_numbers_in_every_language(world: Path) -> None:
    told = {code: exercises(world, "humaneval_xl", "test", code) for code in LANGUAGES}
    for number, pivot in enumerate(told[PIVOT]):
        assert len({told[code][number].prompt for code in LANGUAGES}) == len(LANGUAGES)
        for code in LANGUAGES:
            problem = told[code][number]
            story = problem.prompt.split("\n")[1]
            assert problem.id == pivot.id and problem.solution == pivot.solution
            assert re.findall("[0-9]", story) == re.findall("[0-9]", pivot.solution)


def test_the_toy_model_writes_every_program_and_reads_other_texts_as_before(tmp_path: Path, world: Path) -> None:
    """Characters of code were added to a pretrained model: whatever has none of them has the same tokens as before."""
    grown, code = Tokenizer.load(TOY), CodeTokenizer(Tokenizer.load(TOY))
    assert code.marks and grown.mask == grown.vocabulary - 1
    solutions = [exercise.solution for exercise in exercises(world, "mbpp", "train", PIVOT)]
    assert code.come_back(solutions, code.slices(solutions)).all()
    before = shutil.copytree(TOY, tmp_path / "before")
    add_characters(before, "¿¡", seed=3)
    lines = [exercise.prompt.split("\n")[1] for exercise in exercises(world, "humaneval_xl", "test", "qac")]
    assert Tokenizer.load(before).slices(lines).lists() == grown.slices(lines).lists()
    old, new = (load_file(folder / "model.safetensors") for folder in (TOY, before))
    words = "roberta.embeddings.word_embeddings.weight"
    assert len(new["lm_head.bias"]) == len(new[words])
    assert torch.equal(new[words][[*range(grown.vocabulary - 1), -1]], old[words])
    assert Tokenizer.load(before).mask == grown.mask + 2 == len(new[words]) - 1
