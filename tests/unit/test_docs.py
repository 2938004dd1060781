"""The documents say what the code does: recipe keys and defaults, commands, and links."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import data_files
import pytest
import ranks
import stilts_kernels
import yaml
from pydantic import BaseModel
from stilts_launcher.cli import build_parser

import stilts_ds
from stilts_ds.config import Recipe, TrainingPart, load_recipe, parse_recipe
from stilts_ds.data.reader import read_examples
from stilts_ds.shipped import shipped_recipes
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import TASKS
from stilts_ds.yaml_files import apply_override

ROOT = ranks.ROOT
RECIPE_PAGE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("slurm/*.md")])
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def schema_keys(part: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Dotted key -> its default as the page writes it."""
    found: dict[str, str] = {}
    for name, field in part.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= schema_keys(field.annotation, f"{prefix}{name}.")
        elif field.is_required():
            found[prefix + name] = "required"
        else:
            default: Any = field.get_default(call_default_factory=True)
            found[prefix + name] = f"`{json.dumps(default, default=str)}`"
    return found


def test_recipe_page_names_every_key_with_its_default() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \|", RECIPE_PAGE, re.MULTILINE)
    expected = {**schema_keys(Recipe), **schema_keys(TrainingPart)}
    assert dict(rows) == expected
    assert len(rows) == len(expected), "a key stands in two tables"


def test_recipe_example_is_a_recipe() -> None:
    [example] = [text for kind, text in BLOCK.findall(RECIPE_PAGE) if kind == "yaml"]
    assert parse_recipe(yaml.safe_load(example), "docs/recipe.md").evaluation.retrieval_layer == 14


def test_data_files_page_is_what_the_literals_make() -> None:
    written = (ROOT / "docs" / "data_files.md").read_text(encoding="utf-8")
    assert written == data_files.page(), "run `python tests/tools/data_files.py > docs/data_files.md`"


def test_protocol_page_names_every_task_of_the_study() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert [name for name in TASKS if f"`{name}`" not in page] == []


def commands() -> list[tuple[str, list[str]]]:
    """Every `stilts` command line in a code block, with the page that it stands in."""
    found = []
    for page in PAGES:
        for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            lines = text.replace("\\\n", " ").split("\n") if kind in ("", "sh", "bash") else []
            found += [
                (page.name, words[words.index("stilts") + 1 :])
                for words in (shlex.split(line, comments=True) for line in lines)
                if "stilts" in words
            ]
    return found


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else value[0])
def test_commands_on_the_pages_are_understood(page: str, words: list[str]) -> None:
    given = build_parser().parse_args(words)
    recipe = getattr(given, "recipe", None)
    if recipe in shipped_recipes():
        load_recipe(recipe, given.overrides)
    elif recipe is not None:
        values: dict[str, Any] = {"name": "any", "targets": ["xnli"]}
        for override in given.overrides:
            apply_override(values, override)
        parse_recipe(values, page)


def test_the_site_has_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", text, flags=re.MULTILINE))
    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_the_api_page_has_every_public_name() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    # Options are indented, or the page prints them and takes none.
    members = re.search(r"::: stilts_kernels\n    options:\n      members: \[(.*)\]\n", text)
    assert members is not None and {*members[1].split(", "), "topk", "mine"} == set(stilts_kernels.__all__)
    documented = set(re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE))
    assert {*stilts_ds._SURFACE.values(), "stilts_kernels.dispatch"} <= documented


GENERATED = {
    "data_files.md",
    "models.md",
    "transcript.md",
    "fault_campaign.md",
}  # by programs, which write a paragraph a line


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=lambda page: page.name)
def test_prose_is_wrapped(page: Path) -> None:
    """A change of one word is a change of one line; tables and code are as wide as they are."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    prose = [line for line in text.split("\n") if not line.startswith(("|", "    "))]
    # A word alone, such as a link, cannot be broken.
    assert [line for line in prose if len(line) > 120 and " " in line.strip()[:100]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []
    if page.is_relative_to(ROOT / "docs"):
        # The site is built of this folder alone.
        away = [link for link in targets if not (page.parent / link).resolve().is_relative_to(ROOT / "docs")]
        assert away == []


def test_the_metric_that_the_contributing_page_adds_counts() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [code] = [text for kind, text in BLOCK.findall(page) if kind == "python" and "def count_class" in text]
    names: dict[str, Any] = {}
    exec(f"from stilts_ds.families.metrics import Units, ratio_metric\n{code}", names)
    gold, predicted = ["entailment", "neutral", "entailment"], ["entailment", "entailment", "neutral"]
    metric = names["RECALL"]
    assert metric.score(metric.count(gold, predicted, "en")) == 50.0


def test_the_task_that_the_contributing_page_adds_can_be_read(tmp_path: Path) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [literal] = [text for kind, text in BLOCK.findall(page) if kind == "python" and "Task(" in text]
    names: dict[str, Any] = {}
    exec(f"from stilts_ds.tasks.targets import *\nfrom stilts_ds.tasks.targets import Local, Task\n{literal}", names)
    task = names["MY_NLI"]
    (tmp_path / "my_nli").mkdir()
    (tmp_path / "my_nli" / "test-quy.tsv").write_text("a\tb\tneutral\n")
    [record] = read_examples(task, "test", "quy", DataSource(xtreme=tmp_path))
    assert (record.text_a, record.text_b, record.label) == ("a", "b", "neutral")
