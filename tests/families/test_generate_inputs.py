"""Exercises that do not fit, files of others, settings that programs cannot have: counted, mended or refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_generate import FORM, Author, asked, exercise, predict
from tiny_decoders import plain_tokenizer

from stilts_ds.config import EvaluationPart, ModelPart, TrainingPart, parse_recipe
from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.data.split import Split
from stilts_ds.data.store import Store
from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of
from stilts_ds.model_files import ModelLimits
from stilts_ds.named_tasks import check_tasks
from stilts_ds.phase_setup import check_settings
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.whitespace import SAMPLES, CodeTokenizer
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import TASKS, get_task


@pytest.fixture(name="decoder")
def byte_level() -> Tokenizer:
    return Tokenizer(plain_tokenizer([*SAMPLES, FORM], eos_token="<|end|>"), "small", sees="left")


def test_prompts_that_are_cut_to_be_gone_on_from_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "humaneval" / "HumanEval.jsonl"
    path.parent.mkdir()
    tests = {"test": "def check(f):\n    assert f(1)\n", "canonical_solution": "    return x\n", "entry_point": "f"}
    prompts = [FORM, "x = 1\n" * 90 + FORM]
    problems = [{"task_id": f"HumanEval/{number}", "prompt": prompt, **tests} for number, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    task = TASKS["humaneval"]
    origin = find_origin(task, "test", "en", DataSource(code=tmp_path))
    split = Split(task, "test", "en", (), origin, Store(ModelPart(name_or_path="toy"), tmp_path / "cache"))
    setting = TrainingPart(max_seq_length=64)
    for _ in range(2):  # said once, and whether the rows come from the cache or not
        made, *_ = family_of(task).evaluation_rows(split, setting, EvaluationPart())
    assert made.row_lengths.max() == 32
    lines = [record.getMessage() for record in caplog.records if "prompts cut" in record.getMessage()]
    # The rows of prompts with their solutions, by which these are ranked, are made before the model is loaded, too.
    assert lines == [
        f"humaneval test en, {name}: 2 items, prompts cut at their beginning (raise max_seq_length): 1"
        for name in ("prompts", "known solutions")
    ]


def test_programs_without_room_for_their_end_are_counted(decoder: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    author = Author(decoder, ["    return x\n", "    return x + x + x + x\n", "    return x\ndef"])
    lengths = [len(ids) for ids in CodeTokenizer(decoder).slices(author.texts).lists()]
    given = asked(author, [exercise(0), exercise(1)], samples=3, temperature=1.0, max_new_tokens=lengths[1])
    predict(given)
    assert lengths[0] < lengths[1]
    assert "humaneval en: 2 of 6 programs had no room to end (raise evaluation.generate.max_new_tokens" in caplog.text


def test_programs_ask_for_packed_attention() -> None:
    given = {
        "name": "x",
        "targets": ["xnli"],
        "intermediate": {"a": ["mbpp"]},
        "model": {"attn_implementation": "sdpa"},
    }
    with pytest.raises(
        UserError, match=r"model.attn_implementation: mbpp needs `packed`, not 'sdpa'; leave the key out"
    ):
        check_tasks(parse_recipe(given, "the recipe"))
    check_tasks(parse_recipe({**given, "intermediate": {"a": ["mnli"]}}, "the recipe"))


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("name, language", [("mbpp", "en"), ("humaneval_solutions", "en")])
def test_lines_of_exercises_end_alike_whoever_wrote_them(name: str, language: str, end: str, tmp_path: Path) -> None:
    """In every text of a row: a model would learn to write what ends them."""
    lines = {
        "code": "def f(x):\n    return x",
        "text": "Double.\nQuickly.",
        "task_id": 601,
        "test_list": ["assert f(1)\n"],
    }
    if name != "mbpp":
        lines = {"task_id": "HumanEval/0", "prompt": FORM, "canonical_solution": "    return x\n", "entry_point": "f",
                 "test": "def check(f):\n    assert f(1)\n"}  # fmt: skip
    path = tmp_path / get_task(name).local["train"][0].path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(lines).replace("\\n", json.dumps(end)[1:-1]) + "\n")
    [record] = read_examples(get_task(name), "train", language, DataSource(code=tmp_path))
    texts = (record.prompt, record.solution, record.problem.tests, record.problem.prompt)
    assert not any("\r" in text for text in texts) and "\n" in record.prompt and "\n" in record.solution


def test_a_folder_that_the_sandbox_cannot_show_is_refused_before_anything_trains() -> None:
    given = {"name": "x", "targets": ["mbxp"], "execute": {"allow": True, "readable": ["/nowhere/node_modules"]}}
    world: Any = SimpleNamespace(device=torch.device("cpu"), size=1)
    with pytest.raises(UserError, match=r"readable: /nowhere/node_modules is no folder"):
        check_settings(parse_recipe(given, "the recipe"), [], ModelLimits(None, None), world)
