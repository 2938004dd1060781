"""Ranks of a prepared run, of which only rank 0 may open a source: `no_sources_rank.py RUN SOURCES [--only evaluate]`.

SOURCES are folders, joined by colons. Another rank that opens a file in them ends the run.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from stilts_ds.phases import main

SOURCES = tuple(sys.argv[2].split(":"))


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and str(arguments[0]).startswith(SOURCES):
        raise RuntimeError(f"rank {os.environ['RANK']} opens {arguments[0]}")


if os.environ["RANK"] != "0":
    sys.addaudithook(refuse)
sys.exit(main([sys.argv[1], *sys.argv[3:]]))
