"""RP@k, RD@k and RR@k of files of verdicts: one of the prompts as they are, and one for each way to perturb them.

Legend: X problems, n samples, S perturbed prompts of a problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.errors import UserError
from stilts_ds.evaluate.recode import Bools, Robustness, robustness
from stilts_ds.execute.programs import Verdict, read_verdicts

KS = (1, 10, 100)
WITHHELD = "withheld"

Samples = Mapping[str, Mapping[int, Verdict]]  # problem -> sample -> its verdict


def robustness_of_files(nominal: Path, perturbed: Sequence[Path]) -> dict[int, Robustness]:
    """k -> how robust a model's samples are, for each k up to the number of samples of a problem.

    Raises UserError for files of other problems or samples, and for verdicts that are withheld: what was not executed
    is neither right nor wrong.
    """
    clean = _samples(nominal)
    numbers = {len(samples) for samples in clean.values()}
    # pass@k with n of its own for each problem would weigh them by chance.
    if len(numbers) > 1:
        raise UserError(f"{nominal}: problems have {min(numbers)} to {max(numbers)} samples; give all as many")
    # Sample i of one prompt is compared with sample i of another: so both files must have it.
    tables = [_table(_checked(_samples(path), path, clean, nominal)) for path in perturbed]
    first, others = _table(clean), np.stack(tables, axis=1)  # [X, n] and [X, S, n]
    return {k: robustness(first, others, k) for k in KS if k <= first.shape[1]}


def robustness_table(by_k: Mapping[int, Robustness], perturbed: int) -> str:
    """A Markdown table in percent; `-` for a drop of nothing."""
    lines = [f"| k | pass@k | RP{perturbed}@k | RD{perturbed}@k | RR{perturbed}@k |", "|--:|--:|--:|--:|--:|"]
    for k, values in by_k.items():
        drop = "-" if values.drop is None else f"{100 * values.drop:.2f}"
        shares = f"{100 * values.passed:.2f} | {100 * values.robust:.2f} | {drop} | {100 * values.relative:.2f}"
        lines.append(f"| {k} | {shares} |")
    return "\n".join(lines)


def _samples(path: Path) -> Samples:
    samples: dict[str, dict[int, Verdict]] = {}
    for verdict in read_verdicts(path):
        if verdict.verdict == WITHHELD:
            raise UserError(
                f"{path}: {verdict.id!r}, sample {verdict.sample} was withheld ({verdict.reason}); execute it where "
                "its toolchain is"
            )
        samples.setdefault(verdict.id, {})[verdict.sample] = verdict
    return {name: samples[name] for name in sorted(samples)}


def _checked(samples: Samples, path: Path, clean: Samples, nominal: Path) -> Samples:
    """Samples of the same problems under the same numbers as the clean ones."""
    for name in sorted({*clean, *samples}):
        if clean.get(name, {}).keys() != samples.get(name, {}).keys():
            raise UserError(
                f"{path}: {name!r} has samples {sorted(samples.get(name, ()))}, and {sorted(clean.get(name, ()))} in "
                f"{nominal}; execute the same problems, with the same numbers of samples"
            )
    return samples


def _table(samples: Samples) -> Bools:
    """Whether each sample passes, [X, n], in the order of the problems' names and the samples' numbers."""
    return np.array([[by_number[n].passed for n in sorted(by_number)] for by_number in samples.values()], bool)
