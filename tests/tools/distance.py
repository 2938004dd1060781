"""How far two finished runs of one study lie apart whose starts had other numbers of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fire import curve, status
from safetensors.torch import load_file

# Sums over ranks are rounded otherwise for each number of them, and each step builds on the last.
LOSS_APART = 1e-4


@dataclass(frozen=True)
class Distance:
    """How far a run whose starts had other numbers of ranks ended from one that nothing disturbed: the largest relative
    difference of a loss, and the largest of a weight of the phases that chose the same step."""

    loss: float
    weight: float
    other_best: int  # phases that chose another step
    faults: tuple[str, ...]  # curves without the same steps, or further apart than LOSS_APART


def distance(run: Path, quiet: Path) -> Distance:
    """Compare two finished runs of one study. Raises FileNotFoundError where one has no such phase."""
    losses, weights, faults, other_best = [0.0], [0.0], [], 0
    for folder in sorted((quiet / "phases").iterdir()):
        ours = run / "phases" / folder.name
        curves = [losses_of(of_run / "metrics.jsonl") for of_run in (ours, folder)]
        if curves[0].keys() != curves[1].keys():
            faults.append(f"{folder.name}/curve")
            continue
        apart = [abs(curves[0][step] - loss) / abs(loss) for step, loss in curves[1].items()]
        losses += apart
        faults += [f"{folder.name}/curve"] if max(apart, default=0.0) > LOSS_APART else []
        best = [(status(of_run).get("best") or {}).get("step") for of_run in (ours, folder)]
        if best[0] != best[1]:
            other_best += 1
        elif best[0] is not None:
            weights.append(weights_apart(ours, folder))
    return Distance(max(losses), max(weights), other_best, tuple(faults))


def losses_of(path: Path) -> dict[int, float]:
    return {record["step"]: record["train/loss"] for record in curve(path) if "train/loss" in record}


def weights_apart(ours: Path, quiet: Path) -> float:
    """The largest difference of a weight that two phases exported."""
    largest = 0.0
    for name in ("encoder/model.safetensors", "heads.safetensors"):
        if (quiet / name).exists():  # without best models kept, there are none
            theirs = load_file(quiet / name)
            for key, weight in load_file(ours / name).items():
                largest = max(largest, float((weight - theirs[key]).abs().max()))
    return largest
