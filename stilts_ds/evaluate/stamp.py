"""What a prediction file was made from, kept in a file beside it: `.<name>.inputs.json`.

A file is predicted again when this changes, and its scores bear these settings, whatever the recipe says by then.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stilts_ds.config import EvaluationPart
from stilts_ds.data.split import Split
from stilts_ds.errors import UserError
from stilts_ds.families.registry import settings_of_others
from stilts_ds.retired import without_retired
from stilts_ds.run_dir import PhaseDir, RunDir, hash_file, hash_json, load_value, write_json
from stilts_ds.values import Value

# What says where and how fast predictions are made, and not which ones.
NO_INPUTS = {"languages", "splits", "per_device_eval_batch_size"}
# Settings that earlier versions lacked, and what these did: files that they predicted stay valid.
LATER = {"retrieval_centering": "none"}


class Stamp(Value):
    """The inputs of one prediction file, and the hashes of the files that were written from them.

    `weights` is the hash of the model that predicted (stilts_ds.lineage), `settings` are those of the recipe's
    `evaluation` section, `data` stands for the files that the examples came from, and `files` names what was written by
    its path inside the run. `chosen` is what was chosen for the prediction on other examples than its own (the layer of
    a sweep).
    """

    phase: str
    weights: str = ""  # earlier versions of this program kept none
    settings: dict[str, Any]
    split: str
    data: str
    files: dict[str, str]
    chosen: dict[str, int] = {}

    @classmethod
    def of(cls, phase_id: str, weights: str, evaluation: EvaluationPart, split: Split, chosen: dict[str, int]) -> Stamp:
        """The inputs of a file that is yet to be written."""
        unused = {name for name, value in LATER.items() if getattr(evaluation, name) == value}
        settings = evaluation.model_dump(mode="json", exclude=NO_INPUTS | unused | settings_of_others(split.family))
        data = hash_json([split.hash])
        return cls(
            phase=phase_id, weights=weights, settings=settings, split=split.name, data=data, files={}, chosen=chosen
        )

    @classmethod
    def load(cls, predictions: Path) -> Stamp:
        """The stamp of a prediction file. Raises UserError naming its file where it is missing or damaged."""
        path = _stamp_path(predictions)
        remedy = "delete it and run `stilts evaluate` on the run, it predicts again"
        if not path.exists():
            raise UserError(f"{predictions} was not predicted by `stilts evaluate`: {path.name} is missing; {remedy}")
        stamp = load_value(cls, path, remedy)
        return stamp.model_copy(update={"settings": without_retired(stamp.settings)})

    def save(self, run: RunDir, predictions: Path, written: list[Path]) -> None:
        """Write the stamp of files that are there now."""
        files = {path.relative_to(run.root).as_posix(): hash_file(path) for path in written if path.exists()}
        self.model_copy(update={"files": files}).write(_stamp_path(predictions))

    def write(self, path: Path) -> None:
        # As earlier versions wrote it, where nothing was chosen.
        write_json(path, self.model_dump(exclude=None if self.chosen else {"chosen"}))

    def is_of(self, run: RunDir, predictions: Path) -> bool:
        """Whether a prediction file was made from these inputs and is still what was written."""
        try:
            kept = Stamp.load(predictions)
            whole = all(hash_file(run.root / name) == digest for name, digest in kept.files.items())
        except (UserError, OSError):  # missing or damaged: predict it again
            return False
        names_itself = predictions.relative_to(run.root).as_posix() in kept.files
        # A stamp that was copied from another file names that one, and not its neighbour here.
        return names_itself and whole and kept == self.model_copy(update={"files": kept.files})

    def evaluation(self, predictions: Path) -> EvaluationPart:
        """The settings as a recipe's section. Raises UserError naming the file where they are none."""
        try:
            return EvaluationPart(**self.settings)
        except (ValidationError, TypeError) as error:
            fault = str(error).split("\n")[0]
            raise UserError(
                f"{_stamp_path(predictions)} holds no settings of this version ({fault}); run `stilts evaluate`"
            ) from None


def complete_stamps(folder: PhaseDir, weights: str) -> None:
    """Write the hash of a phase's model into stamps that an earlier version of this program left without it. Called
    before anything trains, while the model is still the one that predicted."""
    for path in sorted(folder.predictions.glob("*/.*.inputs.json")) if weights else []:
        with suppress(UserError):  # a damaged stamp is predicted again
            stamp = load_value(Stamp, path, "")
            if not stamp.weights:
                stamp.model_copy(update={"weights": weights}).write(path)


def _stamp_path(predictions: Path) -> Path:
    return predictions.with_name(f".{predictions.name}.inputs.json")
