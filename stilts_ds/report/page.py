"""`report.html`: one self-contained page for screen, phone and paper. Nothing comes from the network; its one
script sorts and filters."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from stilts_ds.display import number, signed
from stilts_ds.errors import counted, printable
from stilts_ds.report import curves
from stilts_ds.report.colour import colours, scale_of
from stilts_ds.report.inputs import duplicates_sheet, inputs_sheet
from stilts_ds.report.load import RunData
from stilts_ds.report.provenance import cost_sheet, provenance_lines, selection_sheet
from stilts_ds.report.robustness import rate_curves
from stilts_ds.report.seeds import seed_sheets
from stilts_ds.report.stats import ComparisonSettings, Difference
from stilts_ds.report.table import Cell, Row, Sheet, Table, gain_mark, legend, mean_differs, printed_gain
from stilts_ds.report.tables import LANGUAGES_OF, Tables, tested

# Nothing else may be loaded or run, also if a name should one day slip through unescaped: a browser runs the script
# that has this hash, and no other.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'"
CURVE_NUMBERS = 30  # of a line, as text


def page(data: RunData, tables: Tables, settings: ComparisonSettings, metrics: str, kinds: Sequence[Sheet] = ()) -> str:
    """The whole page as text; the same run gives the same bytes."""
    name = escape(data.plan.name)
    style, script = ((files("stilts_ds.report") / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    policy = POLICY.format(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    sheets_by_seed = seed_sheets(data)
    body = [
        f"<header><h1>{name}</h1>{_facts(data)}</header>",
        _nav(data, tables, kinds, bool(sheets_by_seed)),
        "<main>",
        _matrix(data, tables, settings, metrics),
        _missing(data),
        _section("languages", "Language by language", _drill_down(tables, settings)),
        *([_section("seeds", SEEDS, _folded(sheets_by_seed))] if sheets_by_seed else []),
        _section("gap", tables.gap.title, _with_notes(tables.gap, settings) if tables.gap.columns else _none()),
        _section("groups", "Groups of languages", _groups(tables, settings)),
        *([_section("variants", VARIANTS, _variants(tables, settings))] if tables.variants else []),
        *([_section("kinds", KINDS, _kinds(kinds))] if kinds else []),
        _section("published", "Beside the published scores", _published(tables, settings)),
        _section("curves", "Learning curves", _curves(data)),
        _section("inputs", inputs_sheet(data).title, _inputs(data)),
        _section("cost", "Cost", _sheet(cost_sheet(data))),
        _section("provenance", "Provenance", _provenance(data)),
        "</main>",
        f"<script>{script}</script>",
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: report</title>\n<style>\n{style}</style>"
    )
    whole = "\n".join(body)
    return printable(f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{whole}\n</body>\n</html>\n')


def _facts(data: RunData) -> str:
    seeds = len(data.plan.seeds)
    facts = [
        f"model {data.plan.model}",
        f"data {data.plan.source}",
        f"{seeds} seed{'s' * (seeds > 1)}",
        f"{counted(len(data.conditions), 'condition')}",
        f"{counted(len(data.targets), 'target')}",
    ]
    return f'<p class="facts">{" · ".join(escape(fact) for fact in facts)}</p>'


def _nav(data: RunData, tables: Tables, kinds: Sequence[Sheet], has_seeds: bool) -> str:
    links = [
        ("matrix", "Matrix"),
        *([("missing", "Missing")] if data.missing else []),
        ("languages", "Languages"),
        *([("seeds", SEEDS)] if has_seeds else []),
        ("gap", "Transfer gap"),
        ("groups", "Groups"),
        *([("variants", VARIANTS)] if tables.variants else []),
        *([("kinds", KINDS)] if kinds else []),
        ("published", "Published"),
        ("curves", "Curves"),
        ("inputs", "Inputs"),
        ("cost", "Cost"),
        ("provenance", "Provenance"),
    ]
    return "<nav>" + "".join(f'<a href="#{where}">{text}</a>' for where, text in links) + "</nav>"


SEEDS = "Seed by seed"
VARIANTS, KINDS = "Noise, sources and pairs", "Benchmark, resources and kinds of examples"


def _variants(tables: Tables, settings: ComparisonSettings) -> str:
    return "\n".join(
        f"<h3>{escape(table.title)}</h3>{_rate_chart(table)}{_with_notes(table, settings)}" for table in tables.variants
    )


def _rate_chart(table: Table) -> str:
    """Scores over the rates of a kind of noise; nothing beside other tables."""
    scores = rate_curves(table)
    if not scores:
        return ""
    lines = [curves.Line(condition, None, points) for condition, points in scores.items()]
    drawn = curves.svg(table.title, lines, list(scores), "score", "errors in 100")
    key = curves.key(lines, list(scores))
    return f'<div class="charts"><figure>{drawn}<ul class="key">{key}</ul></figure></div>'


def _kinds(kinds: Sequence[Sheet]) -> str:
    return "\n".join(f"<h3>{escape(sheet.title)}</h3>{_sheet(sheet)}" for sheet in kinds)


def _section(where: str, title: str, content: str) -> str:
    return f'<section id="{where}"><h2>{escape(title)}</h2>\n{content}</section>'


def _none() -> str:
    return "<p>Nothing to show: no target is scored in its training language and in others.</p>"


def _missing(data: RunData) -> str:
    if not data.missing:
        return ""
    notes = "".join(f"<li>{_prose(note)}</li>" for note in data.missing)
    return _section("missing", "What is missing", f"<ul>{notes}</ul>")


# --- tables ----------------------------------------------------------------------------------------------------------


def _matrix(data: RunData, tables: Tables, settings: ComparisonSettings, metrics: str) -> str:
    # A target without a table of languages has no place that a link could lead to.
    shown = {table.name for table in tables.languages}
    links = {t: f"#{LANGUAGES_OF}{t}" for t in tables.matrix.columns if f"{LANGUAGES_OF}{t}" in shown}
    explained = (
        f"{metrics} Mean over languages, median over seeds. Large figures are gains over "
        f"{data.baseline} in points, small ones scores; a target's name leads to its languages."
    )
    return _section("matrix", "Gains by condition and target", "\n".join([
        f"<p>{escape(explained)}</p>", table_html(tables.matrix, links), _scale(scale_of([tables.matrix])),
        _notes(tables.matrix, settings), f'<p class="small">{escape(tested(settings))}</p>',
    ]))  # fmt: skip


def _scale(scale: float) -> str:
    """The heat map's key: a strip of its colours with their ends in points."""
    # Nine boxes: four shades to either side of 0.
    steps = [i / 4 * scale for i in range(-4, 5)]
    boxes = "".join(_swatch(value, scale) for value in steps)
    return f'<p class="scale"><span>{signed(-scale)}</span>{boxes}<span>{signed(scale)} points</span></p>'


def _swatch(value: float, scale: float) -> str:
    colour = colours(Difference(value, significant=value != 0), scale)
    return f'<i style="background:{colour[0] if colour else "#fff"}"></i>'


def _drill_down(tables: Tables, settings: ComparisonSettings) -> str:
    tables_by_target = [
        f"<details><summary>{escape(table.title)}</summary>"
        f'<div id="{escape(table.name, quote=True)}">{_with_notes(table, settings)}</div></details>'
        for table in tables.languages
    ]
    return "\n".join(tables_by_target) or "<p>No target has scores yet.</p>"


def _folded(sheets: Iterable[Sheet]) -> str:
    return "\n".join(
        f"<details><summary>{escape(sheet.title)}</summary><div>{_sheet(sheet)}</div></details>" for sheet in sheets
    )


def _groups(tables: Tables, settings: ComparisonSettings) -> str:
    by_group = [f"<h3>{escape(table.title)}</h3>{_with_notes(table, settings)}" for table in tables.groups]
    return "\n".join(by_group) or (
        "<p>None: no language of this run is one of XTREME's or XTREME-R's, so no family, "
        "script or Wikipedia size is known.</p>"
    )


def _published(tables: Tables, settings: ComparisonSettings) -> str:
    if tables.published is None:
        return f"<p>Not shown. {escape(tables.why_not_published)}</p>"
    return _with_notes(tables.published, settings)


def _with_notes(table: Table, settings: ComparisonSettings) -> str:
    return table_html(table, {}) + _notes(table, settings)


def _notes(table: Table, settings: ComparisonSettings) -> str:
    said = [*table.notes, *legend([table], settings.level)]
    return "".join(f'<p class="small">{_prose(note)}</p>' for note in said)


def table_html(table: Table, links: dict[str, str]) -> str:
    """A table in a frame that scrolls by itself where the window is narrow; its first column stays in view."""
    scale = scale_of([table])
    head = "".join(f'<th scope="col">{_linked(column, links)}</th>' for column in table.columns)
    rows = "\n".join(_row(row, scale) for row in table.rows)
    label = escape(table.title, quote=True)
    corner = f'<th scope="col">{escape(table.corner)}</th>'
    return (
        f'<div class="frame" tabindex="0" role="region" aria-label="{label}"><table class="{_class(table)}">'
        f"<caption>{escape(table.title)}</caption><thead><tr>{corner}{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _class(table: Table) -> str:
    return "heat matrix" if table.name == "matrix" else "heat"


def _name(text: str) -> str:
    """A name that may be broken where its parts meet (anli_plus, a+b)."""
    # Escaped first: the tag must be the only markup.
    return re.sub(r"(?<=[_+/])", "<wbr>", escape(text))


def _prose(text: str) -> str:
    """A sentence; what stands in backticks is shown as code."""
    # Escaped first, so that code shows what a name holds and runs nothing.
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _linked(column: str, links: dict[str, str]) -> str:
    text = _name(column)
    return f'<a href="{escape(links[column], quote=True)}">{text}</a>' if column in links else text


def _row(row: Row, scale: float) -> str:
    detail = f"<small>{escape(row.detail)}</small>" if row.detail else ""
    cells = "".join(_cell(cell, scale) for cell in row.cells)
    return f'<tr><th scope="row">{_name(row.label)}{detail}</th>{cells}</tr>'


def _cell(cell: Cell, scale: float) -> str:
    note = f'<small class="chosen">{_name(cell.note)}</small>' if cell.note and cell.score is not None else ""
    # A dash and not an empty cell: nothing was forgotten, there is no score.
    if cell.score is None:
        title = f' title="{escape(cell.note, quote=True)}"' if cell.note else ""
        return f'<td class="none"{title}>–</td>'
    score = number(cell.score) + escape(cell.mark)
    if cell.gain is None:
        return f"<td><b>{score}</b>{note}</td>"
    colour = colours(cell.gain, scale)
    style = f' style="background:{colour[0]};color:{colour[1]}"' if colour else ""
    # Colour alone must not tell what is shown: the mark says it, too.
    kind = "sure" if colour else "unsure"
    mark = gain_mark(cell.gain)
    mean = ""
    if mean_differs(cell.gain):  # the mark belongs to what is tested
        mean, mark = f"<small>mean {signed(cell.gain.value)}{mark}</small>", ""
    return (
        f'<td class="{kind}"{style} title="{escape(_gain_text(cell.gain), quote=True)}">'
        f"<b>{signed(printed_gain(cell.gain))}{mark}</b>{mean}<small>{score}</small>{note}</td>"
    )


def _gain_text(gain: Difference) -> str:
    if gain.p is None or gain.low is None or gain.high is None:
        return "not tested"
    adjusted = "" if gain.adjusted is None else f", corrected {gain.adjusted:.2g}"
    mean = f"mean over seeds {signed(gain.value)}, " if mean_differs(gain) else ""
    return f"{mean}interval {signed(gain.low)} to {signed(gain.high)}, p = {gain.p:.2g}{adjusted}"


def _sheet(sheet: Sheet) -> str:
    head = "".join(f'<th scope="col">{_name(column)}</th>' for column in sheet.columns)
    rows = "\n".join(_sheet_row(row) for row in sheet.rows)
    notes = "".join(f'<p class="small">{_prose(note)}</p>' for note in sheet.notes)
    return (
        f'<div class="frame" tabindex="0" role="region" aria-label="{escape(sheet.title, quote=True)}"><table>'
        f"<caption>{escape(sheet.title)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>{notes}"
    )


def _sheet_row(row: Sequence[str]) -> str:
    cells: Iterable[str] = (f"<td>{escape(text)}</td>" for text in row[1:])
    return f'<tr><th scope="row">{_name(row[0])}</th>{"".join(cells)}</tr>'


# --- curves and provenance -------------------------------------------------------------------------------------------


def _curves(data: RunData) -> str:
    figures = [
        f"<figure><figcaption>{escape(title)}</figcaption>{curves.svg(title, lines, data.conditions)}"
        f'<ul class="key">{curves.key(lines, data.conditions)}</ul>{_curve_numbers(lines)}</figure>'
        for title, lines in curves.charts(data)
    ]
    if not figures:
        return "<p>No phase has written training metrics.</p>"
    chosen = selection_sheet(data)
    selected = f"<h3>{escape(chosen.title)}</h3>{_sheet(chosen)}" if chosen.rows else ""
    note = "Training loss against steps, one line for each seed; long phases are averaged in groups of steps."
    return f'<p>{note}</p><div class="charts">{"".join(figures)}</div>{selected}'


def _curve_numbers(lines: Sequence[curves.Line]) -> str:
    """The chart as text, for whoever cannot see it or wants to copy it: a line for each condition and seed."""
    text = "\n".join(
        f"{line.condition}, seed {line.seed}: "
        + "  ".join(f"{step}:{value:.3f}" for step, value in curves.thinned(line.points, CURVE_NUMBERS))
        for line in lines
    )
    return f'<details class="numbers"><summary>step:loss as text</summary><pre>{escape(text)}</pre></details>'


def _inputs(data: RunData) -> str:
    duplicates = duplicates_sheet(data)
    section = f"<h3>{escape(duplicates.title)}</h3>{_sheet(duplicates)}" if duplicates.rows else ""
    return _sheet(inputs_sheet(data)) + section


def _provenance(data: RunData) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in provenance_lines(data))
    recipe = data.run.recipe.read_text(encoding="utf-8")
    return f"<dl>{lines}</dl><details><summary>The recipe</summary><pre class='recipe'>{escape(recipe)}</pre></details>"
