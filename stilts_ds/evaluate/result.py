"""The scores of one task after one phase: the value of `results/<task>.json`. No torch: a login node can report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, field_validator

from stilts_ds.display import number
from stilts_ds.evaluate.sizes import other_sizes
from stilts_ds.families.registry import main_metric
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import PhaseDir, Provenance, load_value, write_json
from stilts_ds.tasks.registry import get_task
from stilts_ds.values import JsonList, Value

SplitName = Literal["train", "dev", "test"]
Settings = dict[str, str | int | float | None]
# Keys that files of earlier versions lack, and are written again without.
LATER = ("data", "examples", "benchmark", "head", "unexecuted")
ROUNDING = 1e-6  # by which sums of floats may leave the range of a score


class Result(Value):
    """Scores are in percent, by language: `languages` holds every metric, `main` the one that the benchmark averages.

    `missing`: languages without a score, of which `unlabelled` have no labels here. `mean` is None where a language is
    missing, `mean_of_present` only where all are. `settings` is what a reader must know to compare the numbers, and
    `data` the hash of each language's source files. `examples` are those that were scored, by language, `benchmark`
    those of the benchmark's test set, as far as they are known (none for another split, or the toy world). Results of
    earlier versions have none of these three. `head` says with `keep_head` which head was kept ("new": none), and
    `unexecuted` which of the missing languages have programs that nobody has executed.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    task: str
    split: SplitName
    pivot: str
    condition: str
    seed: int
    phase: str
    languages: dict[str, dict[str, float]]
    main: dict[str, float]
    missing: JsonList[str]
    unlabelled: JsonList[str]
    mean: float | None
    mean_of_present: float | None
    settings: Settings
    data: dict[str, str] = {}
    examples: dict[str, int] = {}
    benchmark: dict[str, int] = {}
    head: str = ""
    unexecuted: JsonList[str] = ()
    provenance: Provenance

    @field_validator("main", mode="wrap")
    @classmethod
    def _holds_scores(cls, raw: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> dict[str, float]:
        # A regression task's share of explained variance falls below 0 where the mean would be a better answer.
        signed = info.data.get("task") is not None and main_metric(get_task(info.data["task"])).signed
        fault = f"must hold a score {'of at most' if signed else 'from 0 to'} 100 for each language"
        try:
            # Pydantic would report each language by itself; one sentence names the rule.
            scores: dict[str, float] = check(raw)
        except ValidationError:
            raise ValueError(fault) from None
        lowest = -math.inf if signed else -ROUNDING
        if not all(lowest <= score <= 100 + ROUNDING for score in scores.values()):
            raise ValueError(fault)
        return scores

    @property
    def other_sizes(self) -> dict[str, tuple[int, int]]:
        """Languages with another number of examples than the benchmark's: (scored, the benchmark's)."""
        return other_sizes(self.examples, self.benchmark)

    @property
    def unknown_sizes(self) -> tuple[str, ...]:
        """Languages whose number of examples, or the benchmark's, nobody knows here."""
        known = self.examples.keys() & self.benchmark.keys()
        return tuple(language for language in self.main if language not in known)

    @property
    def whole(self) -> bool:
        """Whether each language is there and none is known to have other examples than the benchmark's."""
        return self.mean is not None and not self.other_sizes

    @classmethod
    def load(cls, path: Path) -> Result:
        """A result that the scorer wrote. Raises UserError naming the file where it is something else."""
        return load_value(cls, path, "delete it and run `stilts score` on the run")

    def save(self, path: Path) -> None:
        content = {**self.model_dump(), "provenance": self.provenance.to_json()}
        # A file of an earlier version gets no empty keys when it is saved again.
        unknown = [key for key in LATER if not content[key]]
        write_json(path, {key: value for key, value in content.items() if key not in unknown})


def scores_in_words(folder: PhaseDir, phase: Phase) -> list[str]:
    """What came out of a phase so far: `dev 78.2`, the score that chose its model, and the means of its targets."""
    best = folder.read_status().best
    words = [] if best is None else [f"dev {number(best.selection)}"]
    for task in phase.evaluate:
        path = folder.result(task)
        mean = Result.load(path).mean_of_present if path.exists() else None
        words += [] if mean is None else [f"{task} {number(mean)}"]
    return words
