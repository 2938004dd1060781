"""`stilts` with one rank that is killed by SIGKILL at a place (KILLED_AT: `<function> <call>`) and that takes its dev
scores from SCORES, a JSON object by step: an evaluation that is done again can give another number than before.

killed_rank.py FOLDER ARGUMENTS... (helpers/forked.py); the rank is forked from this process, with what is changed here.
"""

from __future__ import annotations

import itertools
import json
import os
import runpy
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stilts_ds import export, phase_setup
from stilts_ds.engine.progress import SELECTION, Progress

PLACES: dict[str, Any] = {  # the process is killed when a function returns
    "withdraw": phase_setup,
    "export_model": phase_setup,
    "save_encoder": export,
    "_link": export,
    "publish": phase_setup,
}


def kill_after(name: str, at: int) -> None:
    module, calls = PLACES[name], itertools.count(1)
    whole = getattr(module, name)

    def killed(*arguments: Any, **named: Any) -> None:
        whole(*arguments, **named)
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, killed)


def take_scores(by_step: Mapping[str, float]) -> None:
    whole = Progress.record_evaluation

    def record(self: Progress, scores: dict[str, float]) -> bool:
        scores[SELECTION] = by_step[str(self.step)]
        return whole(self, scores)

    Progress.record_evaluation = record  # type: ignore[method-assign, assignment]


take_scores(json.loads(os.environ["SCORES"]))
if "KILLED_AT" in os.environ:
    place, call = os.environ["KILLED_AT"].split()
    kill_after(place, int(call))
runpy.run_path(str(Path(__file__).with_name("warm_stilts.py")))
