"""Descriptions that find programs, documentation and its translation, programs as running text."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ranks

from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of
from stilts_ds.sources import hub
from stilts_ds.sources.hub import RowContext
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import TASKS, get_task

CODE = ranks.SHARED / "data" / "code"
real = pytest.mark.skipif(not CODE.is_dir(), reason=f"no real data in {CODE}")


def read(folder: Path, name: str, split: str, language: str = "en") -> list[Any]:
    return list(read_examples(get_task(name), split, language, DataSource(code=folder)))


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def lines(*rows: Any) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


# --- search ----------------------------------------------------------------------------------------------------------


@real
def test_real_descriptions_search_programs_that_do_not_tell_them() -> None:
    for language in ("en", "de", "tl", "zh"):
        records = read(CODE, "code_retrieval", "test", language)
        assert len(records) == 80
        for record in records:
            [right] = [candidate for candidate in record.pool if candidate.id == record.right[0]]
            assert record.text[:40] not in right.text and right.text.startswith("def ")
            compile(f"from typing import *\n{right.text}", record.id, "exec")
    train = read(CODE, "mbpp_search", "train")
    assert len(train) == 374 and "\r" not in train[0].pool[0].text
    [pairs] = read(CODE, "code_bitext", "test", "ar")
    assert len(pairs.source) == len(pairs.pivot) == len(pairs.gold) == 80


def test_a_description_without_a_program_to_be_found_is_refused(tmp_path: Path) -> None:
    row = {
        "task_id": "python/0", "language": "python", "prompt": 'def f(x):\n    """ Do it. """\n', "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate(1) == 1\n", "description": "Do it.",
        "canonical_solution": None,
    }  # fmt: skip
    path = write(tmp_path / "humaneval_xl/python/English.jsonl", lines(row))
    with pytest.raises(UserError, match="English.jsonl:1: has no 'canonical_solution' to be found"):
        read(tmp_path, "code_retrieval", "test")
    write(path, lines({**row, "canonical_solution": "    return x\n", "prompt": "def f(x): return x"}))
    with pytest.raises(UserError, match="English.jsonl:1: its 'prompt' does not begin the function 'f'"):
        read(tmp_path, "code_retrieval", "test")
    del row["description"]
    write(path, lines(row))
    with pytest.raises(UserError, match="English.jsonl:1: has no 'description'"):
        read(tmp_path, "code_bitext", "test")
    write(path, "\n" + lines({**row, "description": "Half \ud83d."}))
    with pytest.raises(UserError, match="English.jsonl:2: 'description' holds half a surrogate pair"):
        read(tmp_path, "code_bitext", "test")


class HubRows(list[dict[str, Any]]):
    """Rows as `datasets` gives them."""

    features: dict[str, Any] = {}


def hub_rows(monkeypatch: pytest.MonkeyPatch, rows: dict[tuple[str, str], list[dict[str, Any]]]) -> DataSource:
    """A hub that has these rows by repository and split."""
    monkeypatch.setattr(hub, "load_rows", lambda data_set, **_: HubRows(rows[data_set.repo, data_set.split]))
    monkeypatch.setattr(hub, "pin", lambda data_set, kept: data_set)
    return DataSource(kind="hub")


def packed_rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(CODE / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@real
def test_the_hubs_exercises_are_those_of_the_authors_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without solutions, as the hub has them, find these in HumanEval by their tests."""
    rows = {("openai/openai_humaneval", "test"): packed_rows("humaneval/HumanEval.jsonl.gz")}
    mbpp = packed_rows("mbpp/mbpp.jsonl.gz")
    rows["google-research-datasets/mbpp", "train"] = [row for row in mbpp if row["task_id"] > 600]
    rows["google-research-datasets/mbpp", "validation"] = [row for row in mbpp if 510 < row["task_id"] <= 600]
    for name in ("English", "Tagalog"):
        exercises = packed_rows(f"humaneval_xl/python/{name}.jsonl.gz")
        for exercise in exercises:
            del exercise["canonical_solution"]
        rows["iNeil77/HumanEval-XL", name.lower()] = exercises
    source = hub_rows(monkeypatch, rows)
    cases = [("mbpp_search", "train", "en"), ("mbpp_search", "dev", "en"), ("code_retrieval", "test", "tl"),
             ("code_retrieval", "test", "en")]  # fmt: skip
    for name, split, language in cases:
        assert list(read_examples(get_task(name), split, language, source)) == read(CODE, name, split, language)
    # A bitext is called by where it comes from.
    [of_hub], [of_files] = list(read_examples(get_task("code_bitext"), "test", "tl", source)), read(
        CODE, "code_bitext", "test", "tl")  # fmt: skip
    assert dataclasses.replace(of_hub, id=of_files.id) == of_files
    rows["openai/openai_humaneval", "test"] = rows["openai/openai_humaneval", "test"][:100]
    with pytest.raises(UserError, match=r"HumanEval-XL python english\[\d+\]: HumanEval has no problem with its"):
        list(read_examples(get_task("code_retrieval"), "test", "en", source))


def test_methods_of_the_hub_are_divided_as_a_files_lines_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": number, "java": f"int j{number}();", "cs": f"int C{number}();"} for number in range(100)]
    source = hub_rows(monkeypatch, {("google/code_x_glue_cc_code_to_code_trans", "train"): rows})
    origin = find_origin(get_task("code_mlm"), "train", "java", source)
    assert origin.languages == ("csharp", "java")
    records = list(origin.read())
    assert Counter(record.language for record in records) == {"java": 98, "csharp": 98}
    assert [record.text for record in records[:2]] == ["int j0();", "int C0();"]
    dev = list(find_origin(get_task("code_mlm"), "dev", "java", source).read())
    assert sorted(record.text for record in dev) == ["int C49();", "int C99();", "int j49();", "int j99();"]
    few = dataclasses.replace(source, max_text_passages=10)
    assert len(list(find_origin(get_task("code_mlm"), "train", "java", few).read())) == 20
    assert find_origin(get_task("code_mlm"), "train", "java", few).hash != origin.hash


def test_programs_that_nobody_has_executed_are_not_on_the_hub() -> None:
    with pytest.raises(UserError, match="data.code is not set; the hub has not got its files; .*execute its programs"):
        list(read_examples(get_task("verify_mbxp"), "test", "python", DataSource(kind="hub")))


# --- documentation and running text ----------------------------------------------------------------------------------


@real
def test_the_real_documentation_in_latvian() -> None:
    train = read(CODE, "lv_en_search", "train", "lv")
    assert len(train) == 18_749 and train[0].text == "title : Pakalpojumu objektu izveide"
    assert train[0].pool[0].text == "title : Create service objects"
    [pairs] = read(CODE, "lv_en", "dev", "lv")
    assert len(pairs.source) == len(pairs.gold) == 1_000


def test_documentation_of_unequal_lengths_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "codexglue/Text-Text/text-to-text/data/train"
    write(folder / "lv-en.train.lv", "viens\ndivi\n")
    write(folder / "lv-en.train.en", "one\n")
    with pytest.raises(UserError, match=r"lv-en.train.lv has 2 lines and .*lv-en.train.en 1; translations stand on"):
        read(tmp_path, "lv_en_search", "train", "lv")


def test_hub_rows_of_documentation() -> None:
    rows = [{"id": 0, "source": "viens", "target": "one"}]
    for name, split in (("lv_en_search", "train"), ("lv_en", "test")):
        [data_set] = TASKS[name].hub[split]
        context = RowContext(TASKS[name], "lv", Counter(), {})
        [record] = family_of(TASKS[name]).converters[data_set.schema](rows, "data", context)
        texts = (record.text, record.pool[0].text) if name == "lv_en_search" else (
            record.source[0].text, record.pivot[0].text)  # fmt: skip
        assert texts == ("viens", "one")


@real
def test_methods_are_running_text_of_two_languages() -> None:
    origin = find_origin(get_task("code_mlm"), "train", "java", DataSource(code=CODE))
    assert origin.languages == ("csharp", "java")
    records = list(origin.read())
    # Every 50th of 10,295 lines is held out, in each language.
    assert Counter(record.language for record in records) == {"java": 10_090, "csharp": 10_090}


def test_programs_of_ones_own_are_running_text(tmp_path: Path) -> None:
    write(tmp_path / "python.txt", "print(1)\n" * 100)
    write(tmp_path / "de.txt", "Guten Tag\n" * 100)
    origin = find_origin(get_task("mlm"), "train", "en", DataSource(text=tmp_path))
    assert origin.languages == ("de", "python")
    write(tmp_path / "pyhton.txt", "print(1)\n")
    with pytest.raises(UserError, match=r"pyhton.txt: .*no language code .* and no programming language"):
        find_origin(get_task("mlm"), "train", "en", DataSource(text=tmp_path))


def test_noise_in_descriptions_leaves_the_code_of_a_prompt(tmp_path: Path) -> None:
    said = "Addiere eins zu der Zahl und gib das Ergebnis zurück, wie es die Aufgabe verlangt."
    prompt = f'def add(zahl: int) -> int:\n    """ {said}\n    >>> add(1)\n    2\n    """\n'
    rows = [
        {"task_id": f"python/{number}", "language": "python", "prompt": prompt, "entry_point": "add",
         "test": "def check(candidate):\n    assert candidate(1) == 2\n", "description": said,
         "canonical_solution": "    return zahl + 1\n"}
        for number in range(4)
    ]  # fmt: skip
    write(tmp_path / "humaneval_xl/python/German.jsonl", lines(*rows))
    clean, noisy = (read(tmp_path, name, "test", "de") for name in ("humaneval_xl", "humaneval_xl@typo-10"))
    again = read(tmp_path, "humaneval_xl@typo-10", "test", "de")
    assert [record.prompt for record in noisy] == [record.prompt for record in again]
    assert read(tmp_path, "humaneval_xl@typo-0", "test", "de") == clean
    for before, after in zip(clean, noisy):
        assert after.prompt != before.prompt and after.problem.prompt == after.prompt
        assert (after.solution, after.problem.tests) == (before.solution, before.problem.tests)
        head, _, rest = after.prompt.partition('"""')
        assert head == "def add(zahl: int) -> int:\n    " and rest.endswith('    >>> add(1)\n    2\n    """\n')
    assert len({record.prompt for record in noisy}) > 1  # a problem's own errors
