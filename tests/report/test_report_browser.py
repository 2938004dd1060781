"""The page in a real browser: nothing fails, nothing is loaded, it fits a phone, its numbers are those of the JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium
from report_runs import HOSTILE, TARGETS, build_run

from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.table import signed
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="needs chromium: apt-get install chromium"),
]
WIDTHS = pytest.mark.parametrize("width", [390, 820, 1280])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    many = {"none": [], "mnli": ["mnli"], HOSTILE: ["squad_v1"], "a_condition_with_a_rather_long_name": ["mnli", "ccg"]}
    made = build_run(tmp_path_factory.mktemp("run") / "study", intermediate=many)
    write_report(made, ComparisonSettings(resamples=2000))
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    found = Chromium(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@WIDTHS
def test_nothing_fails_and_nothing_is_loaded(run: RunDir, browser: Chromium, width: int) -> None:
    page = run.root / "report.html"
    browser.open(page, width)
    assert browser.problems == []
    assert browser.requests == [page.resolve().as_uri()]


@WIDTHS
@pytest.mark.parametrize("unfolded", [False, True])
def test_the_page_does_not_scroll_sideways(run: RunDir, browser: Chromium, width: int, unfolded: bool) -> None:
    browser.open(run.root / "report.html", width, mobile=width < 800)
    if unfolded:
        browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.value("document.documentElement.scrollWidth") <= width
    beyond = browser.value(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.frame, pre, svg') "
        f"&& e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 120))"
    )
    assert beyond == []


def test_the_matrix_shows_the_numbers_of_the_json(run: RunDir, browser: Chromium) -> None:
    browser.open(run.root / "report.html", 1280)
    shown = browser.value(
        "[...document.querySelectorAll('.matrix tbody tr')].map(r => "
        "[...r.querySelectorAll('td')].map(c => c.querySelector('b')?.textContent ?? c.textContent))"
    )
    matrix = read_json(run.results)["statistics"]["tables"]["matrix"]
    assert len(shown) == len(matrix) == 5
    for row, cells in zip(shown, matrix.values()):
        assert len(row) == len(TARGETS) + 1
        for text, cell in zip(row, cells.values()):
            if cell is None:
                assert text == "–"
            elif "gain" in cell:
                assert text == signed(cell["gain"]) + ("" if cell["significant"] else "°")
    names = browser.value("[...document.querySelectorAll('.matrix tbody th')].map(h => h.firstChild.textContent)")
    assert names[2].startswith("<img src=x")


def test_colour_marks_exactly_the_significant_cells(run: RunDir, browser: Chromium) -> None:
    browser.open(run.root / "report.html", 1280)
    cells = [c for row in read_json(run.results)["statistics"]["tables"]["matrix"].values() for c in row.values()]
    significant = sum(bool(cell and cell.get("significant")) for cell in cells)
    coloured = browser.value(
        "[...document.querySelectorAll('.matrix td')].filter(c => "
        "getComputedStyle(c).backgroundColor != 'rgba(0, 0, 0, 0)').length"
    )
    assert coloured == significant > 0


@WIDTHS
def test_text_is_large_enough_to_read(run: RunDir, browser: Chromium, width: int) -> None:
    browser.open(run.root / "report.html", width, mobile=width < 800)
    smallest = browser.value(
        "Math.min(...[...document.querySelectorAll('body *')].filter(e => !e.closest('svg') && "
        "[...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()))"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12


def test_a_target_leads_to_its_languages_and_unfolds_them(run: RunDir, browser: Chromium) -> None:
    browser.open(run.root / "report.html", 1280)
    assert browser.value("document.querySelector('details').open") is False
    browser.value("document.querySelector('.matrix thead a').click()")
    assert browser.value("location.hash") == "#languages-xnli"
    assert browser.value("document.getElementById('languages-xnli').closest('details').open") is True


def test_paper_shows_what_is_folded_on_the_screen(run: RunDir, browser: Chromium, tmp_path: Path) -> None:
    browser.open(run.root / "report.html", 1280)
    visible = "[...document.querySelectorAll('details > div')].map(d => d.checkVisibility())"
    on_screen = browser.value(visible)
    browser.call("Emulation.setEmulatedMedia", media="print")
    on_paper = browser.value(visible)
    browser.call("Emulation.setEmulatedMedia", media="")
    assert on_screen == [False] * len(TARGETS) and on_paper == [True] * len(TARGETS)
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_screen_readers_find_headings_and_table_headers(run: RunDir, browser: Chromium) -> None:
    browser.open(run.root / "report.html", 1280)
    assert browser.value("document.querySelectorAll('h1').length") == 1
    assert browser.value("[...document.querySelectorAll('tbody tr')].every(r => r.querySelector('th[scope=row]'))")
    assert browser.value("[...document.querySelectorAll('figure > svg')].every(s => s.getAttribute('aria-label'))")
    ids = browser.value("[...document.querySelectorAll('[id]')].map(e => e.id)")
    links = browser.value("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))")
    assert len(ids) == len(set(ids)) and set(links) <= set(ids)
