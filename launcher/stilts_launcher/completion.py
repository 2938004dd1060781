"""Completion in bash, zsh and fish, by argcomplete: verbs, options, and names of recipes, tasks, runs and phases."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.shipped import shipped_recipes

# Set by the script that `stilts completion` prints, while a shell waits for names.
COMPLETING = "_ARGCOMPLETE"
SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def print_script(given: argparse.Namespace) -> int:
    import argcomplete

    # Defaults of the shell where nothing else stands, such as names of files.
    print(argcomplete.shellcode(["stilts"], True, given.shell))
    return 0


def completed_verb() -> str:
    """The verb on the line that is being completed, "" before it."""
    words = os.environ.get("COMP_LINE", "").split()
    return words[1] if len(words) > 1 else ""


def complete(parser: argparse.ArgumentParser) -> int:
    """Answer the shell. Ends the process."""
    import argcomplete

    for action in _actions(parser):
        if action.dest in NAMES:
            action.completer = NAMES[action.dest]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb_parser in action.choices.values():
                yield from _actions(verb_parser)


def _recipes(prefix: str, **context: Any) -> list[str]:
    return [*shipped_recipes(), *_files(prefix, ".yaml")]


def _files(prefix: str, suffix: str) -> list[str]:
    """Folders, and files of a kind, that begin with what was typed."""
    folder, _, start = prefix.rpartition("/")
    top = Path(folder or ("/" if prefix.startswith("/") else "."))
    before = f"{folder}/" if "/" in prefix else ""
    names = [entry for entry in top.glob(f"{start}*") if entry.is_dir() or entry.suffix == suffix]
    return [f"{before}{entry.name}{'/' if entry.is_dir() else ''}" for entry in names]


def _runs(prefix: str, **context: Any) -> list[str]:
    """Runs by name, as they lie in `runs`, and folders anywhere."""
    return [*(path.parent.name for path in Path("runs").glob("*/recipe.yaml")), *_files(prefix, "/")]


def _phases(prefix: str, parsed_args: argparse.Namespace, **context: Any) -> list[str]:
    """Names of the phases of the run, or of the recipe's run, that stands on the line."""
    from stilts_ds.plan_file import Plan

    path = getattr(parsed_args, "run_dir", None)
    if path is None:
        return []
    try:
        return [phase.label for phase in Plan.load(Path(path) / "plan.json").phases]
    except UserError:  # no plan yet, so no names
        return []


def _tasks(prefix: str, **context: Any) -> list[str]:
    from stilts_ds.tasks.registry import TASKS

    return list(TASKS)


# By the name of an argument, whatever verb it belongs to.
NAMES: dict[str, Callable[..., list[str]]] = {
    "recipe": _recipes,
    "run_dir": _runs,
    "phase": _phases,
    "task": _tasks,
    "targets": _tasks,
}
