"""What a trial measured: the value of its trial.json. `stilts_ds.trial` writes it, the launcher reads it. No torch."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pydantic import Field

from stilts_ds.run_dir import load_value, write_json
from stilts_ds.values import JsonList, Value


class RankPeaks(Value):
    """Peak bytes of one rank: resident on the host, and on a GPU what the allocator gave out and what it holds.

    `started_with`: resident before the model was loaded.
    """

    host: int
    device: int | None = None
    device_reserved: int | None = None
    # What Python and the libraries take: memory that no model size explains.
    started_with: int


class RankRate(Value):
    """Real tokens a second of a rank that has as many examples of each step as one of so many `ranks` has."""

    ranks: int = Field(ge=1)
    examples: int = Field(ge=1)
    tokens_per_second: float = Field(gt=0)


class Trial(Value):
    """A few steps of one phase: `seconds` and real `tokens` (of all ranks) of each of the timed `steps`.

    `parameters` train; `stage` is ZeRO's; `device` is a GPU's name or `CPU`. `rates` are those of a rank by how many
    ranks share a step, from one on; trials of earlier versions have none.
    """

    parameters: int
    steps: JsonList[int]
    seconds: JsonList[float] = Field(min_length=1)
    tokens: JsonList[int] = Field(min_length=1)
    warm_up_seconds: float
    phase: str
    stage: int
    dtype: str
    device: str
    ranks: JsonList[RankPeaks] = Field(min_length=1)
    rates: JsonList[RankRate] = ()

    @property
    def on_cpu(self) -> bool:
        return self.device == "CPU"

    @property
    def tokens_per_second(self) -> float:
        """Of all ranks together."""
        return sum(self.tokens) / sum(self.seconds)

    @property
    def peak(self) -> int:
        """Bytes of the fullest rank: of the device, or resident in host memory where ranks are CPUs."""
        return max(rank.host if rank.device is None else rank.device for rank in self.ranks)

    @property
    def knee(self) -> RankRate | None:
        """The most ranks of which each still does at least half of what one rank does that has whole steps to itself;
        None without `rates`.

        Of more, each step has less work for a rank than what a step costs whatever its examples are.
        """
        if not self.rates:
            return None
        least = self.rates[0].tokens_per_second / 2
        paying = itertools.takewhile(lambda rate: rate.tokens_per_second >= least, self.rates)
        return list(paying)[-1]

    @classmethod
    def load(cls, path: Path) -> Trial:
        """What a trial wrote. Raises UserError naming the file where it is something else."""
        return load_value(cls, path, "start the trial again")

    def save(self, path: Path) -> None:
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        # A CPU rank has no device keys, rather than null; and a trial of an earlier version is written as it was.
        return self.model_dump(exclude_none=True, exclude=None if self.rates else {"rates"})
