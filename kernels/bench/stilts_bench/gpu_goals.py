"""What a GPU is to reach, computed from the results of `stilts bench gpu`: one value a goal, and a table of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]  # by the name of a step
FAILED = "failed"  # a result's key: why there is none


@dataclass(frozen=True)
class Goal:
    """`value(results)` is what was measured, and raises KeyError or TypeError where something of it is missing."""

    name: str
    what: str
    unit: str
    value: Callable[[Results], float | None]
    least: float | None = None
    most: float | None = None

    @property
    def bound(self) -> str:
        if self.least is not None:
            return f">= {self.least:g}"
        return "" if self.most is None else f"<= {self.most:g}"

    def is_reached(self, value: float) -> bool:
        enough = self.least is None or value >= self.least
        return enough and (self.most is None or value <= self.most)

    def row(self, results: Results) -> tuple[str, ...]:
        """Name, what it is, what was measured, the bound, and whether it is reached ("" where nothing says)."""
        try:
            value = self.value(results)
        except (KeyError, TypeError, ZeroDivisionError):  # a step that failed or was not done, or has no such figure
            value = None
        if value is None:
            return (self.name, self.what, "not measured", self.bound, "")
        verdict = ""
        if self.bound:
            verdict = "reached" if self.is_reached(value) else "missed"
        return (self.name, self.what, f"{value:.3g} {self.unit}".strip(), self.bound, verdict)


def bare(result: Results) -> float:
    """The highest rate of a bare product in a case's methods, GFLOP/s."""
    return max(method["gflops"] for name, method in result["methods"].items() if name.endswith("alone"))


def share(step: str) -> Callable[[Results], float]:
    """Ours against the bare product of the same case."""
    return lambda results: results[step]["methods"]["ours"]["gflops"] / bare(results[step])


def over_torch(step: str) -> Callable[[Results], float]:
    def ratio(results: Results) -> float:
        methods = results[step]["methods"]
        [torchs] = [method for name, method in methods.items() if name.startswith("torch")]
        return torchs["median_s"] / methods["ours"]["median_s"]

    return ratio


def of_training(step: str, key: str, over: str = "") -> Callable[[Results], float]:
    return lambda results: results[step][key] / (results[over][key] if over else 1)


def loss_gap(step: str) -> Callable[[Results], float]:
    return lambda results: abs(results[step]["first_loss"] - results["train"]["first_loss"])


def float32_rate(results: Results) -> float:
    return results["topk-float32"]["methods"]["ours"]["gflops"] / 1e3 / results["matmul"]["tflops"]


def float32_certified(results: Results) -> float:
    return 100 * results["topk-float32"]["certified_rows"] / results["topk-float32"]["searched_rows"]


def two_way_time(results: Results) -> float:
    return 1 / share("two-way")(results)


def corpus_seconds(results: Results) -> float:
    return float(results["mining-400k"]["methods"]["ours"]["median_s"])


def of_screens(key: str) -> Callable[[Results], float]:
    """bfloat16 over float16."""
    return lambda results: (
        results["variants"]["screens"]["bfloat16"][key] / results["variants"]["screens"]["float16"][key]
    )


def of_panels(results: Results) -> float:
    return results["variants"]["panels"]["torch"] / results["variants"]["panels"]["kernel"]


def of_configurations(way: str) -> Callable[[Results], float]:
    """The default over the fastest candidate."""

    def ratio(results: Results) -> float:
        times = results["variants"]["configurations"][way].values()
        measured = [time for time in times if not isinstance(time, str)]
        # Candidates stand in the order of `configs.candidates`, the default first.
        return measured[0] / min(measured)

    return ratio


def of_head(key: str) -> Callable[[Results], float]:
    """Logits of all tokens over ours."""
    return lambda results: results["head"]["all_tokens"][key] / results["head"]["ours"][key]


def zero_goals(stage: int) -> tuple[Goal, ...]:
    name, step = f"ZeRO {stage}", f"zero{stage}"
    return (
        Goal(name, "tokens a second", "/s", of_training(step, "tokens_per_second")),
        Goal(name, "peak memory", "GiB", of_training(step, "peak_gib")),
        Goal(name, "first loss, distance from stage 1", "", loss_gap(step), most=0.02),
    )


RATE = "tokens_per_second"
SEARCHES_ONE_WAY = (
    Goal("H1", "one way, k 4, of the matmul rate", "", share("topk-k4"), least=0.85),
    Goal("H1", "one way, k 4, times torch's matmul + topk", "", over_torch("topk-k4"), least=3),
    Goal("H1", "one way, k 16, of the matmul rate", "", share("topk-k16"), least=0.80),
)
SEARCHES_OF_FLOAT32 = (
    Goal("H2", "float32 rows, certified, of the bf16 matmul rate", "", float32_rate, least=1.0),
    Goal("H2", "float32 rows, certified rows", "%", float32_certified, least=99.9),
)
SEARCHES_TWO_WAYS = (
    Goal("H3", "two ways, margin and matching, time of one matmul", "", two_way_time, most=1.25),
    Goal("H3", "400,000 sentences a side", "s", corpus_seconds, most=0.55),
)
STEPS = (
    Goal("H4", "tokens of XLM-R Large's shape a second", "/s", of_training("train", RATE)),
    Goal("H4", "the same, of the matmul rate", "", of_training("train", "mfu"), least=0.5),
    Goal("H4", "times padded rows of the same examples", "", of_training("train", RATE, "train-padded"), least=4.0),
    Goal("H5", "tokens a second of steps of 24 examples", "/s", of_training("train-24", RATE)),
)
HEAD = (
    Goal("H6", "head: memory of all-token logits over ours", "", of_head("extra_bytes"), least=30),
    Goal("H6", "head: time of all-token logits over ours", "", of_head("seconds"), least=5),
)
VARIANTS = (
    Goal("A/B", "one way, k 4, float32 rows: time with a bfloat16 screen over float16", "", of_screens("seconds")),
    Goal("A/B", "the same: pairs scored", "", of_screens("survivors_per_row")),
    Goal("A/B", "panels: time by torch's operations over one kernel", "", of_panels),
    Goal("A/B", "search kernel, one way: time of the default over the best", "", of_configurations("one way")),
    Goal("A/B", "search kernel, two ways: the same", "", of_configurations("two ways")),
)
SEARCHES = (*SEARCHES_ONE_WAY, *SEARCHES_OF_FLOAT32, *SEARCHES_TWO_WAYS)
GOALS = (*SEARCHES, *VARIANTS, *STEPS, *HEAD, *zero_goals(0), *zero_goals(2), *zero_goals(3))


def table(results: Results, names: Sequence[str], trial: bool) -> str:
    """The goals with what was measured, then what failed and which of the steps `names` were not done, as Markdown."""
    matmul = results.get("matmul", {})
    where = matmul.get("machine", {}).get("gpu") or "a CPU"
    lines = [f"Measured on {where}; bf16 product {matmul.get('tflops', float('nan')):.0f} TFLOP/s.", ""]
    if trial:
        lines = ["**A trial on a CPU with small sizes: no figure here counts.**", ""]
    lines += ["| goal | what | measured | wanted | |", "|---|---|---|---|---|"]
    for goal in GOALS:
        *row, verdict = goal.row(results)
        lines.append(f"| {' | '.join([*row, '' if trial else verdict])} |")
    left = [name for name in names if name not in results]
    lines += [""] + [f"- {name}: {result[FAILED]}" for name, result in results.items() if FAILED in result]
    lines += [f"- not done: {', '.join(left)}; the same command goes on with them"] if left else []
    return "\n".join(lines) + "\n"
