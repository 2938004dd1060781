"""The run's table: conditions against targets, with every language, as Markdown and JSON."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from stilts_ds.plan import Phase
from stilts_ds.run_dir import RunDir, read_json, write_atomically, write_json

Results = dict[str, dict[str, list[dict[str, Any]]]]  # condition -> task -> one result a seed


def write_report(run: RunDir) -> str:
    """Collect all finished results, write results.json and report.md, and return the summary table as text."""
    planned = read_json(run.plan)
    results = collect(run, planned)
    table = summarise(planned, results)
    write_json(run.results, table)
    summary = markdown_table(table)
    write_atomically(
        run.report, f"{_head(planned)}\n{summary}\n{_language_tables(table, results)}\n{_foot(run, planned)}"
    )
    return summary


def collect(run: RunDir, planned: dict[str, Any]) -> Results:
    """All results on disk. A phase that conditions or seeds share counts for each of them."""
    found: Results = defaultdict(lambda: defaultdict(list))
    for condition, names in planned["use"].items():
        for phase_id in names:
            phase = Phase.from_json(next(p for p in planned["phases"] if p["id"] == phase_id))
            for task in phase.evaluate:
                path = run.phase(phase_id).results / f"{task}.json"
                if path.exists():
                    found[condition][task].append(read_json(path))
    return found


def summarise(planned: dict[str, Any], results: Results) -> dict[str, Any]:
    """Median over seeds of every task's mean over languages; `zero_shot` leaves the training language out."""
    rows = {}
    for condition in planned["use"]:
        tasks = {}
        for task in planned["targets"]:
            runs = results.get(condition, {}).get(task, [])
            tasks[task] = _cell(runs) if runs else None
        present = [cell["mean_of_present"] for cell in tasks.values() if cell]
        whole = len(present) == len(tasks) and all(c and c["mean"] is not None for c in tasks.values())
        rows[condition] = {
            "tasks": tasks,
            "average": fmean(present) if len(present) == len(tasks) else None,
            "complete": whole,
        }
    return {"name": planned["name"], "targets": planned["targets"], "rows": rows}


def _cell(runs: list[dict[str, Any]]) -> dict[str, Any]:
    languages = {code: median(run["main"][code] for run in runs) for code in runs[0]["main"]}
    pivot = runs[0]["pivot"]
    others = [value for code, value in languages.items() if code != pivot]
    whole = all(run["mean"] is not None for run in runs)
    return {
        "seeds": len(runs),
        "split": runs[0]["split"],
        "missing": runs[0]["missing"],
        "languages": languages,
        "mean_of_present": fmean(languages.values()) if languages else None,
        "mean": fmean(languages.values()) if languages and whole else None,
        "zero_shot": fmean(others) if others else None,
        "pivot": pivot,
    }


def markdown_table(table: dict[str, Any]) -> str:
    """Conditions down, targets across: means over each target's scored languages, and gains over the first row."""
    targets, rows = table["targets"], table["rows"]
    lines = [_row("condition", [*targets, "average"]), _row("---", ["---:"] * (len(targets) + 1))]
    first: list[float | None] | None = None
    for condition, row in rows.items():
        values = [cell["mean_of_present"] if (cell := row["tasks"][t]) else None for t in targets] + [row["average"]]
        mark = "" if row["complete"] or row["average"] is None else " †"
        lines.append(_row(condition, [*(_number(v) for v in values[:-1]), _number(values[-1]) + mark]))
        if first is None:
            first = values
        else:
            gains = [v - b if v is not None and b is not None else None for v, b in zip(values, first)]
            if any(g is not None for g in gains):
                lines.append(_row(f"gain over {next(iter(rows))}", [_number(g, sign=True) for g in gains]))
    if any("†" in line for line in lines):
        lines.append("\n† over the languages scored; some of the benchmark's are missing, so this is not its average.")
    return "\n".join(lines) + "\n"


def _row(first: str, cells: list[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"


def _number(value: float | None, sign: bool = False) -> str:
    return "-" if value is None else f"{value:+.1f}" if sign else f"{value:.1f}"


def _head(planned: dict[str, Any]) -> str:
    scored = (
        "XTREME's metric of each target, in percent: accuracy (XNLI, PAWS-X, Tatoeba), F1 (tagging, BUCC), mean of F1 "
        "and exact match (question answering)."
    )
    return (
        f"# {planned['name']}\n\n{scored} Mean over the languages scored, English (the training language) included; "
        f"median over {len(planned['seeds'])} seed(s). Model `{planned['model']}`, data `{planned['source']}`.\n"
    )


def _language_tables(table: dict[str, Any], results: Results) -> str:
    parts = []
    for task in table["targets"]:
        cells = {c: row["tasks"][task] for c, row in table["rows"].items() if row["tasks"][task]}
        if not cells:
            continue
        sample = next(iter(cells.values()))
        codes = list(sample["languages"])
        parts.append(f"## {task} ({sample['split']} split)\n")
        parts.append(_row("condition", [*(f"{c}*" if c == sample["pivot"] else c for c in codes), "zero-shot mean"]))
        parts.append(_row("---", ["---:"] * (len(codes) + 1)))
        for condition, cell in cells.items():
            parts.append(
                _row(condition, [*(_number(cell["languages"].get(c)) for c in codes), _number(cell["zero_shot"])])
            )
        if sample["missing"]:
            parts.append(
                f"\nNot scored ({len(sample['missing'])} of {len(sample['missing']) + len(codes)} languages): "
                f"{' '.join(sample['missing'])}. The official average over all languages is withheld."
            )
        parts.append("")
    return "\n".join(parts) + "\n`*` marks the language of training; the others are zero-shot.\n"


def _foot(run: RunDir, planned: dict[str, Any]) -> str:
    made = planned["provenance"]
    seen = ", ".join(f"{name} {version}" for name, version in sorted(made["versions"].items()))
    return f"\nCommit `{made['git_commit']}`; {seen}. Recipe: `{Path(run.recipe).name}` beside this file.\n"
