"""A disk that is full, read-only or gone: noticed before anything is begun, and blamed for what it did."""

import errno
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from fakes import FakeTask, ScriptedProposer, moved
from small_disk import SmallDisk, small_disk

from autoresearch_jax.engine.disk import DiskError, DiskGuard, disk_trouble
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.types import CandidateRejected, Measurement, Status

MEGABYTE = 2**20
GOES_ON = "; the same command goes on from here"

# Writes more than there is room for in one transaction, or a little; prints what it fails with.
WRITER = """
import sys, time
from pathlib import Path
from autoresearch_jax.engine.database import Database
from autoresearch_jax.engine.disk import disk_trouble
name, number = sys.argv[1], int(sys.argv[2])
try:
    database = Database.open(Path("night/ledger.db"), time.time)
    with database.transaction():
        database.save_settings({"name": name})
        database.save_settings({f"{name}{index}": "x" * 4000 for index in range(number)})
    print("written", flush=True)
except Exception as error:
    print(type(error).__name__, disk_trouble(error), sep=": ", flush=True)
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""
CONTENTS = """
import sqlite3
ledger = sqlite3.connect("night/ledger.db")
(soundness,) = ledger.execute("PRAGMA integrity_check").fetchone()
values = dict(ledger.execute("SELECT name, value FROM settings"))
print(soundness, values["name"], len(values))
"""
READER = """
from pathlib import Path
from autoresearch_jax.engine.run_folder import RunFolder
print(RunFolder(Path("night")).holder())
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, megabytes=4, files=64) as disk:
        (disk.outside / "night").mkdir()
        yield disk


def guard(disk: SmallDisk, min_free_bytes: int = 0) -> DiskGuard:
    return DiskGuard(RunFolder(disk.outside / "night"), min_free_bytes)


def complaint(guard: DiskGuard, more_bytes: int = 0) -> str:
    with pytest.raises(DiskError) as caught:
        guard.require_room(more_bytes)
    return str(caught.value)


def test_a_disk_that_is_full_takes_no_more_files_or_can_only_be_read(disk):
    night = disk.outside / "night"
    guard(disk, MEGABYTE).require_room(2 * MEGABYTE)
    assert list(night.iterdir()) == [], "nothing is left of trying"
    disk.fill(leave_bytes=MEGABYTE + MEGABYTE // 2)
    guard(disk, MEGABYTE).require_room()
    assert complaint(guard(disk, 2 * MEGABYTE)) == (
        f"{night}: 1.5 MiB are free on its disk, but 2.0 MiB are to stay free (--min_free_gb): free some "
        "space, lower --min_free_gb, or move the run's folder (--run_dir)" + GOES_ON
    )
    assert (
        "1.5 MiB are free on its disk, but 0.8 MiB are needed for what comes next and 1.0 MiB are to stay free"
    ) in complaint(guard(disk, MEGABYTE), 3 * MEGABYTE // 4)
    disk.make_room()
    disk.fill()
    expected = f"{night}: the disk is full: free some space, or move the run's folder (--run_dir)"
    assert complaint(guard(disk)) == expected + GOES_ON
    assert list(night.iterdir()) == []
    disk.make_room()
    disk.remount("ro")
    assert complaint(guard(disk)).startswith(f"{night}: it can only be read now: mount its disk writable")
    disk.remount("rw")
    guard(disk, 2 * MEGABYTE).require_room()
    for number in range(64):
        try:
            (disk.outside / str(number)).touch()
        except OSError:
            break
    assert "its disk takes no more files though 4.0 MiB are free: remove some" in complaint(guard(disk))
    (disk.outside / "0").unlink()
    guard(disk).require_room()


def test_snapshots_on_a_disk_of_their_own_are_looked_after_too(disk, tmp_path):
    night = tmp_path / "other night"
    night.mkdir()
    (night / "snapshots").symlink_to(disk.outside / "night")
    apart = DiskGuard(RunFolder(night), 0)
    apart.require_room(2 * MEGABYTE)
    assert "are needed for what comes next" in complaint(apart, 5 * MEGABYTE)
    disk.fill()
    assert complaint(apart).startswith(f"{night}/snapshots: the disk is full: free some space")


def test_a_folder_that_is_gone(tmp_path):
    line = complaint(DiskGuard(RunFolder(tmp_path / "night"), 0))
    assert line.startswith(
        f"{tmp_path}/night: it cannot be written (No such file or directory): check that it is there"
    )


def write(disk: SmallDisk, name: str, number: int = 1) -> subprocess.CompletedProcess[str]:
    return disk.run([sys.executable, "-c", WRITER, name, str(number)])


def contents(disk: SmallDisk) -> str:
    """Whether the ledger is sound; what was written last, and how much there is."""
    return disk.run([sys.executable, "-c", CONTENTS]).stdout


def test_a_ledger_that_fills_the_disk_is_as_it_was_and_goes_on_when_there_is_room(disk):
    assert write(disk, "before").stdout == "written\n"
    was = contents(disk)
    assert was.startswith('ok "before"')
    failed = write(disk, "killed", 4000)
    assert ": the ledger: the disk is full: free some space" in failed.stdout, failed
    disk.remount("size=64m")
    assert contents(disk) == was
    assert write(disk, "after", 4000).stdout == "written\n"
    assert contents(disk) == f'ok "after" {int(was.split()[-1]) + 4000}\n'


def test_who_holds_a_run_can_be_asked_on_a_disk_that_can_only_be_read(disk):
    reader = [sys.executable, "-c", READER]
    (disk.outside / "night" / "driver.lock").touch()
    (disk.outside / "night" / "driver.txt").write_text("pid 12 on box\n")  # as a killed driver leaves it
    disk.remount("ro")
    assert disk.run(reader).stdout == "None\n"
    holder = disk.start(["flock", "night/driver.lock", "sh", "-c", "echo locked; exec cat"], stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "locked\n"
    assert disk.run(reader).stdout == "pid 12 on box\n"
    holder.communicate("")


def raised(error: BaseException, cause: BaseException | None = None, context: BaseException | None = None):
    if cause is not None:
        error.__cause__ = cause
    error.__context__ = context
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "runs/night/results.tsv")


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (FULL, "runs/night/results.tsv: the disk is full: free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", b"a"), "a: your quota of the disk is used up"),
        (OSError(errno.ESTALE, "Stale file handle", "a"), "a: its disk does not answer any more: mount it again"),
        (sqlite3.OperationalError("database or disk is full"), "the ledger: the disk is full"),
        (sqlite3.OperationalError("disk I/O error"), "the ledger: its disk fails"),
        (raised(RuntimeError("no"), context=raised(ValueError(), cause=FULL)), "runs/night/results.tsv: the disk is"),
        (ExceptionGroup("several", [ValueError(), FULL]), "runs/night/results.tsv: the disk is full"),
    ],
)
def test_the_disk_is_to_blame(error, start):
    line = disk_trouble(error)
    assert line.startswith(start)
    assert "\n" not in line
    assert not line.endswith(GOES_ON)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
        OSError("No space left on device"),  # a candidate may say so as well
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),  # of a socket
        RuntimeError("database or disk is full"),
        sqlite3.OperationalError("database is locked"),
    ],
)
def test_the_disk_is_not_to_blame(error):
    assert disk_trouble(error) is None


class Meddled(FakeTask):
    """The first candidate that is not the baseline fails, and something happens before that."""

    def __init__(self, step: str, happens: Callable[[], None]) -> None:
        super().__init__()
        self._step = step
        self._happens = happens

    def prepare(self, source, log_dir, **options):
        if "LR = 0.1" in source and self._step == "prepare":
            self._happens()
            raise CandidateRejected(Status.REJECTED, "no build")
        return super().prepare(source, log_dir, **options)

    def measure(self, candidate, *, seed, **options):
        if "LR = 0.1" in candidate.source and self._step == "measure":
            self._happens()
            return Measurement(Status.CRASH, None, seed, error="no space left")
        return super().measure(candidate, seed=seed, **options)


@pytest.mark.parametrize("step", ["measure", "prepare"])
def test_of_a_full_disk_no_candidate_is_to_blame(bench, monkeypatch, step):
    def run(task: FakeTask) -> None:
        bench.loop(task, ScriptedProposer([moved(LR=0.1)]), max_experiments=1).run()

    full = Mock(side_effect=OSError(errno.EDQUOT, "Disk quota exceeded"))
    with monkeypatch.context() as patch:
        task = Meddled(step, lambda: patch.setattr("autoresearch_jax.engine.disk.os.fsync", full))
        with pytest.raises(DiskError, match="your quota of the disk is used up"):
            run(task)
    assert bench.ledger().experiment(1).is_open
    run(FakeTask())
    assert bench.ledger().experiment(1).decision == "keep", "it is measured where there is room"


def test_a_known_program_is_not_entered_on_a_full_disk(bench, monkeypatch):
    full = Mock(side_effect=OSError(errno.EDQUOT, "Disk quota exceeded"))

    class Repeats(ScriptedProposer):
        def propose(self, brief):
            if brief.experiment == 2:
                monkeypatch.setattr("autoresearch_jax.engine.disk.os.fsync", full)
            return super().propose(brief)

    with pytest.raises(DiskError, match="your quota of the disk is used up"):
        bench.loop(FakeTask(), Repeats([moved(LR=0.9), moved(LR=0.9)]), max_experiments=2).run()
    assert bench.ledger().experiment(2).is_open
