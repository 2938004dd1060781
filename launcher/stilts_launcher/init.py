"""`stilts init`: a commented recipe, and a cluster profile where one is wanted, after five questions.

Each question has an option, and is not asked where that is given. Without a terminal, or with `--yes`, nothing is asked
and defaults stand for the rest.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stilts_ds.config import NAME, load_recipe
from stilts_ds.errors import UserError, counted
from stilts_ds.run_dir import write_atomically
from stilts_launcher.options import say
from stilts_launcher.profiles import known_profiles

HUB = "hub"
TOY = "toy"
NO_CLUSTER = "none"


@dataclass(frozen=True)
class Question:
    """`key` names the option and the answer."""

    key: str
    text: str
    default: str


QUESTIONS = (
    Question("model", "model: a hub id or a folder", "FacebookAI/xlm-roberta-base"),
    Question(
        "data", f"data: `{HUB}`, `{TOY}`, or folders of intermediate tasks and of XTREME (one may hold both)", HUB
    ),
    Question("compare", "compare with no intermediate training: tasks, one condition each", "mnli"),
    Question("targets", "targets to score", "xnli xquad"),
    Question("cluster", f"cluster: `{NO_CLUSTER}`, or a profile to start from ({{profiles}})", NO_CLUSTER),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=init)
    parser.add_argument("name", help="name of the study; writes NAME.yaml, and NAME-cluster.yaml for a cluster")
    for question in QUESTIONS:
        text = _text(question).replace("%", "%%")
        parser.add_argument(f"--{question.key}", help=f"{text} (default: {question.default})")
    parser.add_argument("--seeds", default="1", help="seeds, such as 1,2,3 (default: 1)")
    parser.add_argument("--yes", action="store_true", help="ask nothing; defaults where no option is given")


def init(given: argparse.Namespace) -> int:
    if not re.fullmatch(NAME, given.name):
        raise UserError(f"{given.name!r} is no name; use letters, digits, '.', '_' and '-'")
    recipe, profile = Path(f"{given.name}.yaml"), Path(f"{given.name}-cluster.yaml")
    asks = sys.stdin.isatty() and not given.yes
    answers = {question.key: _answer(question, getattr(given, question.key), asks) for question in QUESTIONS}
    for path in (recipe, profile):
        if path.exists():  # somebody's work of an hour
            raise UserError(f"{path} exists; give another name, or remove it")
    text = recipe_text(given.name, answers, given.seeds)
    # Read before anything is written: of two files both are made, or none.
    profile_text = "" if answers["cluster"] == NO_CLUSTER else _profile_text(answers["cluster"])
    write_atomically(recipe, text)
    try:
        _check(recipe)
    except UserError:
        recipe.unlink()  # an answer at fault is told by its key; half an answer is no recipe
        raise
    written = [f"wrote {recipe}: {counted(len(text.splitlines()), 'line')}, commented"]
    submit = f"stilts run {recipe}"
    if profile_text:
        write_atomically(profile, profile_text)
        written.append(f"wrote {profile}: edit partition, account and setup")
        submit = f"stilts submit {recipe} --cluster {profile} --dry-run"
    say("\n".join([*written, f"next: stilts plan {recipe}, then {submit}"]))
    return 0


def _text(question: Question) -> str:
    return question.text.format(profiles=", ".join(known_profiles()))


def _answer(question: Question, given: str | None, asks: bool) -> str:
    if given is not None or not asks:
        return question.default if given is None else given
    return input(f"{_text(question)} [{question.default}]: ").strip() or question.default


def _words(text: str) -> list[str]:
    """Words with spaces or commas between them."""
    return [word for word in re.split(r"[\s,]+", text) if word]


def _list(words: Sequence[str]) -> str:
    return f"[{', '.join(words)}]"


def _quoted(text: str) -> str:
    """A text as YAML reads it back, whatever stands in it."""
    return "'" + text.replace("'", "''") + "'" if not re.fullmatch(r"[A-Za-z0-9._/~-]+", text) else text


def data_line(answer: str) -> str:
    """The recipe's `data` section."""
    if answer in (HUB, TOY):
        return f"data: {{source: {answer}}}"
    folders = answer.split()
    if len(folders) > 2:
        raise UserError(
            f"--data: {counted(len(folders), 'folder')}; give one, or those of the intermediate tasks and of XTREME"
        )
    missing = [folder for folder in folders if not Path(folder).expanduser().is_dir()]
    if missing:
        raise UserError(f"--data: there is no folder {missing[0]}; give {HUB}, {TOY}, or folders that are here")
    intermediate, xtreme = _quoted(folders[0]), _quoted(folders[-1])
    return f"data: {{source: local, intermediate: {intermediate}, xtreme: {xtreme}}}"


def recipe_text(name: str, answers: dict[str, str], seeds: str) -> str:
    """The recipe with a comment at each key."""
    conditions = [f"  {task}: [{task}]" for task in _words(answers["compare"]) if task != "none"]
    lines = [
        f"# {name}: written by `stilts init`. `stilts schema` and docs/recipe.md list every key.",
        f"name: {_quoted(name)}",
        "# Any encoder or decoder of the hub, or a folder.",
        f"model: {{name_or_path: {_quoted(answers['model'])}}}",
        "# Where the data are; `stilts plan` names every file that is missing.",
        data_line(answers["data"]),
        "# One row of the table each: the tasks that are trained before the targets. `none` is the baseline.",
        "intermediate:",
        "  none: []",
        *conditions,
        "# What is fine-tuned on English and scored in every language. `stilts tasks` lists them.",
        f"targets: {_list(_words(answers['targets']))}",
        "# Tasks of your own, in any language: docs/own_data.md.",
        "# tasks_from: [my_tasks.yaml]",
        "# A whole study for each seed; several show what chance does.",
        f"seeds: {_list(_words(seeds))}",
        "# Which models stay on disk once nothing needs them: encoders, heads, best or scores.",
        "keep: encoders",
        "# What ZeRO shards; `stilts plan NAME.yaml --gpu-memory 80` says what fits.",
        "engine: {zero_stage: 1}",
    ]
    return "\n".join(lines) + "\n"


def _check(path: Path) -> None:
    """Raise UserError for a recipe that cannot run, naming the key."""
    from stilts_ds.named_tasks import check_tasks

    check_tasks(load_recipe(str(path)))


def _profile_text(name: str) -> str:
    from stilts_launcher.profiles import find_profile

    source = find_profile(name)
    if not source.is_file():
        raise UserError(f"--cluster: there is no profile {source}; give one of {', '.join(known_profiles())}")
    return source.read_text(encoding="utf-8")
