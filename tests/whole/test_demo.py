"""The quickstart as README has it, whole: what it shows, and that nothing of it is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import stilts

pytestmark = [pytest.mark.processes, pytest.mark.slow]


def test_the_quickstart_shows_a_screen_or_two_and_does_not_warn_about_itself(tmp_path: Path) -> None:
    shown = stilts("demo", cwd=tmp_path, timeout=7200).splitlines()
    assert len(shown) <= 80 and shown[-1].startswith("done in ") and any("| gain over none |" in line for line in shown)
    said = "\n".join(shown)
    for doubt in ("at chance", "head is new", "sees examples that"):
        assert doubt not in said
    log = (tmp_path / "runs/quickstart/logs/rank-0.log").read_text(encoding="utf-8")
    # What the console leaves out stands in the log: every step line, and the doubts of a study this small.
    assert (
        len(log.splitlines()) > 300 and "is at chance" in log and log.splitlines()[-1].split(" ", 1)[1][:7] == "done in"
    )
