"""A run's folder: where its parts are, what it was started with, and a lock against a second driver."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_jax.engine.task import PartedTerms, Terms
from autoresearch_jax.errors import UserError
from autoresearch_jax.files import write_json, write_whole
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Scalar

PARTS = "fingerprint_parts"  # among the settings of some tasks, as JSON: says what of a fingerprint has changed
_SAME = "use the same ones, or another --tag"
_TAG_PARTS = 3  # of a tag with slashes that is found again
_LOCK_SECONDS = 1.0  # `holder` in another process has the lock for a moment, and a killed process takes one to end


class RunFolderError(UserError):
    """The folder is in use, belongs to another run, or cannot be written."""


class RunFolder:
    """`runs/<tag>/` and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "ledger.db"
        self.results = path / "results.tsv"
        self.workspace = path / "workspace"  # worktree of the run's branch
        self.settings = path / "run.json"  # a copy of the ledger's settings for people
        self.live = path / "live.json"  # what the driver is doing; see engine/live.py
        self.snapshots = path / "snapshots"
        self.exchanges = path / "llm"  # with models, a folder an experiment
        self.waiting = path / "waiting"  # proposals that an agent gave beside the one that was measured
        self.tensorboard = path / "tensorboard"  # event files
        self.eval_bundle = path / "eval_bundle"  # with it a score can be computed again from this folder alone
        self.lineages = path / "lineages.json"  # of a folder that is not of one run, but of several: see `Lineages`
        self._lock_file = path / "driver.lock"
        self._driver_file = path / "driver.txt"

    @property
    def logs(self) -> Path:
        """Folder of all logs; made if it is not there."""
        folder = self.path / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log_dir(self, experiment: int) -> Path:
        """Folder of an experiment's logs; made if it is not there."""
        folder = self.logs / f"{experiment:04d}"
        folder.mkdir(exist_ok=True)
        return folder

    def llm_path(self, experiment: int) -> Path:
        """Folder of what was said to an agent for an experiment, and what it answered; there is one if anything was."""
        return self.exchanges / f"{experiment:04d}"

    def llm_dir(self, experiment: int) -> Path:
        """The same; made if it is not there."""
        folder = self.llm_path(experiment)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def snapshot_dir(self, experiment: int, trial: int) -> Path:
        """Where a trial's snapshot goes: named by its experiment, as the logs are, and by the trial itself."""
        return self.snapshots / f"{experiment:04d}-{trial:04d}"

    def own_snapshot(self, recorded: Path) -> Path:
        """Where in this folder a snapshot belongs that the ledger recorded, wherever the folder was at that time."""
        return self.snapshots / recorded.name

    def create(self) -> None:
        """Makes the folder, and keeps it out of the sight of a git repository around it.

        Raises:
          RunFolderError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".gitignore").write_text("*\n")
        except OSError as error:
            what = "written to" if self.path.is_dir() else "made"
            raise RunFolderError(f"{self.path}: the run folder cannot be {what}: {error.strerror}") from error

    def require_ledger(self) -> None:
        """Refuses a folder that has lost its ledger: a run that began anew there would mix with what is left.

        It would even judge a snapshot of an earlier run that had the same seed and program.

        Raises:
          RunFolderError: there was a run here, and it has no ledger.
        """
        has_ledger = self.ledger.exists() and self.ledger.stat().st_size > 0
        if not has_ledger and (self.settings.exists() or any(self.snapshots.glob("[0-9]*-[0-9]*"))):
            raise RunFolderError(
                f"{self.path}: has the files of a run, and its {self.ledger.name} is missing or empty: restore that "
                "from a copy, or delete the folder, or use another --tag"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for this process; the kernel lets go of it when the process ends, also by `kill -9`.

        Raises:
          RunFolderError: another process holds it, or the folder cannot be written to.
        """
        from filelock import FileLock, Timeout  # its import takes a quarter of a second

        lock = FileLock(self._lock_file, timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunFolderError(f"{self.path}: {self._driver()} is at work on this run already") from error
        except OSError as error:
            raise RunFolderError(
                f"{self._lock_file}: cannot be locked: {error.strerror}: a run needs a folder that can be written to, "
                "on a disk with file locks (--run_dir)"
            ) from error
        try:
            with suppress(OSError):  # of a full disk: the lock is held without it
                self._driver_file.write_text(f"pid {os.getpid()} on {socket.gethostname()}\n")
            for pattern in (
                "*.partial",
                "llm/*/*.partial",
                "llm/*/*.new",
                "waiting/*.partial",
            ):  # left half-written by a kill
                for path in self.path.glob(pattern):
                    path.unlink(missing_ok=True)
            self.live.unlink(missing_ok=True)  # of an earlier driver
            yield
        finally:
            with suppress(OSError):
                self._driver_file.unlink(missing_ok=True)
            lock.release()

    @property
    def last_write(self) -> float:
        """When the ledger was written to last, in seconds since 1970; 0 if that cannot be read."""
        times = [0.0]
        for path in (self.ledger, self.ledger.with_name(f"{self.ledger.name}-wal")):
            with suppress(OSError):
                times.append(path.stat().st_mtime)
        return max(times)

    def holder(self) -> str | None:
        """Who is at work on the run, such as "pid 12 on box"; None if it is not locked. Writes nothing.

        Raises:
          RunFolderError: that cannot be read.
        """
        try:
            descriptor = os.open(self._lock_file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunFolderError(f"{self._lock_file}: cannot be read: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return self._driver()
        except OSError:  # no such locks here: a driver that ended by itself removed the file
            return self._driver() if self._driver_file.exists() else None
        finally:
            os.close(descriptor)
        return None

    def _driver(self) -> str:
        """The process that locked the run, as it named itself."""
        with suppress(OSError):
            if line := clean_line(self._driver_file.read_text(encoding="utf-8", errors="replace")):
                return line
        return "another process"

    def write_settings(self, settings: Mapping[str, Scalar]) -> None:
        """Writes run.json."""
        write_whole(self.settings, settings_text(settings))


@dataclass(frozen=True)
class Lineages:
    """Runs TAG-1 .. TAG-M that adopt from each other; beside their folders is TAG, with what they give each other."""

    folder: RunFolder  # TAG
    number: int  # how many they are
    # the flags that they were begun with, as a run's settings have them
    settings: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: RunFolder) -> "Lineages | None":
        """Those of a folder TAG; None where it has none, or is that of a run.

        Raises:
          RunFolderError: their file is damaged.
        """
        if folder.ledger.is_file():
            return None
        try:
            found = json.loads(folder.lineages.read_text(encoding="utf-8"))
            return cls(folder, int(found["lineages"]), found["settings"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunFolderError(
                f"{folder.lineages}: cannot be read ({error}): restore it, or use another --tag"
            ) from error

    @classmethod
    def around(cls, run: RunFolder) -> "Lineages | None":
        """Those that a run is one of; None where it is a run of its own."""
        name, _, digits = run.path.name.rpartition("-")
        if not name or not digits.isdecimal():
            return None
        found = cls.read(RunFolder(run.path.with_name(name)))
        return found if found is not None and run.path in [own.path for own in found.runs] else None

    def write(self) -> None:
        """Makes the folder and enters them there.

        Raises:
          RunFolderError: it cannot be written.
        """
        self.folder.create()
        try:
            write_json(self.folder.lineages, {"lineages": self.number, "settings": dict(self.settings)})
        except OSError as error:
            raise RunFolderError(f"{self.folder.lineages}: cannot be written: {error.strerror}") from error

    @property
    def runs(self) -> list[RunFolder]:
        """Their folders, TAG-1 first."""
        path = self.folder.path
        return [RunFolder(path.with_name(f"{path.name}-{number}")) for number in range(1, self.number + 1)]

    @property
    def begun(self) -> list[RunFolder]:
        """Those that have a ledger."""
        return [run for run in self.runs if run.ledger.is_file()]

    @property
    def findings(self) -> Path:
        """Where they give each other what they found."""
        return self.folder.path / "findings"


def find_runs(run_dir: Path) -> list[RunFolder]:
    """The folders of a folder of runs that have a ledger, the one that was written to last first.

    A tag may have slashes, so folders without a ledger are looked into, down to `_TAG_PARTS`.
    """
    found: list[tuple[float, RunFolder]] = []
    waiting = [(run_dir, _TAG_PARTS)]
    while waiting:
        above, depth = waiting.pop()
        with suppress(OSError):  # not there, or not to be read
            for path in above.iterdir():
                folder = RunFolder(path)
                if folder.ledger.is_file():
                    found.append((folder.last_write, folder))
                elif depth > 1 and path.is_dir() and not path.is_symlink():
                    waiting.append((path, depth - 1))
    return [folder for _, folder in sorted(found, key=lambda one: (-one[0], str(one[1].path)))]


def task_settings(task: Terms) -> dict[str, Scalar]:
    """All of a task that a score depends on, as a run's settings have it."""
    return {
        "metric": task.metric.name,
        "direction": task.metric.direction,
        "budget_seconds": task.budget.seconds,
        "budget_steps": task.budget.steps,
        "fingerprint": task.fingerprint,
        **task.terms,
        **({PARTS: json.dumps(task.fingerprint_parts)} if isinstance(task, PartedTerms) else {}),
    }


def settings_text(settings: Mapping[str, Scalar]) -> str:
    """What run.json says for these settings of the ledger."""
    return json.dumps(dict(settings), indent=1) + "\n"


def check_settings(
    stored: Mapping[str, Scalar],
    wanted: Mapping[str, Scalar],
    folder: Path,
    remedy: str = _SAME,
) -> None:
    """Refuses to go on with a run that was started with other settings: its scores could not be compared.

    Raises:
      RunFolderError: some differ; the message names each.
    """
    differing = [
        f"{name} {stored.get(name)} then, {value} now"
        for name, value in wanted.items()
        if name != PARTS and stored.get(name) != value
    ]
    if differing:
        then, now = (json.loads(str(settings.get(PARTS) or "{}")) for settings in (stored, wanted))
        if then and now and (changed := sorted(part for part in then | now if then.get(part) != now.get(part))):
            differing.append(f"changed: {', '.join(changed)}")
            if remedy is _SAME:
                remedy = f"put {'it' if len(changed) == 1 else 'them'} back as before, or use another --tag"
        raise RunFolderError(f"{folder} was started with other settings ({'; '.join(differing)}): {remedy}")
