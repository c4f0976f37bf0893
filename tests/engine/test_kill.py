"""A driver that is killed, stopped, or started twice: the same command gives the same run."""

import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fake_driver import Nursery, Order, log_of
from kills import MOVED_TO, Toll, go_on_from_states, kill_at_random, ledger_path, make_repository, orphans, substance_of
from marked_processes import MARK

from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow
from autoresearch_jax.engine.run_folder import RunFolder

EXPERIMENTS = 3


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with closing(Nursery()) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("template") / "repo")


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


@pytest.mark.parametrize(
    ("moves", "points"),
    [(False, 7), (True, 4), *(pytest.param(moves, None, marks=pytest.mark.slow) for moves in (False, True))],
)
def test_dead_before_any_durable_operation_a_run_goes_on_as_if_nothing_had_been(
    moves: bool, points: int | None, nursery: Nursery, template: Path, tmp_path: Path
) -> None:
    def choose(operations: Sequence[str]) -> Iterable[int]:
        for kind in ("commit INSERT experiments", "rename", "remove", "git commit-tree", "git update-ref"):
            assert any(label.startswith(kind) for label in operations), kind
        numbers = range(len(operations))
        return numbers if points is None else random.sample(numbers, points)

    repo = shutil.copytree(template, tmp_path / "repo")
    order = Order(str(repo), EXPERIMENTS, place=str(repo / MOVED_TO) if moves else None)
    assert go_on_from_states(nursery, order, choose, tmp_path) == {}
    assert {"keep", "discard"} == {row.decision for row in experiments_of(repo)}


def test_a_trial_that_was_trained_before_the_kill_is_not_trained_again(
    nursery: Nursery, template: Path, tmp_path: Path
) -> None:
    repo, journal = Path(shutil.copytree(template, tmp_path / "repo")), tmp_path / "journal"
    order = Order(str(repo), 0, has_worker=True)
    assert (
        nursery.run(replace(order, repo=str(shutil.copytree(template, tmp_path / "other")), journal=str(journal))) == 0
    )
    operations = journal.read_text().splitlines()
    after = next(number for number, label in enumerate(operations) if label.endswith("/snapshots/0000-0001")) + 1
    assert nursery.run(replace(order, die_before=after)) == -signal.SIGKILL, log_of(repo)
    state = RunFolder(repo / "runs" / "night").snapshots / "0000-0001" / "state"
    trained = state.read_bytes()
    assert nursery.run(order) == 0, log_of(repo)
    assert state.read_bytes() == trained


@pytest.mark.parametrize(("kills", "experiments"), [(12, EXPERIMENTS), pytest.param(200, 20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing(kills: int, experiments: int, nursery: Nursery, tmp_path: Path) -> None:
    toll = Toll()
    kill_at_random(nursery, tmp_path, kills, 1, toll, experiments)
    print(asdict(toll))
    assert toll.kills == kills
    assert kills < 200 or (toll.machines > 50 and toll.results > kills and toll.runs > 2), "too early to spoil anything"
    bad = (toll.lost_results, toll.duplicates, toll.differing_ledgers, toll.corrupt_ledgers, toll.wrong_commits)
    assert (*bad, toll.orphans) == (0, 0, 0, 0, 0, 0), toll


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGTERM, signal.SIGHUP))]
)
def test_a_signal_ends_the_run_cleanly_and_it_can_go_on(
    number: int, nursery: Nursery, template: Path, tmp_path: Path
) -> None:
    repo, mark = shutil.copytree(template, tmp_path / "repo"), f"{tmp_path} {number}"
    order = Order(str(repo), EXPERIMENTS)
    slow = replace(order, trial_seconds=300.0, has_worker=True, variables={MARK: mark})
    pid = nursery.start(slow)
    wait_for_trial(repo)
    sent_at = time.monotonic()
    os.kill(pid, number)
    assert nursery.wait() == 0, log_of(repo)
    assert time.monotonic() - sent_at < 100
    assert orphans(mark) == 0
    assert "ended:               interrupted; the same command goes on from here" in log_of(repo)
    with closing(ledger_of(repo)) as ledger:
        trial = next(iter(ledger.open_trials()), None)
        assert trial is not None
        assert trial.interrupted_at is not None
        assert ledger.open_experiments() == [ledger.experiment(0)]
    assert nursery.run(order) == 0, log_of(repo)
    uninterrupted = shutil.copytree(template, tmp_path / "uninterrupted")
    assert nursery.run(replace(order, repo=str(uninterrupted))) == 0, log_of(uninterrupted)
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
