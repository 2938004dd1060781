"""What several verbs have in common: options, the recipe that they name, and how they print."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stilts_ds.display import CONSOLE
from stilts_ds.errors import printable
from stilts_ds.shipped import shipped_recipes

if TYPE_CHECKING:
    from stilts_ds.config import Recipe

# Declares a verb: its name, what runs it (or `module:function`, which declares the rest), its text.
Add = Callable[[str, Callable[[argparse.Namespace], int] | str, str], argparse.ArgumentParser]


RUN_HELP = "folder of the run, or its name in runs/"
PHASES_HELP = "only phases whose name (none/seed1/xnli) or id holds this"


def run_folder(text: str) -> Path:
    """The folder of a run that is named by its path, or by its name where `runs` has it."""
    by_name = Path("runs") / text
    return by_name if not Path(text).exists() and by_name.is_dir() else Path(text)


def names_of(text: str) -> list[str]:
    """Names with commas between them."""
    return [name for name in text.split(",") if name]


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help=recipes_help())
    add_overrides(parser)


def recipes_help() -> str:
    return f"a shipped recipe ({', '.join(shipped_recipes())}) or a YAML file"


def add_overrides(parser: argparse.ArgumentParser) -> None:
    overrides = "recipe settings, such as engine.zero_stage=3 seeds=[1,2]; `stilts schema` lists them all"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=overrides)


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """How much the console shows while ranks work; their log files have all of it."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-q", "--quiet", action="store_true", help="show warnings and the result only")
    how.add_argument("-v", "--verbose", action="store_true", help="show every line of the log")


def set_verbosity(given: argparse.Namespace) -> None:
    """Hand `-q` or `-v` on to the ranks, which read it when they set up their logs."""
    # Left as it was without either: whoever starts `stilts` may have set the variable.
    if getattr(given, "quiet", False):
        os.environ[CONSOLE] = "quiet"
    if getattr(given, "verbose", False):
        os.environ[CONSOLE] = "all"


def recipe_of(given: argparse.Namespace) -> Recipe:
    # Not at the top: reading recipes takes longer to import than `stilts --help` takes in all.
    from stilts_launcher.recipes import resolved_recipe

    return resolved_recipe(given.recipe, given.overrides)


def say(text: str) -> None:
    """Print what may quote a stranger's file: names, examples, states."""
    print(printable(text), flush=True)


def add_test_options(parser: argparse.ArgumentParser) -> None:
    """How differences are tested."""
    help_text = "of the paired bootstrap (default: as many as the number of comparisons needs)"
    parser.add_argument("--resamples", type=resamples_of, default=0, metavar="N", help=help_text)
    parser.add_argument("--level", type=share_of, default=0.05, metavar="P", help="of corrected significance")


def resamples_of(text: str) -> int:
    value = int(text)
    # The smallest p-value is 2 / (resamples + 1): fewer than 100 can pass no level below 0.02.
    if value < 100:
        raise argparse.ArgumentTypeError("give at least 100 resamples")
    return value


def share_of(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("give a share between 0 and 1, such as 0.05")
    return value


def seconds_of(text: str) -> float:
    value = float(text)
    # The launcher is asked each time, so a slip such as 0 must not ask it without a pause.
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError("give seconds from 0.1 to 86400")
    return value
