"""What a page says of a run, from the ledger of a made-up one."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from nights import write_night

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind, Purpose
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.history import OTHER, TRAINING, History, ReportError, Tried, read_history, sentences
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.types import ATTENDED_SHARE, WALL_SECONDS, Measurement, Status


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_night(tmp_path_factory.mktemp("runs") / "night", 120, audited=True)


@pytest.fixture(scope="module")
def ledger(night: RunFolder) -> Iterator[Ledger]:
    with closing(Ledger.open_to_read(night.ledger)) as opened:
        yield opened


@pytest.fixture(scope="module")
def history(night: RunFolder, ledger: Ledger) -> History:
    return read_history(ledger, night)


def test_every_experiment_is_a_point_and_hours_only_grow(history: History, ledger: Ledger) -> None:
    assert [point.row.id for point in history.points] == [row.id for row in ledger.experiments()]
    hours = [point.hours for point in history.points]
    assert hours == sorted(hours)
    spent = summarize_run(ledger).seconds / 3600
    assert 0.5 * spent < hours[-1] < spent


def test_a_run_of_the_champion_takes_its_hours_from_the_experiment_it_was_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "night")
    folder.create()
    now = 0.0
    with closing(Ledger.open(folder.ledger, clock=lambda: now)) as ledger:

        def measure(number: int, purpose: Purpose, wall: float, share: float) -> None:
            nonlocal now
            trial = ledger.begin_trial(number, seed=len(ledger.trials()), purpose=purpose)
            now += wall
            metrics = {WALL_SECONDS: wall, ATTENDED_SHARE: share}
            ledger.finish_trial(trial.id, Measurement(Status.OK, 1.0, trial.seed, metrics))

        ledger.save_settings({"metric": "val_bpb", "direction": "minimize"})
        ledger.begin_experiment(Intent(Kind.BASELINE, "x = 1\n", hypothesis="baseline"))
        measure(0, Purpose.CHAMPION, wall=3600, share=1)
        ledger.conclude(0, Status.OK, 1.0, Action.KEEP, "the baseline", None, 3600)
        ledger.begin_experiment(Intent(Kind.PROPOSAL, "x = 2\n", hypothesis="an idea", parent=0))
        measure(1, Purpose.CANDIDATE, wall=1800, share=1)
        measure(0, Purpose.CHAMPION, wall=5400, share=1 / 3)
        ledger.conclude(1, Status.OK, 1.0, Action.DISCARD, "no better", None, 7200)
        measure(0, Purpose.CERTIFY, wall=3600, share=0.5)
        now += 1
        ledger.begin_experiment(Intent(Kind.PROPOSAL, "x = 3\n", hypothesis="an idea", parent=0))
        ledger.conclude(2, Status.REJECTED, None, Action.DISCARD, "no program", None, 0)
        hours = [point.hours for point in read_history(ledger, folder).points]
    assert hours == pytest.approx([1.0, 2.0, 2.5])


def test_champions_begin_with_the_baseline_and_have_estimates(history: History) -> None:
    assert history.champions[0].outcome == "baseline"
    assert [edit.point for edit in history.kept] == list(history.champions[1:])
    assert all(point.row.decision is Action.KEEP and point.row.error for point in history.champions)
    assert len(history.kept) >= 3
    certified = [edit for edit in history.kept if edit.point.outcome == "certified"]
    assert len(certified) == history.summary.certified[0] > 0
    assert all(edit.probability >= 0.95 and edit.effect.mean > 0 for edit in certified)


def test_the_time_that_was_spent_is_told_apart(history: History) -> None:
    assert sum(history.seconds.values()) == pytest.approx(history.summary.seconds, rel=0.02)
    assert history.seconds[TRAINING] == max(history.seconds.values())
    assert history.seconds[OTHER] >= 0


def test_kinds_are_counted_and_told_in_words(history: History) -> None:
    found = sentences(history)
    named = {one.what: one for one in history.tried}
    assert found["What helped"]
    for line in found["What helped"]:
        one = named[line.partition(":")[0]]
        assert one.kept
        assert one.gain.mean > 0
        assert "better" in line
    for line in found["What did not help"]:
        one = named[line.partition(":")[0]]
        assert one.kept == one.reverted or one.failed > one.experiments / 2


def test_what_was_kept_is_never_said_not_to_be(night: RunFolder, history: History, tmp_path: Path) -> None:
    shutil.copy(night.ledger, tmp_path / "ledger.db")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
        connection.execute("UPDATE settings SET value = '\"greedy\"' WHERE name = 'decision'")
    with closing(Ledger.open_to_read(tmp_path / "ledger.db")) as ledger:
        greedy = read_history(ledger, RunFolder(tmp_path))
    kept = {one.what for one in greedy.tried if one.kept}
    assert kept
    assert {line.partition(":")[0] for line in sentences(greedy)["What is open"]} == kept
    reverted = Tried("schedule", experiments=9, measured=7, kept=2, certified=0, reverted=2, failed=0, gain=None)
    found = sentences(replace(history, tried=[reverted]))
    assert not found["What is open"]
    (line,) = found["What did not help"]
    assert "2 kept and reverted" in line


def test_an_audit_is_read_from_its_trials(history: History) -> None:
    (audit,) = history.audits
    assert audit.figures["gain_holdout"] > 0
    assert {row["subject"] for row in audit.table} == {"baseline", "champion"}


def test_what_models_took_is_summed_from_the_exchanges(history: History) -> None:
    assert history.model_use.requests > 0
    assert history.model_use.output_tokens > 0
    assert history.summary.dollars == pytest.approx(history.model_use.dollars)


def test_a_run_without_a_baseline_has_nothing_to_report(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.create()
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings({"metric": "val_bpb", "direction": "minimize"})
        with pytest.raises(ReportError, match="nothing is measured"):
            read_history(ledger, folder)
        ledger.begin_experiment(Intent(Kind.BASELINE, "x = 1\n", hypothesis="baseline"))
        with pytest.raises(ReportError, match="nothing is measured"):
            read_history(ledger, folder)


def test_a_ledger_of_trials_by_hand_is_no_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "trials")
    folder.create()
    with closing(Ledger.open(folder.ledger)) as ledger, pytest.raises(ReportError, match="trials by hand"):
        read_history(ledger, folder)
