"""The scores of one task after one phase: the value of `results/<task>.json`. No torch: a login node can report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, ValidatorFunctionWrapHandler, field_validator

from stilts_ds.run_dir import Provenance, read_json, write_json
from stilts_ds.values import JsonList, Value, check_value

SplitName = Literal["train", "dev", "test"]
Settings = dict[str, str | int | float | None]
ROUNDING = 1e-6  # by which sums of floats may leave the range of a score


class Result(Value):
    """Scores are in percent, by language: `languages` holds every metric, `main` the one that the benchmark averages.

    `missing`: languages without a score, of which `unlabelled` have no labels here. `mean` is None where a language is
    missing, `mean_of_present` only where all are. `settings` is what a reader must know to compare the numbers, and
    `data` the hash of each language's source files; results of earlier versions have none.
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
    provenance: Provenance

    @field_validator("main", mode="wrap")
    @classmethod
    def _holds_scores(cls, raw: Any, check: ValidatorFunctionWrapHandler) -> dict[str, float]:
        fault = "must hold a score from 0 to 100 for each language"
        try:
            scores: dict[str, float] = check(raw)
        except ValidationError:
            raise ValueError(fault) from None
        if not all(-ROUNDING <= score <= 100 + ROUNDING for score in scores.values()):
            raise ValueError(fault)
        return scores

    @classmethod
    def load(cls, path: Path) -> Result:
        """A result that the scorer wrote. Raises UserError naming the file where it is something else."""
        return check_value(cls, read_json(path), path, "delete it and run `stilts score` on the run")

    def save(self, path: Path) -> None:
        unknown = set() if self.data else {"data"}
        write_json(path, {**self.model_dump(exclude=unknown), "provenance": self.provenance.to_json()})
