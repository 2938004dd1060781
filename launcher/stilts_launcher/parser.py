"""The parser of the `stilts` command: verbs in groups, each with examples, its options declared when asked for.

`stilts --help` must come at once, and a shell asks for completions at every key. So what is slow to import declares its
options only for the verb that was named.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from stilts_ds import __version__
from stilts_ds.errors import did_you_mean
from stilts_launcher.examples import EXAMPLES
from stilts_launcher.options import Add

VERB = "verb_name"  # where argparse leaves the verb's name


class Parser(argparse.ArgumentParser):
    """A parser whose help lists verbs in groups, and that names the nearest verb to one that is unknown."""

    groups: dict[str, list[tuple[str, str]]]  # title -> names and texts of verbs; the command's own parser only

    def format_help(self) -> str:
        if not hasattr(self, "groups"):
            return super().format_help()
        lines = ["usage: stilts VERB ...    (`stilts VERB --help` has its options and examples)", "", self.description]
        for title, listed in self.groups.items():
            lines += ["", f"{title}:", *(f"  {name:<12}{text}" for name, text in listed)]
        lines += ["", "Examples:", *(f"  {line}" for line in EXAMPLES[""]), "", "options: -h, --help; --version"]
        return "\n".join(map(str, lines)) + "\n"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.dest == VERB and value not in (action.choices or ()):
            self.exit(2, f"error: stilts has no verb {value!r}{did_you_mean(value, action.choices or ())}\n")
        super()._check_value(action, value)


def grouped_parser(groups: Mapping[str, Callable[[Add], None]], verb: str | None) -> Parser:
    """The command's parser; `groups` declare verbs by the title under which help lists them. `verb`: the only one whose
    slow options are declared ("": none; None: all)."""
    parser = Parser(
        prog="stilts",
        description="Intermediate-task training (STILTs) of multilingual encoders: intermediate training, English\n"
        "fine-tuning, zero-shot evaluation on XTREME.",
    )
    parser.groups = {}
    parser.add_argument("--version", action="version", version=f"stilts-ds {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", dest=VERB, required=True)

    def in_group(title: str, declare: Callable[[Add], None]) -> None:
        def add(name: str, run: Callable[[argparse.Namespace], int] | str, text: str) -> argparse.ArgumentParser:
            parser.groups.setdefault(title, []).append((name, text))
            verb_parser = verbs.add_parser(
                name, description=text, epilog=_epilog(name), formatter_class=argparse.RawDescriptionHelpFormatter
            )
            # `module:function` declares options and the verb itself, only where somebody asks for it.
            if not isinstance(run, str):
                verb_parser.set_defaults(verb=run)
            elif verb is None or verb == name:
                module, _, function = run.partition(":")
                getattr(import_module(f"stilts_launcher.{module}"), function)(verb_parser)
            return verb_parser

        declare(add)

    for title, declare in groups.items():
        in_group(title, declare)
    return parser


def _epilog(name: str) -> str:
    return "\n".join(["examples:", *(f"  {line}" for line in EXAMPLES.get(name, ()))])
