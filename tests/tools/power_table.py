"""How often the report's test errs and how often it finds a real gain, by simulation: the tables of docs/report.md.

    power_table.py [--trials N]     print the tables as Markdown (800 trials a cell: three minutes of one core)

A trial is a test set answered by two conditions with several seeds each. Examples differ in ease, the same for all
models, which is what pairs them. Seeds of one condition differ in their true accuracy by a standard deviation of
`noise` points. Examples of one text share an effect of each condition, of mean 0 over texts. The report's scheme is
that of stilts_ds.report.stats; the schemes beside it are written here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stilts_ds.report.stats import Floats, cluster_sums, difference, generator, over_seeds, ratio_replicates

LEVEL = 0.05
RESAMPLES = 500
COLUMNS_AT_A_TIME = 600  # models answered at once; they share the drawn examples
CONDITIONS = ("none", "ours")


@dataclass(frozen=True)
class World:
    """A test set and the models that answer it; `gain` and `noise` in points of accuracy.

    `noise` is that of `ours`, `noise_of_none` that of the baseline where it is another. `of_text` is the standard
    deviation of the effect that examples of one text share, in log odds.
    """

    seeds: int
    examples: int = 500
    noise: float = 0.0
    gain: float = 0.0
    a_text: int = 1  # examples that stand on one text
    of_text: float = 0.0
    noise_of_none: float | None = None


Test = Callable[[World, Floats], float]  # replicates [1 + R, 2, S] of one trial -> p-value


def answers(world: World, trials: int, rng: np.random.Generator) -> Floats:
    """Right answers, 0 or 1: [examples, trials, 2 conditions, seeds]."""
    texts = world.examples // world.a_text
    ease = rng.normal(1, 3, (world.examples, trials, 1, 1))
    chance = 1 / (1 + np.exp(-ease))
    points = 100 * float((chance * (1 - chance)).mean())  # of accuracy, for a log odd more
    noise = np.array([world.noise if world.noise_of_none is None else world.noise_of_none, world.noise])
    skill = rng.normal(0, 1, (1, trials, 2, world.seeds)) * (noise / points)[:, None]
    skill[:, :, 1] += world.gain / points
    on_text = rng.normal(0, world.of_text, (texts, trials, 2, 1)).repeat(world.a_text, axis=0)
    odds = ease + skill + on_text
    return (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.float64)


def rate(world: World, test: Test, trials: int, whole_texts: bool = False) -> float:
    """How often the test calls the difference significant, in percent."""
    return rates(world, {"": test}, trials, whole_texts)[""]


def rates(world: World, tests: dict[str, Test], trials: int, whole_texts: bool = False) -> dict[str, float]:
    """The same of several tests, on the same trials and the same drawn examples."""
    at_a_time = max(1, min(trials, COLUMNS_AT_A_TIME // (2 * world.seeds)))
    found: dict[str, list[bool]] = {name: [] for name in tests}
    for start in range(0, trials, at_a_time):
        rng = generator("power", world, start)
        now = min(at_a_time, trials - start)
        right = answers(world, now, rng).reshape(world.examples, -1)
        asked = np.ones_like(right)
        if whole_texts:
            text = np.arange(world.examples) // world.a_text
            right, asked = cluster_sums(right, text), cluster_sums(asked, text)
        drawn = ratio_replicates(right, asked, RESAMPLES, rng).reshape(-1, now, 2, world.seeds)
        for name, test in tests.items():
            found[name] += [test(world, drawn[:, trial]) < LEVEL for trial in range(now)]
    return {name: 100 * float(np.mean(significant)) for name, significant in found.items()}


# --- the schemes -----------------------------------------------------------------------------------------------------


def of_the_report(world: World, drawn: Floats) -> float:
    """What the report does: the mean over seeds, moved by Student's t."""
    seeds = {condition: tuple(range(world.seeds)) for condition in CONDITIONS}
    summarised = over_seeds({c: drawn[:, i, :, None] for i, c in enumerate(CONDITIONS)}, seeds, "none")
    return p_of((summarised["ours"] - summarised["none"])[1:, 0])


def median_of_drawn_seeds(world: World, drawn: Floats) -> float:
    """The report's earlier scheme."""
    return _of_drawn_seeds(drawn, np.median)


def mean_of_drawn_seeds(world: World, drawn: Floats) -> float:
    """The plain bootstrap of the mean."""
    return _of_drawn_seeds(drawn, np.mean)


def _of_drawn_seeds(drawn: Floats, summary: Callable[..., Floats]) -> float:
    rows, _, seeds = drawn.shape
    picks = generator("drawn seeds", float(drawn.sum())).integers(0, seeds, drawn.shape)
    picks[0] = np.arange(seeds)
    by_condition = summary(np.take_along_axis(drawn, picks, axis=2), axis=2)
    return p_of(by_condition[:, 1] - by_condition[:, 0])


def examples_alone(world: World, drawn: Floats) -> float:
    """The mean over seeds without anything for the spread between seeds."""
    by_condition = drawn.mean(axis=2)
    return p_of(by_condition[:, 1] - by_condition[:, 0])


def p_of(replicates: Floats) -> float:
    p = difference(replicates, LEVEL).p
    assert p is not None
    return p


SCHEMES: dict[str, Test] = {
    "the report's": of_the_report,
    "mean of drawn seeds": mean_of_drawn_seeds,
    "median of drawn seeds": median_of_drawn_seeds,
    "examples alone": examples_alone,
}


# --- tables ----------------------------------------------------------------------------------------------------------


def table_of_seeds(trials: int) -> list[str]:
    """False positives and power of every scheme; test sets of 500 and of 4,000 examples."""
    lines = ["| examples | noise | seeds | " + " | ".join(SCHEMES) + " |", "|---" * (3 + len(SCHEMES)) + "|"]
    for examples, gain in ((500, 5.8), (4000, 3.0)):
        for noise in (0.0, 1.1, 2.2):
            for seeds in (1, 2, 3, 5):
                world = World(seeds, examples, noise)
                false = rates(world, SCHEMES, trials)
                true = rates(World(seeds, examples, noise, gain), SCHEMES, trials // 2)
                cells = [f"{false[name]:.1f} / {true[name]:.0f}" for name in SCHEMES]
                lines.append(f"| {examples:,} | {noise:g} | {seeds} | {' | '.join(cells)} |")
    return lines


def table_of_texts(trials: int) -> list[str]:
    """The report's test with examples drawn one by one and with whole texts."""
    lines = ["| texts x examples | effect of a text | seeds | whole texts | one by one |", "|---|---|---|---|---|"]
    for texts, a_text in ((500, 3), (240, 5)):
        for of_text in (0.0, 1.0, 2.0):
            for seeds in (1, 3, 5):
                cells = []
                for whole in (True, False):
                    world = World(seeds, texts * a_text, 0.0, 0.0, a_text, of_text)
                    better = World(seeds, texts * a_text, 0.0, 4.0, a_text, of_text)
                    false = rate(world, of_the_report, trials, whole)
                    true = rate(better, of_the_report, trials // 2, whole)
                    cells.append(f"{false:.1f} / {true:.0f}")
                lines.append(f"| {texts} x {a_text} | {of_text:g} | {seeds} | {' | '.join(cells)} |")
    return lines


def table_of_unequal_noise(trials: int) -> list[str]:
    """False positives where the seeds of one condition alone are noisy."""
    lines = ["| seeds | examples | noise of one condition | the report's |", "|---|---|---|---|"]
    for seeds in (2, 3, 5):
        world = World(seeds, 4000, 2.2, noise_of_none=0.0)
        lines.append(f"| {seeds} | 4,000 | 2.2 | {rate(world, of_the_report, trials):.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=800, help="a cell of false positives; half as many for power")
    trials = parser.parse_args().trials
    for table in (table_of_seeds, table_of_texts, table_of_unequal_noise):
        print("\n".join([*table(trials), ""]), flush=True)


if __name__ == "__main__":
    main()
