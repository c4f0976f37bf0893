"""What a live page is told, as a ledger, a driver's live.json and its lock change."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from nights import write_night

from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import Live, Running, Waiting, write_live
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report import feed as feed_module
from autoresearch_jax.report.feed import KEPT_UPDATES, RunFeed
from autoresearch_jax.report.history import History
from autoresearch_jax.types import Status


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_night(tmp_path_factory.mktemp("runs") / "night", 40)


@pytest.fixture
def folder(original: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(original.path, tmp_path / "night")
    return RunFolder(tmp_path / "night")


def feed_of(folder: RunFolder) -> RunFeed:
    return RunFeed(folder, lambda history: f"autoresearch run --tag={history.tag}")


def add_experiment(folder: RunFolder, hypothesis: str) -> int:
    with closing(Ledger.open(folder.ledger)) as ledger:
        last = ledger.experiments()[-1].id
        row = ledger.begin_experiment(
            Intent(Kind.PROPOSAL, ledger.source(last), hypothesis=hypothesis, category="optimizer", parent=0)
        )
        ledger.conclude(row.id, Status.CRASH, None, None, "it crashed", None, 3.0)
    return row.id


def named(events: list[dict], name: str) -> list[dict]:
    return [event["data"] for event in events if event["event"] == name]


def test_a_new_row_changes_its_own_part_the_figures_and_one_point(folder: RunFolder) -> None:
    feed = feed_of(folder)
    before = feed.signature()
    assert feed.look() == []
    number = add_experiment(folder, "a <b>bold</b> idea")
    assert feed.signature() != before
    (update,) = named(feed.look(), "update")
    assert [point[0] for point in update["points"]] == [number]
    assert update["champions"] is None
    assert {"head", "figures", f"row-{number}"} <= update["parts"].keys()
    assert len(update["parts"]) < 8
    assert "a &lt;b&gt;bold&lt;/b&gt; idea" in update["parts"][f"row-{number}"]["html"]
    assert feed.look() == []


def test_a_page_gets_what_it_missed_and_loads_again_after_too_much(folder: RunFolder) -> None:
    feed = feed_of(folder)
    made_at = feed.page().partition('data-live="')[2].partition('"')[0]
    numbers = []
    for index in range(2):
        numbers.append(add_experiment(folder, f"idea {index}"))
        feed.look()
    missed = named(feed.events_since(made_at), "update")
    assert [point[0] for update in missed for point in update["points"]] == numbers
    assert named(feed.events_since("another-1"), "reload")
    assert named(feed.events_since("nonsense"), "reload")
    assert not named(feed.events_since(made_at), "reload")
    assert KEPT_UPDATES > 2


def test_the_running_trial_is_shown_while_a_driver_holds_the_run(folder: RunFolder) -> None:
    report = {"phase": "train", "step": 30, "elapsed_seconds": 3.0, "budget_seconds": 6.0, "loss": 4.5}
    trial = Running(7, "", "a wider model", 20, "run 2", report, ((1.0, 5.0), (3.0, 4.5)))
    live = Live(os.getpid(), 0.0, (trial,), None, ((0.0, "a line"),))
    write_live(folder, live)
    with held(folder):
        feed = feed_of(folder)
        events = feed.events_since("none")
        (now,) = named(events, "now")
        (shown,) = now["trials"]
        assert shown["lines"][0] == "experiment 7  a wider model  run 2"
        assert "step 30" in shown["lines"][1]
        assert shown["share"] == 0.5
        assert shown["curve"] == [[1.0, 5.0], [3.0, 4.5]]
        assert (now["lines"], now["unit"]) == ([], "seconds of the budget")
        assert now["log"][0].endswith("a line")
        (state,) = named(events, "state")
        assert not state["isTrouble"]
        waiting = Waiting("the service does not answer", 1_700_000_000.0, 1_700_000_060.0)
        write_live(folder, replace(live, waiting=waiting))
        (now,) = named(feed.look(), "now")
        assert "the service does not answer" in now["lines"][0]
        assert [(len(one["lines"]), one["share"]) for one in now["trials"]] == [(1, None)]
        others = (trial, Running(9, trial=21, run="champion's run 4", report=report), Running(10))
        write_live(folder, replace(live, waiting=waiting, trials=others))
        (now,) = named(feed.look(), "now")
        shown = [(one["name"], one["share"]) for one in now["trials"]]
        assert shown == [("7 run 2", 0.5), ("9 champion's run 4", 0.5), ("10", None)], "others go on meanwhile"
    (now,) = named(feed.look(), "now")
    assert len(now["lines"]) == 1
    assert now["log"][0].endswith("a line")


def test_a_driver_that_died_is_told_apart_from_one_that_ended(folder: RunFolder) -> None:
    feed = feed_of(folder)
    (state,) = named(feed.events_since("none"), "state")
    assert state["words"].startswith("ended: ")
    with held(folder):
        with closing(Ledger.open(folder.ledger)) as ledger:
            ledger.begin_session()
        (state,) = named(feed.look(), "state")
        assert "at work" in state["words"]
    (state,) = named(feed.look(), "state")  # its lock is gone, and it has not said why
    assert state["isTrouble"]
    assert "killed" in state["words"]


def test_a_ledger_that_is_replaced_is_read_anew(folder: RunFolder, original: RunFolder) -> None:
    feed = feed_of(folder)
    kept = folder.ledger.with_name("kept.db")
    folder.ledger.rename(kept)
    (state,) = named(feed.look(), "state")
    assert state["isTrouble"]
    assert str(folder.ledger) in state["words"]
    folder.ledger.write_bytes(b"no database")
    (state,) = named(feed.look(), "state")
    assert state["isTrouble"]
    folder.ledger.unlink()
    shutil.copy(original.ledger, folder.ledger)
    number = add_experiment(folder, "in the new ledger")
    events = feed.look()
    assert named(events, "reload")
    assert not named(events, "state")[0]["isTrouble"]
    assert f'data-part="row-{number}"' in feed.page()


def test_a_row_is_told_although_its_first_reading_failed(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    feed = feed_of(folder)
    number = add_experiment(folder, "an idea")
    for error in (sqlite3.OperationalError("database is locked"), ValueError("7 is not in list")):
        with monkeypatch.context() as patch:
            patch.setattr(feed_module, "read_history", raising(error))
            (state,) = named(feed.look(), "state")
            assert state["isTrouble"]
            assert str(error) in state["words"]
            assert feed.look() == []
    assert len(caplog.records) == 1  # of the error that is ours, once
    events = feed.look()
    (state,), (update,) = named(events, "state"), named(events, "update")
    assert not state["isTrouble"]
    assert [point[0] for point in update["points"]] == [number]


def raising(error: Exception) -> Callable[..., History]:
    def read(*arguments: object) -> History:
        raise error

    return read


def test_a_row_is_told_although_the_files_changed_before_it_could_be_read(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = feed_of(folder)
    monkeypatch.setattr(RunFeed, "signature", lambda feed: ())
    number = add_experiment(folder, "an idea")
    (update,) = named(feed.look(), "update")
    assert [point[0] for point in update["points"]] == [number]
    assert feed.look() == []


def test_a_lock_that_cannot_be_read_is_said(folder: RunFolder) -> None:
    feed = feed_of(folder)
    lock = folder.path / "driver.lock"
    lock.symlink_to(lock)
    (state,) = named(feed.look(), "state")
    assert state["isTrouble"]
    assert str(lock) in state["words"]
    lock.unlink()
    (state,) = named(feed.look(), "state")
    assert not state["isTrouble"]


def test_a_run_without_a_baseline_has_a_page_that_loads_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.create()
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings({"metric": "val_bpb", "direction": "minimize"})
    feed = feed_of(folder)
    assert "the baseline is not measured" in feed.page()
    assert not named(feed.look(), "reload")


def test_a_ledger_of_another_version_is_refused(folder: RunFolder) -> None:
    with closing(sqlite3.connect(folder.ledger)) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(LedgerError, match=r"ledger\.db"):
        feed_of(folder)


@contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """The run's lock, as another process would hold it."""
    with (folder.path / "driver.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
