"""Where a phase's curves and final scores go besides the run's files: TensorBoard, Weights & Biases, Trackio.

Each gets the recipe, the curves by step and, once the phase is scored, its test scores by language. A phase is one run
there, under its own id: one that is resumed goes on where it was. Rank 0 alone comes here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from stilts_ds.config import TrackerName
from stilts_ds.errors import UserError

Number = int | float
# One layout for all phases: what belongs together stands in one chart.
LAYOUT = {
    "training": {
        "loss": ["Multiline", ["train/loss", r"train/loss/.*"]],
        "learning rate": ["Multiline", ["train/learning_rate"]],
        "gradient norm": ["Multiline", ["train/grad_norm"]],
        "tokens per second": ["Multiline", ["train/tokens_per_second"]],
    },
    "scores": {"English dev": ["Multiline", [r"eval/.*"]], "test by language": ["Multiline", [r"test/.*"]]},
}


@dataclass(frozen=True)
class Tracking:
    """What is told of a phase: `folder` for TensorBoard's files and `home` for the others'; its study, name and id; the
    recipe as text; and the settings that its scores are compared by."""

    folder: Path
    home: Path | None = None
    study: str = ""
    name: str = ""
    id: str = ""
    recipe: str = ""
    settings: Mapping[str, str | Number] = field(default_factory=dict)
    report_to: tuple[TrackerName, ...] = ("tensorboard",)


class Tracker(Protocol):
    """One place that curves go to."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def scores(self, means: Mapping[str, float], by_language: Mapping[str, float], step: int) -> None:
        """The phase's final scores, of the model that it had after `step` steps. `means` are what it is compared by."""

    def flush(self) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    def __init__(self, tracking: Tracking, done: int | None) -> None:
        # Slow to import.
        from torch.utils.tensorboard import SummaryWriter

        self.tracking = tracking
        # Without purge_step, TensorBoard would show the steps that are done again twice.
        self.writer = SummaryWriter(str(tracking.folder), purge_step=done + 1 if done else None)
        if done == 0:
            # As a code block: its text would be taken for Markdown.
            self.writer.add_text("recipe", f"```yaml\n{tracking.recipe}```")
            self.writer.add_custom_scalars(LAYOUT)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def scores(self, means: Mapping[str, float], by_language: Mapping[str, float], step: int) -> None:
        from torch.utils.tensorboard.summary import hparams

        # Into the phase's own run: `add_hparams` would make another one beside it.
        for summary in hparams(dict(self.tracking.settings), dict(means)):
            self.writer._get_file_writer().add_summary(summary)
        self.scalars({**means, **by_language}, step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    def __init__(self, tracking: Tracking, done: int | None) -> None:
        # It would print a page to the terminal at each phase.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.run = wandb.init(
            project=tracking.study,
            name=tracking.name,
            id=tracking.id,
            dir=str(tracking.home),
            config={**tracking.settings, "recipe": tracking.recipe},
            resume="allow",
            # A process trains one phase after the other.
            reinit="finish_previous",
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def scores(self, means: Mapping[str, float], by_language: Mapping[str, float], step: int) -> None:
        # Not as a step of the curve: they are of the kept model, and steps cannot go back there.
        self.run.summary.update({**means, **by_language})

    def flush(self) -> None:
        """It writes by itself."""

    def close(self) -> None:
        self.run.finish()


class Trackio:
    def __init__(self, tracking: Tracking, done: int | None) -> None:
        import trackio

        self.trackio = trackio
        config = {**tracking.settings, "recipe": tracking.recipe, "phase": tracking.id}
        self.run = trackio.init(project=tracking.study, name=tracking.name, config=config, resume="allow")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.trackio.log(dict(values), step=step)

    def scores(self, means: Mapping[str, float], by_language: Mapping[str, float], step: int) -> None:
        self.trackio.log({**means, **by_language}, step=step)

    def flush(self) -> None:
        """It writes by itself."""

    def close(self) -> None:
        self.trackio.finish()


TRACKERS: dict[TrackerName, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio}


def open_trackers(tracking: Tracking, done: int | None = 0) -> list[Tracker]:
    """A tracker for each name in `report_to`, after `done` steps of an earlier start (None: training is over).

    Raises UserError for a package that is not installed.
    """
    trackers: list[Tracker] = []
    for name in tracking.report_to:
        try:
            trackers.append(TRACKERS[name](tracking, done))
        except ImportError:
            raise UserError(f"report_to: {name} needs a package: pip install 'stilts-ds[{name}]'") from None
    return trackers


def check_trackers(report_to: Sequence[TrackerName]) -> None:
    """Raise UserError for a package that is not installed, before anything is paid for."""
    from importlib.util import find_spec

    for name in report_to:
        if find_spec(name) is None:
            raise UserError(f"report_to: {name} needs a package: pip install 'stilts-ds[{name}]'")
