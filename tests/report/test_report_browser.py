"""The page in a real browser: nothing fails, nothing is loaded, it fits a phone, its numbers are those of the JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium
from report_runs import HOSTILE, TARGETS, build_run

from stilts_ds.display import signed
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="needs chromium: apt-get install chromium"),
]
PAPER = 1032  # CSS pixels of an A4 page on its side, without its margins
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


def test_paper_is_wide_enough_for_twenty_two_conditions(browser: Chromium, tmp_path: Path) -> None:
    conditions = {"none": [], **{f"{'long_name' * (i % 3)}_{i}+ccg": ["ccg"] for i in range(21)}}
    run = build_run(tmp_path / "study", intermediate=conditions, targets=("xnli", "tatoeba"), seeds=(1, 2), examples=9)
    write_report(run, ComparisonSettings(resamples=100))
    browser.open(run.root / "report.html", PAPER)
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        widest = browser.value(
            "Math.max(...[...document.querySelectorAll('table, pre, svg')].map(e => e.getBoundingClientRect().right))"
        )
        numbers_broken = browser.value(
            "[...document.querySelectorAll('.matrix td b')].filter(b => b.getClientRects().length > 1).length"
        )
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
    assert widest <= PAPER and numbers_broken == 0


def test_a_table_sorts_by_a_column_and_back(run: RunDir, browser: Chromium) -> None:
    browser.open(run.root / "report.html", 1280)
    names = "[...document.querySelectorAll('.matrix tbody th')].map(h => h.firstChild.textContent)"
    gains = "[...document.querySelectorAll('.matrix tbody tr')].map(r => parseFloat(r.cells[1].textContent))"
    press = "document.querySelectorAll('.matrix .sort')[1].click()"
    before = browser.value(names)
    browser.value(press)
    down = browser.value(gains)
    assert down == sorted(down, reverse=True)
    assert browser.value("document.querySelectorAll('.matrix th')[1].ariaSort") == "descending"
    browser.value(press)
    assert browser.value(gains) == sorted(down)
    browser.value(press)
    assert browser.value(names) == before


def test_rows_are_filtered_by_what_is_typed(browser: Chromium, tmp_path: Path) -> None:
    languages = {"panx": ["en", "de", "el", "zh", "ar", "he", "vi", "id", "jv"]}
    run = build_run(tmp_path / "study", targets=("panx",), languages=languages, examples=20)
    write_report(run, ComparisonSettings(resamples=200))
    browser.open(run.root / "report.html", 1280)
    shown = (
        "[...document.querySelectorAll('#languages-panx tbody tr')].filter(r => !r.hidden)"
        ".map(r => r.cells[0].firstChild.textContent)"
    )
    assert len(browser.value(shown)) == 10
    browser.value(
        "(() => { const i = document.querySelector('#languages-panx .filter'); i.value = 'german';"
        " i.dispatchEvent(new Event('input')) })()"
    )
    assert browser.value(shown) == ["de"]


def test_everything_is_there_without_the_script(run: RunDir, browser: Chromium) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(run.root / "report.html", 1280)
        # The protocol's own look at the page needs no script in it.
        root = browser.call("DOM.getDocument", depth=-1)["root"]
        html = browser.call("DOM.getOuterHTML", nodeId=root["nodeId"])["outerHTML"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert 'class="sort"' not in html and html.count("<table") == html.count("<caption>") > len(TARGETS)


def test_a_name_that_slips_through_runs_nothing(run: RunDir, browser: Chromium, tmp_path: Path) -> None:
    page = (run.root / "report.html").read_text(encoding="utf-8")
    slipped = page.replace(
        "<main>", "<main><script>document.title = 'ran'</script><img src=x onerror=\"document.title='ran'\">"
    )
    (tmp_path / "slipped.html").write_text(slipped, encoding="utf-8")
    browser.open(tmp_path / "slipped.html", 1280)
    assert browser.value("document.title") != "ran" and browser.problems


def test_dark_pages_have_light_text(run: RunDir, browser: Chromium) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        browser.open(run.root / "report.html", 1280)
        light = (
            "(s => { const m = s.match(/[0-9.]+/g).map(Number); return 0.2126 * m[0] + 0.7152 * m[1] + 0.0722 * m[2] })"
        )
        style = "getComputedStyle(document.body)"
        assert browser.value(f"{light}({style}.color)") > 180 > 60 > browser.value(f"{light}({style}.backgroundColor)")
        # A coloured cell keeps the ink that was chosen for its colour.
        cell = "getComputedStyle(document.querySelector('.matrix td.sure'))"
        contrast = f"Math.abs({light}({cell}.color) - {light}({cell}.backgroundColor))"
        assert browser.value(contrast) > 100
    finally:
        browser.call("Emulation.setEmulatedMedia", features=[])


def test_screen_readers_find_headings_and_table_headers(run: RunDir, browser: Chromium) -> None:
    browser.open(run.root / "report.html", 1280)
    assert browser.value("document.querySelectorAll('h1').length") == 1
    assert browser.value("[...document.querySelectorAll('tbody tr')].every(r => r.querySelector('th[scope=row]'))")
    assert browser.value("[...document.querySelectorAll('figure > svg')].every(s => s.getAttribute('aria-label'))")
    ids = browser.value("[...document.querySelectorAll('[id]')].map(e => e.id)")
    links = browser.value("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))")
    assert len(ids) == len(set(ids)) and set(links) <= set(ids)
