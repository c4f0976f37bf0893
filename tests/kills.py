"""Kills drivers of a fake task at random moments, and counts what that did to their runs: `python tests/kills.py`.

Half of the kills end the driver, as the kernel does that is short of memory; half end all that it started, too, in the
same moment, as a machine does that vanishes. Each run must come to the ledger of an uninterrupted one.
"""

import argparse
import os
import platform
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import repositories
from fake_driver import TAG, Nursery, Order, log_of
from fakes import PROGRAM, SOURCE
from ledgers import substance
from marked_processes import MARK, comes_true, marked_processes

from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.integrity import ledger_page_differences
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import SnapshotEvent
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.snapshots.store import MANIFEST

EXPERIMENTS = 20
TRIAL_SECONDS = 0.01
LONGEST_WORK_SHARE = 0.25  # of the work of a whole run, that a driver may do before it is killed
MOVED_TO = "elsewhere"  # folder in a repository
LOOKS, LOOK_SECONDS = 5, 0.01  # in vain, until nobody is left


@dataclass
class Toll:
    """What kills did.

    Attributes:
      kills: how many drivers were killed.
      machines: how many of them with all that they had started.
      runs: how many came to their end.
      results: trials that were in a ledger when a driver was killed.
      lost_results: how many of them were not there at the end, or were others.
      duplicates: trials of the ends beyond those of an uninterrupted run.
      differing_ledgers: ends that are not that of an uninterrupted run.
      corrupt_ledgers: ledgers, after a kill or at an end, that SQLite finds fault with.
      wrong_commits: ends whose branch or discarded commits are not what the ledger says.
      orphans: processes that outlived their driver.
    """

    kills: int = 0
    machines: int = 0
    runs: int = 0
    results: int = 0
    lost_results: int = 0
    duplicates: int = 0
    differing_ledgers: int = 0
    corrupt_ledgers: int = 0
    wrong_commits: int = 0
    orphans: int = 0


def make_repository(folder: Path) -> Path:
    """A git repository with the fake task's files."""
    repositories.make_repository(folder, SOURCE, PROGRAM)
    return folder


def ledger_path(repo: Path, tag: str = TAG) -> Path:
    """Of the run in a repository."""
    return RunFolder(repo / "runs" / tag).ledger


def substance_of(repo: Path) -> list[tuple]:
    """See `substance`."""
    with closing(Ledger.open_to_read(ledger_path(repo))) as ledger:
        return substance(ledger)


def finished_trials(repo: Path) -> set[tuple]:
    """The results in a run's ledger."""
    try:
        with closing(Ledger.open_to_read(ledger_path(repo))) as ledger:
            return {(t.id, t.experiment, t.seed, t.purpose, t.value) for t in ledger.trials() if t.status is not None}
    except (LedgerError, sqlite3.Error):  # there is none yet
        return set()


def git_differences(repo: Path, tag: str = TAG) -> list[str]:
    """Where branch and discarded commits are not what the ledger says."""
    with closing(Ledger.open_to_read(ledger_path(repo, tag))) as ledger:
        rows = ledger.experiments()

    def git(*words: str) -> list[str]:
        return subprocess.run(["git", *words], cwd=repo, check=True, capture_output=True, text=True).stdout.split()

    kept = [row.commit for row in rows if row.decision == "keep"]
    found = {
        "branch": (git("log", "--format=%H", "--reverse", f"main..autoresearch/{tag}"), kept[1:]),
        "discarded": (
            git("for-each-ref", "--format=%(objectname)", f"refs/autoresearch/{tag}"),
            [row.commit for row in rows if row.decision == "discard"],
        ),
        "worktree": (git("-C", f"runs/{tag}/workspace", "rev-parse", "HEAD"), kept[-1:]),
        "changed": (git("-C", f"runs/{tag}/workspace", "status", "--porcelain"), []),
        "broken": (git("fsck", "--no-dangling", "--no-progress"), []),
    }
    return [f"{name}: {is_there}, not {wanted}" for name, (is_there, wanted) in found.items() if is_there != wanted]


def snapshots_of(repo: Path) -> list[str]:
    """Names of what is in the run's folder of snapshots."""
    return sorted(path.name for path in RunFolder(repo / "runs" / TAG).snapshots.iterdir())


def moved_snapshots(repo: Path) -> list[tuple[str, str]]:
    """Names of the snapshots that a run moved to `MOVED_TO`, and what is in their manifests."""
    there = sorted((repo / MOVED_TO).glob("0*"))
    with closing(Ledger.open_to_read(ledger_path(repo))) as ledger:
        latest = ledger.snapshot_events().values()
        assert {row.place for row in latest if row.event is SnapshotEvent.MOVED} == set(map(str, there))
    return [(path.name, (path / MANIFEST).read_text()) for path in there]


def facts(repo: Path) -> dict[str, object]:
    """What a finished run has in common with every other one of its order."""
    return {
        "ledger": substance_of(repo),
        "snapshots": snapshots_of(repo),
        "moved": moved_snapshots(repo),
        "faults": [*git_differences(repo), *ledger_page_differences(ledger_path(repo))],
        "partial": [str(path) for path in repo.glob("runs/night/*.partial")],
    }


def go_on_from_states(
    nursery: Nursery, order: Order, choose: Callable[[Sequence[str]], Iterable[int]], folder: Path
) -> dict[int, object]:
    """Runs an order once, then again from the states that a kill would have left before some durable operations.

    Args:
      nursery: starts the drivers.
      order: of a repository without a run.
      choose: picks operations, by their numbers, from the labels of all.
      folder: an empty one.

    Returns:
      For each operation that made a difference, what the run came to.
    """
    repo, states, journal = Path(order.repo), folder / "states", folder / "journal"
    states.mkdir()
    assert nursery.run(replace(order, states=str(states), journal=str(journal))) == 0, log_of(repo)
    expected, found = facts(repo), {}
    assert expected["faults"] == expected["partial"] == []
    for number in choose(journal.read_text().splitlines()):
        shutil.rmtree(repo)
        (states / str(number)).rename(repo)
        assert nursery.run(order) == 0, (number, log_of(repo))
        if (came_to := facts(repo)) != expected:
            found[number] = came_to
    return found


def kill_at_random(
    nursery: Nursery, folder: Path, kills: int, seed: int, toll: Toll, experiments: int = EXPERIMENTS
) -> None:
    """Kills so many drivers, each at a random moment of its life, and starts them again until their runs are over."""
    draw = random.Random(seed)
    template = make_repository(folder / "template")
    order = Order(str(folder / "uninterrupted"), experiments, TRIAL_SECONDS)
    reference = Path(shutil.copytree(template, order.repo))
    whole_run = _seconds_of(nursery, order)
    wanted = substance_of(reference)
    start_up = _seconds_of(nursery, order)  # on a finished run there is nothing else to do
    longest_life = start_up + LONGEST_WORK_SHARE * (whole_run - start_up)
    while toll.kills < kills:
        repo = Path(shutil.copytree(template, folder / f"run {toll.runs}"))
        results: set[tuple] = set()
        while True:
            mark = f"{os.getpid()} {seed} {toll.kills}."  # no other one begins so
            has_worker = draw.random() < 0.5  # without one trials are quicker, and kills meet other moments
            pid = nursery.start(replace(order, repo=str(repo), has_worker=has_worker, variables={MARK: mark}))
            if toll.kills < kills:
                time.sleep(draw.uniform(0, longest_life))
                is_machine = draw.random() < 0.5
                _kill(pid)
                if is_machine:
                    _kill_all(mark)
            status = nursery.wait()
            toll.orphans += orphans(mark)
            if status != -signal.SIGKILL:
                break
            toll.kills += 1
            toll.machines += is_machine
            results |= finished_trials(repo)
            toll.corrupt_ledgers += is_corrupt(repo)
        assert status == 0, log_of(repo)
        toll.runs += 1
        _compare(repo, reference, wanted, results, toll)
        shutil.rmtree(repo)


def _seconds_of(nursery: Nursery, order: Order) -> float:
    begun = time.monotonic()
    assert nursery.run(order) == 0, log_of(Path(order.repo))
    return time.monotonic() - begun


def _compare(repo: Path, reference: Path, wanted: list[tuple], results: set[tuple], toll: Toll) -> None:
    final = finished_trials(repo)
    toll.results += len(results)
    toll.lost_results += len(results - final)
    toll.duplicates += max(0, len(final) - len(finished_trials(reference)))
    toll.differing_ledgers += substance_of(repo) != wanted or snapshots_of(repo) != snapshots_of(reference)
    toll.corrupt_ledgers += is_corrupt(repo)
    toll.wrong_commits += bool(git_differences(repo))


def is_corrupt(repo: Path) -> bool:
    """Whether SQLite finds fault with a run's ledger."""
    return (
        ledger_path(repo).exists()
        and finished_trials(repo) != set()
        and bool(ledger_page_differences(ledger_path(repo)))
    )


def orphans(mark: str) -> int:
    """How many processes are left of a driver that has ended; they are ended, too."""
    if comes_true(lambda: not marked_processes(mark)):
        return 0
    pids = marked_processes(mark)
    for pid in pids:
        _kill(pid)
    return len(pids)


def _kill_all(mark: str) -> None:
    """Ends whoever has the mark; one that is becoming another program shows no environment, and is looked for again."""
    looks_in_vain = 0
    while looks_in_vain < LOOKS:
        pids = marked_processes(mark)
        for pid in pids:
            _kill(pid)
        looks_in_vain = 0 if pids else looks_in_vain + 1
        time.sleep(LOOK_SECONDS)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"machine: {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", end=", ")
    print(f"{time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.2f}")
    start, toll = time.monotonic(), Toll()
    with tempfile.TemporaryDirectory() as name, closing(Nursery()) as nursery:
        kill_at_random(nursery, Path(name), args.kills, args.seed, toll)
    print(f"seconds: {time.monotonic() - start:.0f}")
    for figure, value in asdict(toll).items():
        print(f"{figure}: {value}")


if __name__ == "__main__":
    main()
