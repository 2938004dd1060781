"""A study's page of docs/results: what was compared, every tested gain with its interval, and what was too small to
tell. The words above `MARK` are a person's; everything below is made of the run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stilts_ds.config import Recipe, TrainingPart
from stilts_ds.display import number, signed
from stilts_ds.errors import counted
from stilts_ds.escape import markdown_prose
from stilts_ds.report.code_gains import NAME as CODE_GAINS
from stilts_ds.report.code_tables import FLOORS, METRICS_OF
from stilts_ds.report.layers import NAME as LAYERS
from stilts_ds.report.paper import paper_sheets
from stilts_ds.report.robustness import COSTS_OF, GAINS_OF
from stilts_ds.report.table import Sheet
from stilts_ds.report.tables import LANGUAGES_OF
from stilts_ds.report.text import markdown_sheet
from stilts_ds.run_dir import write_json
from stilts_ds.tasks.registry import get_task

MARK = "<!-- Below this line: `stilts report RUN --page FILE`. -->"
# The tables of a page, by how their names in results.json begin. The other groupings say what languages say by name.
TITLES = {
    "matrix": "Gains over {baseline}",
    "centred": "Gains in retrieval, raw and centred",
    CODE_GAINS: "Gains beside pass@1",
    "joshi": "Gains by resource class",
    GAINS_OF: "Gains over {baseline} under noise: {task}",
    COSTS_OF: "Points that noise costs less than after {baseline}: {task}",
    LANGUAGES_OF: "Gains by language: {task}",
}
# Hanley and Lippman-Hand 1983, the rule of three.
DEGENERATE = (
    "A dash for an interval: no example differs between the two, so every resample is the same and there is nothing to "
    "test. That is not certainty: where none of n examples is right, a share of up to 3 / n is still likely."
)
# What the corrections promise: a page has several tables, and its intervals have no correction (docs/report.md).
READING = (
    "An interval is of one comparison and not corrected, so it may leave 0 out where `told from 0`, by the corrected "
    "p, says no. Each table is corrected by itself, the tables of languages together, and nothing across tables. By "
    "design a table has a false `yes` with a chance of at most 5 %, the page as a whole with more; of the `yes` among "
    "languages at most 5 % are false on average."
)
Cells = Mapping[str, Mapping[str, Any]]  # row -> column -> score and gain, as in results.json


def write_study_page(file: Path, results: Mapping[str, Any], recipe: Recipe, at_scale: Sheet | None) -> None:
    """Write the part below `MARK` anew, and beside it `results` as FILE.json; what stands above it in `file` stays.

    A new file begins with the run's name. Folders of this machine are left out of both.
    """
    written = file.read_text("utf-8").split(MARK)[0] if file.exists() else f"# {results['name']}\n\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file.with_suffix(".json"), without_folders(results))
    file.write_text(f"{written}{MARK}\n\n{study_page(results, recipe, at_scale)}", "utf-8")


def without_folders(value: Any) -> Any:
    """results.json with a model by the name of its folder alone."""
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if not isinstance(value, dict):
        return value
    content = {key: without_folders(item) for key, item in value.items()}
    if isinstance(content.get("model"), str):
        content["model"] = Path(content["model"]).name
    return content


def study_page(results: Mapping[str, Any], recipe: Recipe, at_scale: Sheet | None = None) -> str:
    """The sections of a page, from what stands in results.json. `at_scale` is what the same study costs elsewhere."""
    statistics = results["statistics"]
    named = statistics["tables"]
    tables = {name: named[name] for prefix in TITLES for name in named if name.startswith(prefix)}
    sheets = [_conditions(recipe), _learnt(results, recipe), _scores(results)]
    sheets += [_gains(name, table, statistics["baseline"]) for name, table in tables.items()]
    sheets += [sheet for task in results["targets"] for sheet in _noisy(task, named)]
    sheets += [_all_scores(task, named[METRICS_OF + task]) for task in results["targets"] if METRICS_OF + task in named]
    sheets += [_layers(results["layers"], named[LAYERS])] if LAYERS in named else []
    sheets += paper_sheets(results, recipe)
    sheets += [_unresolved(tables, statistics["baseline"])]
    sheets += [at_scale] if at_scale else []
    sections = [f"    {command(recipe)}\n\n{_wrapped(READING)}\n"]
    for sheet in sheets:
        if sheet.rows:
            notes = "\n\n".join(map(_wrapped, sheet.notes))
            sections.append(f"## {sheet.title}\n\n{markdown_sheet(sheet)}" + (f"\n{notes}\n" if notes else ""))
    if results["missing"]:
        missing = "\n".join(_wrapped(f"- {markdown_prose(note)}", "  ") for note in results["missing"])
        sections.append(f"## What was not run\n\n{missing}\n")
    counts = "count examples and seeds"
    if len(recipe.seeds) == 1:
        counts = "count examples alone, so another seed may well lie outside them"
    how = (
        f"{counted(len(recipe.seeds), 'seed')}, {statistics['resamples']:,} resamples. Scores are medians over seeds. "
        f"Gains are differences of means over seeds; their intervals {counts}. Holm's correction within each table, "
        "Benjamini and Hochberg's over the languages of all targets ([the test](../report.md#the-test))."
    )
    return "\n".join([*sections, f"{_wrapped(how)}\n"])


def _wrapped(paragraph: str, indent: str = "") -> str:
    """Lines of at most 120 letters, as in the pages that people write."""
    return textwrap.fill(paragraph, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def command(recipe: Recipe) -> str:
    """What makes the run again; DIR stands for folders, which are others on another machine."""
    folders = [
        f"data.{name}=DIR"
        for name in ("intermediate", "xtreme", "code", "text", "translated")
        if getattr(recipe.data, name)
    ]
    # The model that comes with the package is named in its recipe, and is no folder.
    model = [] if recipe.model.name_or_path == "toy" else ["model.name_or_path=DIR"]
    allowed = ["execute.allow=true"] if recipe.execute.allow else []
    return " ".join([f"stilts run {recipe.name}", *model, *folders, *allowed])


def _conditions(recipe: Recipe) -> Sheet:
    rows = [(name, ", ".join(tasks) or "-") for name, tasks in recipe.intermediate.items()]
    return Sheet("Conditions", ("condition", "trained before the targets"), tuple(rows))


def _learnt(results: Mapping[str, Any], recipe: Recipe) -> Sheet:
    """Dev scores of each intermediate task beside what guessing gives: a task that is not learnt cannot be transferred.

    Pages of kept results of earlier versions have none.
    """
    rows = [
        (condition, task, ", ".join(map(number, seeds.values())), _guessing(task))
        for condition, tasks in results.get("dev", {}).items()
        for task, seeds in tasks.items()
    ]
    examples = TrainingPart(**recipe.intermediate_training).eval_examples
    note = (
        f"Main score on at most {examples} dev examples of each task, which "
        "also choose among steps where several are evaluated. Each seed in its order. Guessing draws evenly: the "
        "commonest answer alone can score more, as in CCG (a noun's tag) and SQuAD 2.0 (no answer)."
    )
    return Sheet("What the tasks taught", ("condition", "task", "dev, by seed", "guessing"), tuple(rows), (note,))


def _scores(results: Mapping[str, Any]) -> Sheet:
    """Means over languages: the median over seeds, and in brackets each seed's. The last row is the floor."""
    rows = []
    for condition, row in results["rows"].items():
        cells = []
        for task in results["targets"]:
            cell = row["tasks"][task]
            if cell is None:  # not run, as the last section says
                cells.append("-")
                continue
            seeds = [sum(by_language.values()) / len(by_language) for by_language in cell["by_seed"].values()]
            several = f" ({', '.join(map(number, seeds))})" if len(seeds) > 1 else ""
            cells.append(f"{number(cell['mean_of_present'])}{several}")
        rows.append((condition, *cells))
    rows.append(("guessing", *map(_guessing, results["targets"])))
    sizes = [f"{task}: {_sizes(results, task)}" for task in results["targets"]]
    note = f"Medians over seeds, in brackets each seed. Examples by language: {'; '.join(sizes)}."
    return Sheet("Scores", ("condition", *results["targets"]), tuple(rows), (note,))


def _guessing(task: str) -> str:
    """What guessing scores; metrics without a stated chance give next to nothing for it."""
    chance = get_task(task).chance
    return number(chance) if chance else "near 0"


def _sizes(results: Mapping[str, Any], task: str) -> str:
    cell = next((row["tasks"][task] for row in results["rows"].values() if row["tasks"][task]), None)
    if cell is None:
        return "not scored"
    return f"{cell['split']} split, " + ", ".join(f"{code} {n:,}" for code, n in cell["examples"].items())


def _tested(table: Cells) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for row, columns in table.items():
        for column, cell in columns.items():
            # The average over one target is that target.
            if column == "average" and len(columns) == 2:
                continue
            if cell and cell.get("p_adjusted") is not None:
                yield row, column, cell


def _tells_nothing(cell: Mapping[str, Any]) -> bool:
    """Whether every resample is the same: all examples are wrong, or all right, in both conditions and every seed."""
    return bool(cell["low"] == cell["high"])


def _gains(name: str, table: Cells, baseline: str) -> Sheet:
    rows = []
    degenerate = False
    for row, column, cell in _tested(table):
        interval = f"{signed(cell['low'])} to {signed(cell['high'])}"
        # No p-value is 0, and a bootstrap's least is 1 / resamples.
        p = "below 0.001" if cell["p_adjusted"] < 0.001 else f"{cell['p_adjusted']:.3f}"
        verdict = "yes" if cell["significant"] else "no"
        if _tells_nothing(cell):
            degenerate, interval, p = True, "-", "-"
        # Not the baseline's own cell: where conditions are chosen by target, the average is over those targets alone.
        mean = cell.get("mean")
        base = None if mean is None else mean - cell["mean_gain"]
        tested = signed(cell["mean_gain"]), interval, p, verdict
        rows.append((f"{row}, {column}", number(base), number(mean), *tested))
    return Sheet(
        _title(name, baseline),
        ("", baseline, "mean", "gain", "95 % interval", "p, corrected", "told from 0"),
        tuple(rows),
        (DEGENERATE,) if degenerate else (),
    )


def _noisy(task: str, named: Mapping[str, Cells]) -> Iterator[Sheet]:
    """Scores over the rates of each kind of noise, and the share of the clean score that noise takes."""
    begins = f"noise-{task}-"
    relative = named.get(f"noise-relative-{task}", {})
    for name in sorted(name for name in named if name.startswith(begins)):
        kind = name.removeprefix(begins)
        rates = tuple(next(iter(named[name].values())))
        shares = [column for column in next(iter(relative.values()), {}) if re.match(rf"{kind}-\d", column)]
        rows = []
        for condition, cells in named[name].items():
            scores = (number(cells[rate]["score"]) for rate in rates)
            # No share of a clean score of 0 can be taken.
            taken = (number((relative[condition][column] or {}).get("score")) for column in shares)
            rows.append((condition, *scores, *taken))
        columns = ("condition", *rates, *(_taken(column) for column in shares))
        above = ", or of its points above chance" if any(", " in column for column in shares) else ""
        note = (
            "Errors in 100 letters, or words where words change; `area` is the mean over the rates. What noise takes "
            f"is a share of the clean score{above}."
        )
        yield Sheet(f"Scores under noise: {task}, {kind}", columns, tuple(rows), (note,))


def _taken(column: str) -> str:
    """`typo-5 takes, %`, or `typo-5 takes above chance, %`."""
    noise, _, of = column.partition(", ")
    return f"{noise} takes {of}, %" if of else f"{noise} takes, %"


def _all_scores(task: str, table: Cells) -> Sheet:
    """Every score of a target of code by language, with the floors that were executed: medians over seeds."""
    columns = tuple(next(iter(table.values())))
    rows = [(label, *(number((cell or {}).get("score")) for cell in cells.values())) for label, cells in table.items()]
    shown = {label.rpartition(", ")[2] for label in table}
    notes = [f"`{metric}`: {floor}." for metric, floor in FLOORS.items() if metric in shown]
    return Sheet(f"All scores by language: {task}", ("", *columns), tuple(rows), tuple(notes))


def _layers(layers: Mapping[str, Any], table: Cells) -> Sheet:
    """Scores at every hidden state, on the dev languages that chose one."""
    rows = [(label, *(number(cell["score"]) for cell in cells.values())) for label, cells in table.items()]
    columns = tuple(next(iter(table.values())))
    note = f"Layer {layers['chosen']} was chosen on dev, before any training, for all conditions; 0 is the embeddings."
    return Sheet("Retrieval by layer, on BUCC's dev languages", ("model after", *columns), tuple(rows), (note,))


def _title(name: str, baseline: str) -> str:
    for prefix, title in TITLES.items():
        if name.startswith(prefix):
            return title.format(baseline=baseline, task=name.removeprefix(prefix))
    raise KeyError(name)  # `study_page` takes no other table


def _unresolved(tables: Mapping[str, Cells], baseline: str) -> Sheet:
    """The smallest effect that each comparison of the matrix could have shown, where it showed none."""
    rows = []
    for row, column, cell in _tested(tables.get("matrix", {})):
        if not cell["significant"]:
            half = None if _tells_nothing(cell) else (cell["high"] - cell["low"]) / 2
            rows.append((f"{row}, {column}", signed(cell["mean_gain"]), number(half)))
    note = (
        f"Not told from {baseline}. An effect as large as half the interval is seen, before any correction, in about "
        "one of two such studies, a smaller one more rarely. That none was seen is no evidence that there is none."
    )
    return Sheet("What was too small to tell", ("", "gain", "half the interval"), tuple(rows), (note,))
