"""The live page of a run as a browser shows it, while hostile words come in."""

import os
import shutil
from collections.abc import Iterator

import pytest
from browser import EACH_VIEW, Shown, expect, showing
from ledgers import experiment_row
from nights import NightWriter, write_night
from watched import Server, serving

from autoresearch_jax.engine.live import LiveWriter

EXPERIMENTS = 20
SOON = 2.0  # seconds after which a row is on the page
TRIES = 4  # of which one has to be soon: the machine may be busy
OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"
TRAINING = {"phase": "train", "budget_seconds": 60.0, "budget_steps": None, "tokens_per_second": 57_000.0}


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[NightWriter]:
    """A run that a driver is at work on."""
    with NightWriter(tmp_path_factory.mktemp("runs") / "night", seed=2, hostile=True) as night:
        night.write(EXPERIMENTS)
        night.save()
        with night.folder.lock():
            yield night


@pytest.fixture(scope="module")
def server(running) -> Iterator[Server]:
    with serving(running.folder) as server:
        yield server


@pytest.fixture(scope="module", params=EACH_VIEW)
def shown(request, chromium, server) -> Iterator[Shown]:
    """The page of `running`, open in each view."""
    with showing(chromium) as show:
        yield show(server.url, request.param)


@pytest.fixture(scope="module")
def trial(running):
    """A trial that goes on."""
    live = LiveWriter(running.folder, write_seconds=0)
    trial = running.begin()
    live.says("<img src=x onerror=alert(1)> was said")
    live.measures(running.ledger.experiment(trial.experiment), trial.id, "run 1")
    live.measures(experiment_row(999, "beside it"), 999, "champion's run 4")
    for number, budget in ((trial.id, 60.0), (999, 30.0)):
        for step in range(1, 40):
            report = {**TRAINING, "budget_seconds": budget, "step": step, "elapsed_seconds": step / 2}
            live.progress(number, {**report, "loss": 9 - step / 10})
    return trial


def row_of(shown: Shown, number: int):
    return shown.page.locator(f"[data-part='row-{number}']")


def test_every_experiment_is_a_point_and_the_running_trial_is_shown(shown, running, trial):
    expect(shown.points()).to_have_count(running.count - 1)
    expect(shown.page.locator("#connection")).to_contain_text(f"pid {os.getpid()}")
    expect(shown.page.locator("#now")).to_contain_text(f"experiment {trial.experiment}  ")
    expect(shown.page.locator("#now")).to_contain_text("run 1")
    expect(shown.page.locator("#now")).to_contain_text("loss 5.1")
    expect(shown.page.locator("#now progress").first).to_have_attribute("value", "0.325")
    expect(shown.page.locator("#now")).to_contain_text("experiment 999  beside it  champion's run 4")
    expect(shown.page.locator("#now progress").last).to_have_attribute("value", "0.65")
    expect(shown.page.locator("#now-curve .scatterlayer .js-line")).to_have_count(2)
    expect(shown.page.locator("#log")).to_contain_text("<img src=x onerror=alert(1)> was said")


def test_the_keyboard_reaches_everything_and_nothing_is_in_the_way(shown, trial):
    expect(shown.page.locator("#now progress").first).to_be_visible()
    shown.page.evaluate(OPEN_ALL)
    assert shown.tabbed() == shown.tab_stops()
    assert shown.violations() == ""
    assert shown.page.evaluate("document.documentElement.scrollWidth") == shown.page.viewport_size["width"]


def test_it_says_no_error_and_asks_no_one_else(shown, server):
    assert shown.errors == []
    assert {url.removeprefix(server.url).partition("?")[0] for url in shown.requests} == {
        "",
        "plotly.js",
        "page.js",
        "events",
    }


def test_a_new_experiment_appears_soon_and_takes_nothing_from_the_reader(show, server, running, trial):
    shown = show(server.url)
    folded = shown.page.locator("[data-list='kept'] details summary").first
    folded.focus()
    shown.page.keyboard.press("Enter")
    if running.ledger.open_trials():
        running.finish(trial)
    for number in range(running.count, running.count + TRIES):
        running.write(number + 1)
        try:
            expect(row_of(shown, number), SOON).to_have_count(1)
        except AssertionError:
            continue
        break
    else:
        pytest.fail(f"none of {TRIES} experiments was on the page within {SOON} s of its row")
    expect(shown.points()).to_have_count(running.count)
    expect(folded.locator("xpath=..").locator("table")).to_be_visible()
    assert shown.page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert shown.page.locator("main img, main script, main a, main i").count() == 0
    assert shown.errors == []
    assert shown.off_loopback == []


def test_the_page_says_what_becomes_of_its_run_and_goes_on(show, tmp_path):
    other = write_night(tmp_path / "other", 5, seed=3)
    with NightWriter(tmp_path / "night") as night, serving(night.folder) as server:
        shown = show(server.url)
        said = shown.page.locator("#connection")
        expect(shown.page.locator("h1")).to_contain_text("night")
        night.write(10)
        with night.folder.lock():
            night.save()
            expect(shown.points()).to_have_count(10)
            expect(said).to_contain_text("at work")
        expect(said).to_contain_text("killed")
        night.end("8 hours reached")
        expect(said).to_contain_text("ended: 8 hours reached")
        night.write(12)
        expect(shown.points()).to_have_count(12)
        for path in night.folder.path.glob("ledger.db*"):
            path.unlink()
        shutil.copy(other.ledger, night.folder.ledger)
        expect(shown.points()).to_have_count(5)
        expect(said).to_contain_text("ended")
        assert shown.errors == []
    expect(said).to_contain_text("gone")
    with serving(night.folder, port=server.port):
        expect(said).to_contain_text("ended")
        expect(shown.points()).to_have_count(5)


def test_a_page_that_is_refused_says_so(show, server):
    shown = show(server.url)
    shown.page.route("**/events*", lambda route: route.fulfill(status=403))
    shown.page.reload()
    expect(shown.page.locator("#connection")).to_contain_text("refuses")
