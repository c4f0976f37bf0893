"""Whether the places that a run writes to can be written to, have room, and are file systems that keep their word.

Everything is tried in a temporary folder, which is removed again.
"""

import errno
import fcntl
import os
import re
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.commands.checks.check import Check, reason, shown
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger

SMALL_RUN_BYTES = 100_000_000  # six small experiments take up to 60 MB
NIGHT_BYTES = 1_000_000_000  # a hundred of them
SLOW_FSYNC_SECONDS = 0.5  # several for each trial
_NUM_FSYNCS = 5
_FSYNC_LIMIT_SECONDS = 2.0  # for all of them
_BLOCK = b"0" * 4096
_GIGABYTE = 1e9
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Place:
    """A folder that is written to, there already or not.

    Attributes:
      name: of its lines.
      flag: that says where it is.
      path: as the flag has it.
      purpose: what is kept there.
      is_needed: whether a run cannot do without.
      least_bytes: that it leaves free.
    """

    name: str
    flag: str
    path: Path
    purpose: str
    is_needed: bool
    least_bytes: int = 0


@dataclass(frozen=True)
class _Abilities:
    """What a file system cannot do: what fails, and what a run makes do without."""

    failing: list[str]
    lacking: list[str]


def check_disk(run_dir: Path, data_dir: Path, compile_cache: Path | None, min_free_bytes: int) -> Iterator[Check]:
    """The folder of the runs, of the datasets, and of XLA's compile cache.

    Args:
      run_dir: value of --run_dir.
      data_dir: value of --data_dir.
      compile_cache: value of --compile_cache; None for none.
      min_free_bytes: what a run leaves free.
    """
    yield from check_place(Place("run_dir", "--run_dir", run_dir, "a run", True, min_free_bytes))
    yield from check_place(Place("data_dir", "--data_dir", data_dir, "`autoresearch prepare`", is_needed=False))
    if compile_cache is None:
        yield Check("compile_cache", "none, as --compile_cache says")
        return
    yield from check_place(
        Place("compile_cache", "--compile_cache", compile_cache, "each trial, to compile faster,", is_needed=False)
    )


def check_place(place: Place) -> Iterator[Check]:
    """Whether it can be written to, how much room there is, what its file system can do, how long a write takes."""
    folder = nearest_folder(place.path)
    move = f"{place.purpose} writes there: name another {place.flag}"
    where = str(place.path)
    if folder != place.path.expanduser().absolute():
        where += f", which is not there yet: tried in {shown(folder)}"
    kind = file_system(folder)
    if kind is not None:
        where = f"{where}, {kind}"
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryDirectory(prefix="autoresearch-doctor-", dir=folder) as name:
            (Path(name) / "block").write_bytes(_BLOCK)
            abilities = _try_all(Path(name))
            seconds = _fsync_seconds(Path(name))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            move = f"free some room there, or name another {place.flag}"
        yield Check(place.name, f"{where}: {reason(error)}", is_ok=not place.is_needed, remedy=move)
        return
    yield Check(place.name, where)
    yield _room(place, free)
    yield _files(place, abilities)
    slow = f"each row of the ledger waits for it: {place.flag} on a local disk is faster"
    remedy = slow if seconds > SLOW_FSYNC_SECONDS and place.is_needed else None
    yield Check(f"{place.name}_fsync", f"{1000 * seconds:.1f} ms", remedy=remedy)


def nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest of the folders above it that is there."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if os.path.lexists(folder))


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """Type of the file system that a folder is on, with ", read-only" if it is; None where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = folder.resolve()
    found, depth = None, -1
    for line in lines:
        left, _, right = line.partition(" - ")
        words = left.split(" ")
        top = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4]))
        if place.is_relative_to(top) and len(top.parts) >= depth:  # of two at one place the later counts
            options = {*words[5].split(","), *right.split(" ")[-1].split(",")}
            found, depth = right.split(" ")[0] + (", read-only" if "ro" in options else ""), len(top.parts)
    return found


def _room(place: Place, free: int) -> Check:
    outcome = f"{free / _GIGABYTE:.1f} GB" if free >= _GIGABYTE else f"{free / 1e6:.0f} MB"
    if free < place.least_bytes + SMALL_RUN_BYTES:
        if place.least_bytes:
            outcome += f", of which a run leaves {place.least_bytes / _GIGABYTE:.1f} GB free"
        remedy = f"free some room there, or name another {place.flag}"
        return Check(f"{place.name}_free", outcome, is_ok=not place.is_needed, remedy=remedy)
    if free < place.least_bytes + NIGHT_BYTES and place.is_needed:
        remedy = f"a night of 100 small experiments takes {NIGHT_BYTES / _GIGABYTE:.0f} GB, more with larger models"
        return Check(f"{place.name}_free", outcome, remedy=remedy)
    return Check(f"{place.name}_free", outcome)


def _files(place: Place, abilities: _Abilities) -> Check:
    name, local = f"{place.name}_files", f"another {place.flag} on a local disk"
    outcome = ", ".join(abilities.failing + abilities.lacking) or f"{', '.join(_ATTEMPTS)} work"
    if abilities.failing:
        return Check(name, outcome, is_ok=not place.is_needed, remedy=f"name {local}")
    return Check(name, outcome, remedy=f"a run makes do without it, {local} has it" if abilities.lacking else None)


def _try_all(folder: Path) -> _Abilities:
    """Makes every attempt.

    Raises:
      OSError: the disk is full.
    """
    failing, lacking = [], []
    for ability, attempt in _ATTEMPTS.items():
        try:
            why = attempt(folder)
            if why is not None:
                lacking.append(f"no {ability} ({why})")
        except (OSError, sqlite3.Error) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, str(error)) from error
            failing.append(f"no {ability} ({reason(error)})")
    return _Abilities(failing, lacking)


def _try_lock(folder: Path) -> str | None:
    path = folder / "lock"
    with path.open("w") as first, path.open("w") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:  # a driver writes down who it is, and looks for others, in place of this lock
            return reason(error)
    return "two hold it at once"


def _try_rename(folder: Path) -> str | None:
    old, new = folder / "old", folder / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    new.replace(old)
    if old.read_bytes() != b"new" or new.exists():
        raise OSError("the old file is still there")
    return None


def _try_write_ahead_log(folder: Path) -> str | None:
    try:
        return _write_and_read(folder / "log.db")
    except sqlite3.OperationalError as error:  # such as where processes share no memory
        try:
            Ledger.open(folder / "ledger.db").close()
        except LedgerError:
            raise error from None
        return reason(error)


def _write_and_read(path: Path) -> str | None:
    """One connection writes, another reads what was committed."""
    with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as writer:
        (mode,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            return f"SQLite stays with {mode}"  # and readers keep the writer waiting
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute("CREATE TABLE rows (id INTEGER)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO rows VALUES (1)")
        with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as reader:
            before = reader.execute("SELECT count(*) FROM rows").fetchone()
            writer.execute("COMMIT")
            after = reader.execute("SELECT count(*) FROM rows").fetchone()
    if (before, after) != ((0,), (1,)):
        raise OSError("a reader does not see what was written")
    return None


_ATTEMPTS: dict[str, Callable[[Path], str | None]] = {
    "lock": _try_lock,
    "rename": _try_rename,
    "write-ahead log": _try_write_ahead_log,
}


def _fsync_seconds(folder: Path) -> float:
    """How long it takes until a block is surely on the disk; the median of a few."""
    seconds: list[float] = []
    with (folder / "synced").open("wb", buffering=0) as file:
        while len(seconds) < _NUM_FSYNCS and sum(seconds) < _FSYNC_LIMIT_SECONDS:
            file.write(_BLOCK)
            start = time.monotonic()
            os.fsync(file.fileno())
            seconds.append(time.monotonic() - start)
    return statistics.median(seconds)
