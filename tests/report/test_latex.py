"""What `stilts report` writes for papers: tables that a real pdflatex sets within the page, in each layout."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, QUICK, build_run

import stilts_ds
from stilts_ds.report.curves import Line
from stilts_ds.report.figure import write_curves, write_figures
from stilts_ds.report.latex import LAYOUTS, WIDTHS, Layout, latex_tables
from stilts_ds.report.latex_text import latex_escape
from stilts_ds.report.methods import bibliography
from stilts_ds.report.stats import ComparisonSettings, Difference
from stilts_ds.report.table import Cell, Row, Table
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir
from stilts_ds.tasks.registry import TASKS

FONT = "DejaVu Serif"
LONG = "a_very_long_name_of_a_condition_with_everything"
TARGETS = ("xnli", "pawsx", "udpos", "panx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba")


def cell(score: float | None, gain: float | None = None, significant: bool | None = True) -> Cell:
    return Cell(score, None if gain is None else Difference(gain, significant=significant))


def matrix(rows: int = 3, targets: tuple[str, ...] = TARGETS) -> Table:
    names = ["none", HOSTILE, LONG, "W" * 40, *(f"condition {i}" for i in range(4, rows))][:rows]
    made = [
        Row(name, tuple(cell(50.0 + i, float(i) if i else None, i % 2 == 0) for _ in targets))
        for i, name in enumerate(names)
    ]
    notes = ("A gain is the difference to none. " * 10,)
    return Table("matrix", "Conditions and targets", "condition", targets, tuple(made), notes, "column")


def body(text: str) -> list[str]:
    return [line for line in text.splitlines() if " & " in line]


def compile_pdf(fragment: str, width: float, folder: Path, program: str = "pdflatex") -> str:
    """What pdflatex says of a document whose text is `width` points wide; fails where it does not end well."""
    if shutil.which(program) is None:
        pytest.skip("needs pdflatex with booktabs (Debian: texlive-latex-recommended)")
    (folder / "tables.tex").write_text(fragment, encoding="utf-8")
    unicode = rf"\usepackage{{fontspec}}\setmainfont{{{FONT}}}"
    letters = unicode if program == "lualatex" else r"\usepackage[T1]{fontenc}"
    (folder / "paper.tex").write_text(
        rf"\documentclass{{article}}{letters}\usepackage{{booktabs}}"
        rf"\setlength{{\textwidth}}{{{width}pt}}\setlength{{\textheight}}{{550pt}}"
        r"\begin{document}\input{tables}\end{document}"
    )
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, errors="replace")
    assert done.returncode == 0 and (folder / "paper.pdf").is_file(), done.stdout[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    conditions = {"none": [], "mnli": ["mnli"], HOSTILE: ["squad_v1"], LONG: ["anli_plus", "qqp"]}
    folder = tmp_path_factory.mktemp("run") / "study"
    run = build_run(folder, intermediate=conditions, seeds=(1, 2, 3), examples=40, model="FacebookAI/xlm-roberta-base")
    write_report(run, QUICK)
    return run


@pytest.mark.processes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pdflatex_sets_a_run_within_the_page(study: RunDir, layout: str, tmp_path: Path) -> None:
    suffix = "" if layout == "wide" else f"-{layout}"
    fragment = (study.root / f"report{suffix}.tex").read_text(encoding="utf-8")
    said = compile_pdf(fragment, WIDTHS[layout], tmp_path)
    assert "Overfull" not in said and "too large for page" not in said and "multiply" not in said


SIGNS = r"""100%a&b_c#d$e{f}g~h^i\j<k>l|"m"`n`'o'--!`?`«q»“r”–—…"""
UNUSUAL: dict[str, dict[str, Any]] = {
    "one condition": {"intermediate": {"none": []}},
    "one trained condition": {"intermediate": {"mnli": ["mnli"]}, "seeds": (1, 2)},
    "one cell": {"targets": ("tatoeba",), "languages": {"tatoeba": ["de"]}},
    "forty languages": {"targets": ("panx",), "languages": {"panx": list(TASKS["panx"].languages)}},
    # The longest name that a recipe takes, of letters that are as wide as any, with and without places to break it.
    "names": {
        "intermediate": {"none": [], SIGNS: ["qqp"], "W" * 64: ["ccg"], "a-b.c_" * 10: ["mnli"], "Łódź ñß": ["mnli"]},
        "model": "/models/" + SIGNS * 3,
    },
}


@pytest.mark.processes
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", UNUSUAL)
def test_pdflatex_sets_unusual_runs_and_their_paragraph_within_the_page(
    case: str, layout: Layout, tmp_path: Path
) -> None:
    run = build_run(tmp_path / "study", examples=20, **UNUSUAL[case])
    write_report(run, ComparisonSettings(resamples=100))
    suffix = "" if layout == "wide" else f"-{layout}"
    parts = [(run.root / f"report{name}.tex").read_text(encoding="utf-8") for name in ("-methods", suffix)]
    said = compile_pdf("\n\n".join(parts), WIDTHS[layout], tmp_path)
    assert "Overfull" not in said and "too large for page" not in said and "Missing character" not in said


@pytest.mark.processes
def test_letters_that_pdflatex_has_not_are_set_by_lualatex(tmp_path: Path) -> None:
    # The program alone comes with pdflatex; its loader of fonts is another package.
    if subprocess.run(["kpsewhich", "luaotfload.sty"], capture_output=True).returncode:
        pytest.skip("needs lualatex with fontspec (Debian: texlive-luatex)")
    rows = (Row("русский", (cell(1.0),)), Row("ελληνικά", (cell(2.0),)))
    text = latex_tables("s", [Table("m", "M", "condition", ("xnli",), rows, (), "column")], [], "wide")
    assert "compile with lualatex" in text.splitlines()[1]
    said = compile_pdf(text, WIDTHS["wide"], tmp_path, "lualatex")
    assert "Overfull" not in said and "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")


@pytest.mark.processes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pdflatex_sets_the_whole_study_of_the_paper_within_the_page(layout: str, tmp_path: Path) -> None:
    text = latex_tables("study", [matrix(22)], [], layout)
    said = compile_pdf(text, WIDTHS[layout], tmp_path)
    assert "Overfull" not in said and "too large for page" not in said


@pytest.mark.processes
def test_pdflatex_sets_more_floats_than_it_holds(tmp_path: Path) -> None:
    tables = [replace(matrix(2, TARGETS[:3]), name=f"t{i}") for i in range(120)]
    compile_pdf(latex_tables("study", tables, [], "narrow"), WIDTHS["narrow"], tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_cell_is_left_out(layout: str) -> None:
    targets = TARGETS * 3
    rows = [Row(f"row {i}", tuple(cell(100 * i + j, 0.1) for j in range(len(targets)))) for i in range(60)]
    text = latex_tables("study", [Table("t", "T", "condition", targets, tuple(rows))], [], layout)
    if layout != "gains":  # which has the gains in their place
        for i in range(60):
            for j in range(len(targets)):
                assert f" {100 * i + j:.1f} " in text
    assert sum(line.count("$+0.1$") for line in body(text)) == 60 * len(targets)
    assert text.count(r"\label{") == 1 and text.count("(continued)") == text.count(r"\caption{") - 1


def test_the_highest_score_is_bold_and_a_tie_is_bold_twice() -> None:
    rows = (Row("none", (cell(50.04), cell(70.0))), Row("mnli", (cell(50.01, 0.0), cell(60.0, -10.0))))
    table = Table("matrix", "M", "condition", ("xnli", "udpos"), rows, (), "column")
    first, second, gains = body(latex_tables("s", [table], [], "wide"))[1:]
    assert first == r"none & \textbf{50.0} & \textbf{70.0} \\"
    assert second == r"mnli & \textbf{50.0} & 60.0 \\"
    assert gains == r" & {\scriptsize $+0.0$} & {\scriptsize $-10.0$} \\"


def test_nothing_is_bold_where_conditions_do_not_compete() -> None:
    table = Table("gap", "Gap", "condition", ("xnli",), (Row("a", (cell(1.0),)), Row("b", (cell(2.0),))))
    text = latex_tables("s", [table], [], "wide")
    assert "textbf" not in text and "Bold" not in text


def test_targets_bear_the_names_of_papers_and_conditions_their_own() -> None:
    columns = ("xnli", "udpos", "panx", "tydiqa", "average")
    rows = (Row("mnli", tuple(cell(1.0) for _ in columns)), Row("none", tuple(cell(1.0) for _ in columns)))
    head, first, _ = body(latex_tables("s", [Table("m", "M", "condition", columns, rows)], [], "wide"))
    assert [name in head for name in ("XNLI", "POS", "NER", "GoldP", "average")] == [True] * 5
    assert first.startswith("mnli & ")


def test_gains_alone_stand_beside_the_scores_that_they_are_over() -> None:
    rows = (Row("none", (cell(50.0),)), Row("mnli", (cell(51.5, 1.5, False),)))
    text = latex_tables("s", [Table("matrix", "M", "condition", ("xnli",), rows)], [], "gains")
    assert body(text)[1:] == [r"none & 50.0 \\", r"mnli & {\scriptsize $+1.5$}$^\circ$ \\"]


def test_a_table_is_turned_where_it_then_fits_into_one_column() -> None:
    text = latex_tables("s", [matrix(2)], [], "narrow")
    assert text.count(r"\begin{tabular}") == 1
    assert [line.split(" & ")[0] for line in body(text)][1::2][:3] == ["XNLI", "PAWS-X", "POS"]
    assert "highest score of a row" in text  # conditions are the columns now


def test_names_of_three_layouts_can_stand_in_one_paper() -> None:
    labels = [
        name for layout in LAYOUTS for name in re.findall(r"\\label{(.*?)}", latex_tables("s", [matrix()], [], layout))
    ]
    assert labels == ["tab:matrix", "tab:matrix-narrow", "tab:matrix-gains"]


def test_hyphens_of_an_option_are_no_dash() -> None:
    assert latex_escape("--resamples 5 % of _x_") == r"-{}-resamples 5 \% of \_x\_"


def test_the_report_has_the_three_layouts_and_a_paragraph(study: RunDir) -> None:
    names = sorted(path.name for path in study.root.glob("*.tex"))
    assert names == ["report-gains.tex", "report-methods.tex", "report-narrow.tex", "report.tex"]


# --- the paragraph on methods and its references ---------------------------------------------------------------------


@pytest.mark.processes
def test_pdflatex_and_bibtex_know_every_reference(study: RunDir, tmp_path: Path) -> None:
    if shutil.which("bibtex") is None:
        pytest.skip("needs bibtex")
    for name in ("report-methods.tex", "report.bib"):
        shutil.copy(study.root / name, tmp_path)
    text = (
        r"\documentclass{article}\usepackage[T1]{fontenc}\begin{document}\input{report-methods}"
        r"\bibliographystyle{plain}\bibliography{report}\end{document}"
    )
    (tmp_path / "paper.tex").write_text(text)
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper"]
    for command in (latex, ["bibtex", "paper"], latex, latex):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    # On the last run every citation has its number.
    assert "undefined" not in done.stdout and "Warning" not in (tmp_path / "paper.blg").read_text()


def test_methods_say_what_was_trained_and_cite_it(study: RunDir) -> None:
    text = (study.root / "report-methods.tex").read_text(encoding="utf-8")
    plain = text.replace(r"\allowbreak{}", "")
    assert r"\texttt{FacebookAI/xlm-roberta-base}~\cite{conneau-2020-xlmr}" in plain
    assert r"none: no other task; mnli: MultiNLI~\cite{williams-2018-multinli}" in text
    assert "ANLI R1-R3 + MNLI + SNLI" in text and r"and Quora Question Pairs~\cite{iyer-2017-qqp}" in text
    assert r"POS~\cite{nivre-2020-ud}" in text and "medians over 3 seeds" in text and "2,000 resamples" in text
    assert "a peak learning rate of $10^{-5}$" in text
    entries = (study.root / "report.bib").read_text(encoding="utf-8")
    assert entries.count("@") == len(set(re.findall(r"[a-z]+-\d{4}-\w+", text)))


def test_every_task_names_papers_that_are_in_the_bibliography() -> None:
    known = bibliography()
    for task in TASKS.values():
        assert task.family == "text" or task.cites, task.name  # the text of `mlm` is the user's own
        assert set(task.cites) <= set(known), task.name


def test_scores_of_each_seed_stand_in_long_form(study: RunDir) -> None:
    rows = list(csv.DictReader((study.root / "report-scores.csv").read_text(encoding="utf-8").splitlines()))
    main = [row for row in rows if row["condition"] == "mnli" and row["task"] == "xnli" and row["main"] == "True"]
    assert {(row["seed"], row["language"]) for row in main} == {(s, c) for s in "123" for c in ("en", "de", "sw", "zh")}
    frame = stilts_ds.load(study.root).scores()
    assert len(frame) == len(rows)
    assert [float(row["score"]) for row in rows] == frame["score"].tolist()


def test_the_report_says_how_to_make_it_again(study: RunDir) -> None:
    text = study.report.read_text(encoding="utf-8")
    assert "Reproduce: `stilts run recipe.yaml name=study-again" in text


@pytest.mark.parametrize("name", ["svg", "pdf"])
def test_pictures_for_papers_are_the_same_bytes_each_time(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = []
    for _ in range(2):
        write_figures(matrix(), [name], lambda suffix: tmp_path / f"report{suffix}", ["a remark"])
        made.append((tmp_path / f"report.{name}").read_bytes())
    assert made[0] == made[1]
    assert made[0].startswith(b"%PDF") if name == "pdf" else b">POS<" in made[0] and b">udpos<" not in made[0]


def test_the_longest_name_stands_whole_in_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    name = "a-b.c_d-" * 8
    table = Table("matrix", "M", "condition", ("xnli",), (Row(name, (cell(50.0),)),))
    write_figures(table, ["svg"], lambda suffix: tmp_path / f"report{suffix}", [])
    shown = re.findall(r">([a-d._-]+)</", (tmp_path / "report.svg").read_text(encoding="utf-8"))
    assert "".join(shown) == name


@pytest.mark.parametrize("name", ["svg", "pdf"])
def test_curves_for_papers_show_every_chart_and_condition(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    conditions = ["none", "5 % of $x_1$ & more", *(f"c{i}" for i in range(20))]
    lines = [Line(condition, seed, ((1, 2.0), (9, 1.0))) for condition in conditions for seed in (1, 2)]
    charts = [(f"Target: t_{i}", lines) for i in range(4)]
    made = []
    for _ in range(2):
        write_curves(charts, conditions, [name], lambda suffix: tmp_path / f"report-curves{suffix}")
        made.append((tmp_path / f"report-curves.{name}").read_bytes())
    assert made[0] == made[1]
    if name == "svg":
        text = made[0].decode()
        assert all(f">{title}<" in text for title, _ in charts) and ">5 % of $x_1$ &amp; more<" in text
        assert text.count("stroke-dasharray") > 14 and "c19" in text


def test_a_report_draws_the_matrix_and_the_curves(study: RunDir) -> None:
    pytest.importorskip("matplotlib")
    write_report(study, QUICK, figures=("svg",))
    assert b">Intermediate training<" in (study.root / "report-curves.svg").read_bytes()
    assert (study.root / "report.svg").is_file()


def test_a_picture_is_as_wide_as_its_longest_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    widths = {}
    for name, remark in (("short", "a"), ("long", "a remark that goes on and on " * 20)):
        write_figures(matrix(2, ("xnli",)), ["svg"], lambda suffix, name=name: tmp_path / f"{name}{suffix}", [remark])
        view = re.search(r'viewBox="0 0 ([\d.]+) ', (tmp_path / f"{name}.svg").read_text())
        widths[name] = float(view[1]) if view else 0.0
    assert widths["long"] > 3 * widths["short"] > 0
