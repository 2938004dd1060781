"""Settings of `stilts execute`: from a file, from options of the command, which win, or as they are left out."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from stilts_ds.execute.settings import ExecuteSettings
from stilts_ds.execution import ExecutePart
from stilts_ds.yaml_files import Section, read_section


class SettingsFile(Section):
    """A file of settings: one section."""

    execute: ExecutePart = ExecutePart()


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare the options. None stands for an option that was not given."""
    parser.add_argument("--allow", action="store_true", help="consent to run programs that nobody has read")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="YAML with a section `execute`; options win over it"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="programs at a time (default: 2)")
    parser.add_argument("--seconds", type=float, metavar="S", help="CPU seconds of a program (default: 3)")
    parser.add_argument("--judge", choices=["strict", "benchmark", "exit-status"], help="comparison (default: strict)")
    parser.add_argument("--one-process", action="store_true", help="program and tests together: faster, verdicts weak")
    parser.add_argument("--readable", action="append", default=[], metavar="DIR", help="shown read-only in the sandbox")


def read_settings(given: argparse.Namespace) -> ExecuteSettings:
    """Raises UserError for a faulty file, with the file, the key and the remedy, and for values out of range."""
    section = ExecutePart()
    if given.settings is not None:
        section = read_section(SettingsFile, given.settings).execute
    # Folders add up. Every other option replaces the file's value.
    settings = section.settings(tuple(Path(folder) for folder in given.readable))
    for key in ("workers", "seconds", "judge"):
        if getattr(given, key) is not None:
            settings = replace(settings, **{key: getattr(given, key)})
    # Switches only switch on: consent that a file gives is not withdrawn by a command that does not repeat it.
    if given.allow:
        settings = replace(settings, allow=True)
    if given.one_process:
        settings = replace(settings, apart=False)
    return settings
