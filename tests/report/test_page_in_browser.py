"""The report of a run as a browser shows it: at two widths, dark and light."""

from contextlib import closing
from pathlib import Path

import pytest
from browser import EACH_VIEW, Shown, View, expect, showing
from nights import write_night

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.summary import summarize_run

OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"
NARROW = View(390)
HOVERED = 12  # points whose words are shown by the mouse
# Elements and attributes that only a word of a candidate could have brought
FOREIGN = """[...document.querySelectorAll('img, iframe, a, i, textarea, [onerror], [onmouseover], [onload]')]
  .map(one => one.outerHTML)"""

CLICK_BASELINE = """place => { const chart = document.getElementById("progress");
  const traces = chart.data.filter(one => one.name === "baseline");
  chart.emit("plotly_click", { points: [{ customdata: traces[place].customdata[0] }] }) }"""


def write_report(*folders: RunFolder) -> Path:
    where = (f"--run_dir={folders[0].path.parent}", f"--tag={','.join(folder.path.name for folder in folders)}")
    assert main(["report", *where]) == 0
    if len(folders) == 1:
        return folders[0].path / "report.html"
    return folders[0].path.parent / f"report-{'-'.join(folder.path.name for folder in folders)}.html"


@pytest.fixture(scope="module")
def report(night: RunFolder) -> Path:
    return write_report(night)


@pytest.fixture(scope="module", params=EACH_VIEW)
def shown(request, chromium, report):
    """The report of `night`, open in each view."""
    with showing(chromium) as show:
        yield show(report.as_uri(), request.param)


def num_experiments(folder: RunFolder) -> int:
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        return len(ledger.experiments())


def kept(folder: RunFolder) -> int:
    """Number of the champion."""
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        champion = summarize_run(ledger).champion
        assert champion is not None
        return champion.id


def diff_of(shown: Shown, number: int):
    """What a kept experiment changed: the line to unfold it by, and the table."""
    folded = shown.page.locator(f"[data-part='diff-{number}']")
    return folded.locator("summary"), folded.locator("table")


def test_every_experiment_is_a_point_over_either_axis(shown, night):
    experiments = num_experiments(night)
    axis, points = shown.page.locator("#progress .xtitle"), shown.points()
    expect(axis).to_have_text("experiment")
    expect(points).to_have_count(experiments)
    shown.page.locator("input[value=experiments]").focus()
    shown.page.keyboard.press("ArrowRight")
    expect(axis).to_have_text("attended hours")
    expect(points).to_have_count(experiments)
    shown.page.keyboard.press("ArrowLeft")
    expect(axis).to_have_text("experiment")


def test_a_diff_unfolds_by_click_and_by_keyboard(shown, night):
    line, table = diff_of(shown, kept(night))
    expect(table).to_be_hidden()
    line.click()
    expect(table.locator("td.new").first).to_be_visible()
    line.click()
    expect(table).to_be_hidden()
    line.focus()
    for sees in (expect(table).to_be_visible, expect(table).to_be_hidden):
        shown.page.keyboard.press("Enter")
        sees()


def test_a_loss_curve_is_chosen(shown):
    baseline = shown.page.locator("#chosen option").last.get_attribute("value")
    shown.page.locator("#chosen").select_option(baseline)
    expect(shown.page.locator("#curves .scatterlayer .js-line")).to_have_count(2)


def test_the_keyboard_reaches_everything(shown):
    assert shown.tabbed() == shown.tab_stops()
    shown.page.evaluate(OPEN_ALL)
    assert shown.tabbed() == shown.tab_stops()


def test_nothing_is_in_the_way_of_anyone(shown):
    shown.page.evaluate(OPEN_ALL)
    assert shown.violations() == ""
    assert shown.page.evaluate("document.documentElement.scrollWidth") == shown.page.viewport_size["width"]


def test_it_says_no_error_and_asks_for_nothing(shown, report):
    assert shown.errors == []
    assert shown.requests == [report.as_uri()]


def test_hostile_words_stay_words(show, tmp_path, report):
    folder = write_night(tmp_path / "hostile", 30, seed=2, hostile=True)
    written = write_report(folder)
    shown = show(written.as_uri(), NARROW)
    shown.page.evaluate(OPEN_ALL)
    for box in [point.bounding_box() for point in shown.points().all()[:HOVERED]]:
        shown.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert written.read_text().count("<script") == report.read_text().count("<script")
    assert shown.page.evaluate(FOREIGN) == []
    words = shown.page.locator("main").inner_text()
    assert all(text in words for text in ("<script>alert(1)</script>", '"><img src=x', "{{ 7 * 7 }}", "</textarea>"))
    assert not set(words) & {"\u202e", "\u2067", "\x1b", "\x07"}
    assert len(words) < 1_000_000
    assert shown.violations() == ""
    assert shown.page.evaluate("document.documentElement.scrollWidth") == NARROW.width
    assert (shown.errors, len(shown.requests)) == ([], 1)


def test_runs_are_compared_on_one_page_also_one_of_its_baseline_alone(show, night):
    other = write_night(night.path.parent / "other", 1, seed=3)
    young = show(write_report(other).as_uri())
    expect(young.points()).to_have_count(1)
    assert (young.violations(), young.errors) == ("", [])
    shown = show(write_report(night, other).as_uri(), NARROW)
    expect(shown.points()).to_have_count(num_experiments(night) + num_experiments(other))
    for place, tag in enumerate((night.path.name, other.path.name)):
        shown.page.evaluate(CLICK_BASELINE, place)
        expect(shown.page.locator("#chosen option:checked")).to_contain_text(f"{tag}: 0 baseline")
    assert shown.violations() == ""
    assert (shown.errors, len(shown.requests)) == ([], 1)
