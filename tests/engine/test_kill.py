"""A driver that is killed, stopped, or started twice: the same command gives the same run."""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fake_driver import Nursery, Order, log_of
from kills import (
    Toll,
    git_differences,
    kill_at_random,
    ledger_path,
    make_repository,
    orphans,
    snapshots_of,
    substance_of,
)
from marked_processes import MARK

from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.integrity import ledger_page_differences
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Purpose
from autoresearch_jax.engine.run_folder import RunFolder, RunFolderError
from autoresearch_jax.sandbox.faults import NUMBERS, VARIABLE, FaultPoint, fault_in
from autoresearch_jax.snapshots.log import SnapshotEvent
from autoresearch_jax.snapshots.remote import MANIFEST

EXPERIMENTS = 4
KEPT, DISCARDED = 3, 4  # experiments of a run of so many
CANDIDATE, CHAMPION = 7, 8  # trials of the kept one: to decide on it, and to know it as the new champion

OF_TRIALS = (FaultPoint.AFTER_TRIAL_INTENT, FaultPoint.AFTER_MEASUREMENT, FaultPoint.AFTER_TRIAL_RESULT)
OF_EXPERIMENTS = (
    *(FaultPoint.AFTER_PROPOSAL, FaultPoint.AFTER_EXPERIMENT_INTENT, FaultPoint.AFTER_TRACE, FaultPoint.AFTER_PROGRAM),
    *(FaultPoint.AFTER_COMMIT, FaultPoint.AFTER_CONCLUSION, FaultPoint.AFTER_WORKTREE, FaultPoint.AFTER_RESULTS),
)
OTHERS = [point for point in FaultPoint if point not in NUMBERS]
OF_MOVES = (FaultPoint.AFTER_COPY, FaultPoint.AFTER_MOVE)
OF_ENDINGS = (FaultPoint.AFTER_COMMIT, FaultPoint.AFTER_CONCLUSION, FaultPoint.AFTER_WORKTREE)
POINTS = [
    *(f"{point}:{trial}" for point in OF_TRIALS for trial in (CANDIDATE, CHAMPION)),
    *(f"{point}:{KEPT}" for point in OF_EXPERIMENTS),
    *(f"{point}:{number}" for point in OF_ENDINGS for number in (0, DISCARDED)),
    *(str(point) for point in FaultPoint if point not in (*OF_TRIALS, *OF_EXPERIMENTS, *OF_MOVES)),
]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with closing(Nursery()) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("template") / "repo")


@pytest.fixture(scope="module")
def uninterrupted(nursery: Nursery, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a finished run."""
    repo = shutil.copytree(template, tmp_path_factory.mktemp("uninterrupted") / "repo")
    assert nursery.run(Order(str(repo), EXPERIMENTS)) == 0, log_of(repo)
    return repo


def ledger_of(repo: Path) -> Ledger:
    return Ledger.open_to_read(ledger_path(repo))


def experiments_of(repo: Path) -> list[ExperimentRow]:
    with closing(ledger_of(repo)) as ledger:
        return ledger.experiments()


def number_of_trials(repo: Path) -> int:
    try:
        with closing(ledger_of(repo)) as ledger:
            return len(ledger.trials())
    except (LedgerError, sqlite3.Error):  # the file is there and the tables are not yet
        return 0


def wait_for_trial(repo: Path) -> None:
    """Returns when a trial is at work; fails if none ever is."""
    deadline = time.monotonic() + 60
    while number_of_trials(repo) == 0:
        assert time.monotonic() < deadline, log_of(repo)
        time.sleep(0.02)
    time.sleep(0.1)


def test_the_uninterrupted_run_has_what_the_points_are_about(uninterrupted: Path) -> None:
    with closing(ledger_of(uninterrupted)) as ledger:
        assert ledger.experiment(KEPT).decision == "keep"
        assert ledger.experiment(DISCARDED).decision == "discard"
        purposes = {trial.id: trial.purpose for trial in ledger.trials(KEPT)}
    assert (purposes[CANDIDATE], purposes[CHAMPION]) == (Purpose.CANDIDATE, Purpose.CHAMPION)
    assert {*(point.partition(":")[0] for point in POINTS), *OF_MOVES} == set(FaultPoint)


@pytest.mark.parametrize("point", POINTS)
def test_dead_at_any_point_a_run_goes_on_as_if_nothing_had_been(
    point: str, nursery: Nursery, template: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    repo = shutil.copytree(template, tmp_path / "repo")
    order = Order(str(repo), EXPERIMENTS)
    assert nursery.run(replace(order, variables={VARIABLE: point})) == -signal.SIGKILL, log_of(repo)
    assert ledger_page_differences(ledger_path(repo)) == []
    assert nursery.run(order) == 0, log_of(repo)
    assert substance_of(repo) == substance_of(uninterrupted)
    assert git_differences(repo) == []
    assert snapshots_of(repo) == snapshots_of(uninterrupted)
    assert ledger_page_differences(ledger_path(repo)) == []
    assert [path.name for path in repo.glob("runs/night/*.new")] == []


@pytest.mark.parametrize("point", [*OF_MOVES, FaultPoint.AFTER_EXPIRY, f"{FaultPoint.AFTER_RESULTS}:{KEPT}"])
def test_snapshots_that_are_kept_elsewhere_are_there_whole_after_a_kill(
    point: str, nursery: Nursery, template: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    repo, place = shutil.copytree(template, tmp_path / "repo"), tmp_path / "elsewhere"
    order = Order(str(repo), EXPERIMENTS, place=str(place))
    assert nursery.run(replace(order, variables={VARIABLE: point})) == -signal.SIGKILL, log_of(repo)
    assert nursery.run(order) == 0, log_of(repo)
    assert substance_of(repo) == substance_of(uninterrupted)
    assert snapshots_of(repo) == []
    there = sorted(place.glob("0*"))
    assert [path.name for path in there] == snapshots_of(uninterrupted)
    with closing(ledger_of(repo)) as ledger:
        latest = ledger.snapshots.latest()
        moved = {row.place for row in latest.values() if row.event is SnapshotEvent.MOVED}
    assert moved == {str(path) for path in there}
    assert all((path / MANIFEST).read_text() == path.name for path in there)


def test_a_trial_that_was_trained_before_the_kill_is_not_trained_again(
    nursery: Nursery, template: Path, tmp_path: Path
) -> None:
    repo = shutil.copytree(template, tmp_path / "repo")
    order = Order(str(repo), 0, has_worker=True)
    killed = nursery.run(replace(order, variables={VARIABLE: FaultPoint.AFTER_SNAPSHOT_RENAME}))
    assert killed == -signal.SIGKILL, log_of(repo)
    state = RunFolder(repo / "runs" / "night").snapshots / "0000-0001" / "state"
    trained = state.read_bytes()
    assert nursery.run(order) == 0, log_of(repo)
    assert state.read_bytes() == trained


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments_lose_nothing(nursery: Nursery, tmp_path: Path) -> None:
    toll = Toll()
    kill_at_random(nursery, tmp_path, 200, 1, toll)
    print(asdict(toll))
    assert toll.kills == 200
    assert toll.machines > 50
    assert toll.results > toll.kills, "the kills were too early to spoil anything"
    assert toll.runs > 2
    bad = (toll.lost_results, toll.duplicates, toll.differing_ledgers, toll.corrupt_ledgers, toll.wrong_commits)
    assert (*bad, toll.orphans) == (0, 0, 0, 0, 0, 0), toll


def test_a_point_that_does_not_exist_is_named() -> None:
    assert fault_in(None) is None
    assert fault_in("after_trace") is None
    assert fault_in("after_trace:3") is None
    for wrong in ("after_all", "after_trace:", "after_trace:x", "after_ref:1", ""):
        said = str(fault_in(wrong))
        assert said.startswith(f"{VARIABLE}={wrong}: expected POINT:NUMBER or POINT of after_proposal (of an ")
        assert said.endswith("; or POINT of after_ref, " + ", ".join(OTHERS[1:]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_cleanly_and_it_can_go_on(
    number: int, nursery: Nursery, template: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    repo, mark = shutil.copytree(template, tmp_path / "repo"), f"{tmp_path} {number}"
    order = Order(str(repo), EXPERIMENTS)
    slow = replace(order, trial_seconds=30.0, has_worker=True, variables={MARK: mark})
    pid = nursery.start(slow)
    wait_for_trial(repo)
    sent_at = time.monotonic()
    os.kill(pid, number)
    assert nursery.wait() == 0, log_of(repo)
    assert time.monotonic() - sent_at < 10
    assert orphans(mark) == 0
    assert "ended:               interrupted; the same command goes on from here" in log_of(repo)
    with closing(ledger_of(repo)) as ledger:
        trial = ledger.open_trial()
        assert trial is not None
        assert trial.interrupted_at is not None
        assert ledger.open_experiment() == ledger.experiment(0)
    assert nursery.run(order) == 0, log_of(repo)
    assert substance_of(repo) == substance_of(uninterrupted)
    with closing(ledger_of(repo)) as ledger:
        assert all(trial.interrupted_at is None for trial in ledger.trials())


def test_a_second_signal_is_immediate(nursery: Nursery, template: Path, tmp_path: Path) -> None:
    repo, mark = shutil.copytree(template, tmp_path / "repo"), str(tmp_path)
    pid = nursery.start(Order(str(repo), EXPERIMENTS, 30.0, has_worker=True, stubborn=True, variables={MARK: mark}))
    wait_for_trial(repo)
    os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(pid, signal.SIGINT)
    assert nursery.wait() == -signal.SIGINT
    assert orphans(mark) == 0


def test_a_second_driver_is_refused_by_name(repo: Path) -> None:
    folder = RunFolder(repo / "runs" / "night")
    folder.create()
    with folder.lock():
        holder = folder.holder()
        assert holder is not None
        assert holder.startswith(f"pid {os.getpid()} on ")
        with (
            pytest.raises(RunFolderError, match=rf"night: pid {os.getpid()} on \S+ is at work on this run already"),
            folder.lock(),
        ):
            pass
    assert folder.holder() is None
