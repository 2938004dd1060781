"""Everything that `stilts report` writes: numbers as Markdown, JSON, CSV, LaTeX, HTML and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from stilts_ds.errors import counted, printable
from stilts_ds.escape import markdown_code, markdown_escape, markdown_prose
from stilts_ds.report.benchmark import benchmark_averages, benchmark_sheet
from stilts_ds.report.buckets import bucket_sheets
from stilts_ds.report.card import write_cards
from stilts_ds.report.centred import IN_SHORT, centred_tables
from stilts_ds.report.centred import NAME as CENTRED
from stilts_ds.report.checked import checked_sheets, checked_tables
from stilts_ds.report.code_gains import code_gain_tables
from stilts_ds.report.code_tables import code_tables
from stilts_ds.report.compare import score_run
from stilts_ds.report.correlation import correlation_sheet, correlations
from stilts_ds.report.curves import charts
from stilts_ds.report.figure import Format, write_curves, write_figures
from stilts_ds.report.groups import count_sheet
from stilts_ds.report.inputs import duplicates_sheet, inputs_sheet
from stilts_ds.report.latex import LAYOUTS, latex_tables
from stilts_ds.report.layers import layer_tables
from stilts_ds.report.load import RunData, load_run
from stilts_ds.report.methods import methods_tex, references_bib
from stilts_ds.report.page import page
from stilts_ds.report.provenance import cost_sheet, provenance_lines, selection_sheet
from stilts_ds.report.results_json import results_json
from stilts_ds.report.score_rows import scores_csv
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.table import Sheet, Table, legend
from stilts_ds.report.tables import Tables, build_tables, seed_tables, tested, with_resamples
from stilts_ds.report.text import (
    csv_tables,
    markdown_sheet,
    markdown_table,
    stacked_markdown,
)
from stilts_ds.run_dir import RunDir, write_atomically, write_json

METRICS = (
    "XTREME's metric of each target, in percent: accuracy (XNLI, PAWS-X, Tatoeba), F1 (tagging, BUCC), mean of F1 and "
    "exact match (question answering); for code pass@1 (programs), AUC (does a program pass?), mAP@20 (search)."
)


def write_report(
    run: RunDir,
    settings: ComparisonSettings | None = None,
    figures: Sequence[Format] = (),
    qa_by_f1: bool = False,
) -> str:
    """Collect all finished results, write the report beside them, and return the summary table as text.

    `qa_by_f1` adds the benchmark's average with question answering by F1 alone, under its own name. Raises UserError
    for a missing or broken file, and for `figures` without matplotlib.
    """
    data = load_run(run)
    # First: every table is drawn with the same number of resamples.
    settings = with_resamples(data, settings or ComparisonSettings())
    scores = score_run(data, settings)
    tables = build_tables(data, scores, settings)
    retrieval = (*centred_tables(data, scores, settings), *layer_tables(data))
    of_code = (*code_tables(data), *code_gain_tables(data, settings))
    beside = (*retrieval, *checked_tables(data, scores, settings), *of_code)
    tables = replace(tables, variants=(*tables.variants, *beside))
    marks = legend(tables.all(), settings.level)
    summary = _summary(data, tables, settings)
    correlated = correlations(data, scores, settings)
    averages = benchmark_averages(data, scores, qa_by_f1)
    resources = [benchmark_sheet(data, averages), count_sheet(data, scores), correlation_sheet(correlated, settings)]
    kinds = [*(sheet for sheet in resources if sheet.rows), *checked_sheets(data), *bucket_sheets(data, settings)]
    write_json(run.results, results_json(data, scores, tables, settings, correlated, averages))
    write_atomically(run.report, markdown_report(data, tables, settings, kinds))
    write_atomically(report_path(run, ".csv"), csv_tables([*tables.all(), *seed_tables(data, scores)]))
    for layout in LAYOUTS:
        suffix = ".tex" if layout == "wide" else f"-{layout}.tex"
        write_atomically(report_path(run, suffix), latex_tables(data.plan.name, tables.all(), marks, layout))
    write_atomically(report_path(run, ".html"), page(data, tables, settings, METRICS, kinds))
    write_cards(data)
    write_atomically(report_path(run, "-scores.csv"), scores_csv(data))
    write_atomically(report_path(run, "-methods.tex"), methods_tex(data, settings))
    write_atomically(report_path(run, ".bib"), references_bib(data, settings))
    if figures:
        write_figures(tables.matrix, figures, partial(report_path, run), legend([tables.matrix], settings.level))
        if losses := charts(data):
            write_curves(losses, data.conditions, figures, lambda suffix: report_path(run, f"-curves{suffix}"))
    # It goes to a terminal, and names in it may be a stranger's.
    return printable(summary)


def report_path(run: RunDir, suffix: str) -> Path:
    """`report.html`, `report-narrow.tex` and the like, beside `report.md`."""
    return run.report.with_name(run.report.stem + suffix)


def _summary(data: RunData, tables: Tables, settings: ComparisonSettings) -> str:
    # Beside the protocol's own column, also in a terminal: a recipe asks for it because the two are read together.
    centred = [table for table in tables.variants if table.name == CENTRED]
    printed = [tables.matrix, *centred]
    sections = [stacked_markdown(table, data.baseline) for table in printed]
    sections += [IN_SHORT] if centred else []
    sections += legend(printed, settings.level)
    if data.missing:
        sections.append(f"\nMissing: {counted(len(data.missing), 'thing')}, listed in {data.run.report.name}.")
    return "\n".join(sections) + "\n"


def markdown_report(data: RunData, tables: Tables, settings: ComparisonSettings, kinds: Sequence[Sheet] = ()) -> str:
    plan = data.plan
    sections = [
        f"# {markdown_escape(plan.name)}\n",
        f"{METRICS} Mean over the languages scored, English (the training language) included; median over "
        f"{len(plan.seeds)} seed(s). Model {markdown_code(plan.model)}, data "
        f"{markdown_code(plan.source)}.\n",
        stacked_markdown(tables.matrix, data.baseline),
        *_remarks(tables.matrix.notes, [tables.matrix], settings),
    ]
    if data.missing:
        sections += ["## What is missing\n", "\n".join(f"- {markdown_prose(note)}" for note in data.missing) + "\n"]
    sections += [f"## How the gains were tested\n\n{tested(settings)}\n"]
    for table in [tables.gap, *tables.groups, *tables.variants, *tables.languages]:
        if table.columns and table.rows:
            sections += _markdown_section(table, settings)
    sections += _published(tables, settings)
    for sheet in (
        *kinds,
        inputs_sheet(data),
        duplicates_sheet(data),
        selection_sheet(data),
        cost_sheet(data),
    ):
        if sheet.rows:
            sections += [f"## {sheet.title}\n", markdown_sheet(sheet), "\n\n".join(sheet.notes) + "\n"]
    lines = [f"- {name}: {markdown_code(value)}" for name, value in provenance_lines(data)]
    sections += ["## Provenance\n", "\n".join(lines) + "\n"]
    return "\n".join(sections)


def _markdown_section(table: Table, settings: ComparisonSettings) -> list[str]:
    return [f"## {markdown_escape(table.title)}\n", markdown_table(table), *_remarks(table.notes, [table], settings)]


def _remarks(notes: Sequence[str], tables: Sequence[Table], settings: ComparisonSettings) -> list[str]:
    said = [*(markdown_prose(note) for note in notes), *legend(tables, settings.level)]
    return ["\n\n".join(said) + "\n"] if said else []


def _published(tables: Tables, settings: ComparisonSettings) -> list[str]:
    if tables.published:
        return _markdown_section(tables.published, settings)
    return ["## Published scores\n", f"Not shown. {markdown_prose(tables.why_not_published)}\n"]
