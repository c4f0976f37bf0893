"""A run whose folder and git refs are copied to a place that outlives the machine, as it goes on; see saved_run.sh."""

import argparse
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec.core
from absl import flags

from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import define_options, given_flags, read_options
from autoresearch_jax.commands.run_flags import read_on_run
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.database import connect_to_read
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import concluded
from autoresearch_jax.engine.workspace import BRANCH_PREFIX, DISCARDED_PREFIX
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.files import partial_folder
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.snapshots.store import SnapshotStore

INDEX = "saved.json"  # written last: what it names is whole
NOT_COPIED = {"workspace", "driver.lock", "driver.txt", "live.json"}  # of this machine, or made anew
CLI = (sys.executable, "-m", "autoresearch_jax.cli")
PARALLEL_FILES = 8


class SavedRunError(UserError):
    """The run cannot be saved to that place, or fetched from it."""


@dataclass(frozen=True)
class Progress:
    """How far a ledger is, and which run it is of."""

    seed: int | None
    trials: int
    experiments: int

    @classmethod
    def of(cls, ledger: Ledger) -> "Progress":
        """Reads it."""
        seed = ledger.settings().get("seed")
        experiments = sum(row.kind is not Kind.BASELINE for row in concluded(ledger))
        return cls(None if seed is None else int(seed), len(ledger.trials()), experiments)


class SavedRun:
    """The copy of one run in a place. A save that is cut off leaves the one before."""

    def __init__(self, folder: RunFolder, git: Git, place: str) -> None:
        """Opens the place, and tries whether it can be written to.

        Raises:
          UserError: it cannot.
        """
        store = SnapshotStore(place)
        store.check()
        self.address = f"{store.root}/{folder.path.name}"
        options = {"use_listings_cache": False} if "://" in store.root else {"auto_mkdir": True}
        self._filesystem: Any
        self._filesystem, self._path = fsspec.core.url_to_fs(self.address, **options)
        self._folder = folder
        self._git = git
        self._index = self._read_index()

    def begin(self) -> str | None:
        """Fetches the run if this machine does not have it; returns a line about it.

        Raises:
          SavedRunError: the copy is of another run, or is ahead of this machine's.
        """
        if self._index is None:
            return None
        there = Progress(**self._index["progress"])
        if not self._folder.ledger.exists():
            self._fetch(self._index)
            return f"fetched {self.address}, {there.experiments} experiments, into {self._folder.path}"
        with closing(Ledger.open_to_read(self._folder.ledger)) as ledger:
            here = Progress.of(ledger)
        if here.seed != there.seed:
            raise SavedRunError(
                f"{self.address} is another run than {self._folder.path}: choose another --tag or --store"
            )
        if here.trials < there.trials:
            raise SavedRunError(
                f"{self.address} has {there.trials} trials, {self._folder.path} has {here.trials}: move that folder "
                "and its branch away, and the same command goes on from the copy"
            )
        return None

    @property
    def has_ledger(self) -> bool:
        """Whether the run has begun here."""
        return self._folder.ledger.exists()

    def save(self) -> int:
        """Copies what changed; returns the number of experiments that are over.

        The ledger is copied first, and git has the refs that this copy speaks of: the two always agree. All else
        in the folder may be newer, as it is after a kill.
        """
        token = secrets.token_hex(4)
        before = {} if self._index is None else self._index["files"]
        index: dict[str, Any] = {
            "ledger": f"ledger-{token}.db",
            "refs": f"refs-{token}.bundle",
            "saved_at": time.time(),
        }
        with TemporaryDirectory(prefix="autoresearch-save-") as scratch:
            copy = Path(scratch) / "ledger.db"
            with closing(connect_to_read(self._folder.ledger)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
            with closing(Ledger.open_to_read(copy)) as ledger:
                index["progress"] = asdict(Progress.of(ledger))
                refs = self._refs(ledger)
            bundle = self._bundle(refs, Path(scratch)) if refs else None
            index["files"] = self._put_changed(before)
            if bundle is None:
                index["refs"] = None
            else:
                self._filesystem.put_file(str(bundle), f"{self._path}/{index['refs']}")
            self._filesystem.put_file(str(copy), f"{self._path}/{index['ledger']}")
        self._write_index(index)
        self._index = index
        # also what a save left that was cut off
        there = {str(path).rpartition("/")[2] for path in self._filesystem.ls(self._path, detail=False)}
        named = {name for name in there if name.startswith(("ledger-", "refs-"))}
        gone = [f"files/{name}" for name in before.keys() - index["files"].keys()]
        for name in [*(named - {index["ledger"], index["refs"]}), *gone]:
            with suppress(FileNotFoundError):  # removed by a save that was cut off
                self._filesystem.rm_file(f"{self._path}/{name}")
        return int(index["progress"]["experiments"])

    def _put_changed(self, before: dict[str, Any]) -> dict[str, Any]:
        """Sends each file of the run's folder that is not there as it is here; size and time of all."""
        files = {}
        for path in files_of(self._folder.path):
            name = path.relative_to(self._folder.path).as_posix()
            try:
                found = path.stat()
                files[name] = [found.st_size, found.st_mtime_ns]
                if before.get(name) != files[name]:
                    self._filesystem.put_file(str(path), f"{self._path}/files/{name}")
            except FileNotFoundError:
                if path.exists():
                    raise
                files.pop(name, None)  # the driver removed it
        return files

    def _refs(self, ledger: Ledger) -> dict[str, str]:
        """The commit of each ref of the run, as the ledger has them."""
        tag, refs = self._folder.path.name, {}
        for row in concluded(ledger):
            if row.commit is None:
                continue
            if row.decision is Action.KEEP:
                refs[f"refs/heads/{BRANCH_PREFIX}{tag}"] = row.commit
            elif row.kind is not Kind.BASELINE:
                refs[f"{DISCARDED_PREFIX}{tag}/{row.id:04d}"] = row.commit
        return refs

    def _bundle(self, refs: dict[str, str], scratch: Path) -> Path:
        """A file with these refs and all that they need: from a repository that borrows the objects of ours."""
        bare, bundle = scratch / "refs.git", scratch / "refs.bundle"
        objects = self._git.path("rev-parse", "--path-format=absolute", "--git-path", "objects")
        self._git.text("init", "--quiet", "--bare", str(bare))
        (bare / "objects" / "info" / "alternates").write_text(f"{objects}\n")
        borrowing = Git(bare, self._git.environment)
        lines = "".join(f"create {name} {commit}\n" for name, commit in refs.items())
        borrowing.text("update-ref", "--stdin", stdin=lines.encode())
        borrowing.text("bundle", "create", "--quiet", str(bundle), "--all")
        return bundle

    def _fetch(self, index: dict[str, Any]) -> None:
        """Brings folder and refs here; the folder gets its name when all is there."""
        partial = partial_folder(self._folder.path)
        shutil.rmtree(partial, ignore_errors=True)
        targets = [partial / name for name in index["files"]]
        for target in (partial / "ledger.db", *targets):
            target.parent.mkdir(parents=True, exist_ok=True)
        sources = [f"{self._path}/files/{name}" for name in index["files"]]
        if sources:
            self._filesystem.get(sources, [str(target) for target in targets], batch_size=PARALLEL_FILES)
        for target, (size, changed) in zip(targets, index["files"].values(), strict=True):
            os.utime(target, ns=(changed, changed))
            if target.stat().st_size < size:
                raise SavedRunError(f"{self.address}/files/{target.relative_to(partial)}: is cut off: try again")
        self._filesystem.get_file(f"{self._path}/{index['ledger']}", str(partial / "ledger.db"))
        if index["refs"] is not None:
            with TemporaryDirectory(prefix="autoresearch-fetch-") as scratch:
                bundle = Path(scratch) / "refs.bundle"
                self._filesystem.get_file(f"{self._path}/{index['refs']}", str(bundle))
                found = [line.split() for line in self._git.text("bundle", "unbundle", str(bundle)).splitlines()]
            have = self._git.text("for-each-ref", "--format=%(objectname) %(refname)").splitlines()
            missing = [(commit, name) for commit, name in found if f"{commit} {name}" not in have]
            lines = "".join(f"create {name} {commit}\n" for commit, name in missing if name != "HEAD")
            self._git.text("update-ref", "--stdin", stdin=lines.encode())
        try:
            partial.rename(self._folder.path)
        except OSError as error:
            raise SavedRunError(
                f"{self._folder.path}: has files but no ledger: move it away ({error.strerror})"
            ) from error

    def _read_index(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._filesystem.cat_file(f"{self._path}/{INDEX}")))
        except FileNotFoundError:
            return None

    def _write_index(self, index: dict[str, Any]) -> None:
        text = json.dumps(index).encode()
        if "://" in self.address:
            self._filesystem.pipe_file(f"{self._path}/{INDEX}", text)
            return
        self._filesystem.pipe_file(f"{self._path}/{INDEX}.partial", text)
        os.replace(f"{self._path}/{INDEX}.partial", f"{self._path}/{INDEX}")


def files_of(folder: Path) -> Iterator[Path]:
    """The files of a run's folder that a copy has, but for the ledger: whole ones, and none that is of this machine."""
    for above, names, files in os.walk(folder):
        is_top = Path(above) == folder
        names[:] = sorted(name for name in names if not (name.endswith(".partial") or (is_top and name in NOT_COPIED)))
        for name in sorted(files):
            if not (name.endswith(".partial") or (is_top and (name in NOT_COPIED or name.startswith("ledger.db")))):
                yield Path(above) / name


def prepare(flag_values: flags.FlagValues) -> int:
    """Makes the run's dataset if it is not there; the exit status."""
    try:
        options = read_on_run(flag_values, RunOptions, lambda notice: None)
    except UserError:
        return 0  # the run itself says it
    if options.task.is_command:
        return 0
    return subprocess.run([*CLI, "prepare", *given_flags(options.task.dataset)], stdout=sys.stderr).returncode


def run(words: Sequence[str], saved: SavedRun | None, save_every: float) -> int:
    """Runs the loop, saving as it goes on; signals are handed on to it. The exit status."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def hand_on(signum: int, frame: object) -> None:
        early.append(signum)
        if process is not None:
            process.send_signal(signum)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, hand_on)
    # a process group of its own: a terminal's Ctrl-C would else reach it twice, and the second ends it at once
    process = subprocess.Popen([*CLI, "run", *words], process_group=0)
    for number in early:
        process.send_signal(number)
    while True:
        try:
            status = process.wait(save_every)
            break
        except subprocess.TimeoutExpired:
            if saved is not None:
                try_to_save(saved)
    if saved is not None and not try_to_save(saved, say_so=True):
        return status or 1
    return status if status >= 0 else 128 - status


def try_to_save(saved: SavedRun, *, say_so: bool = False) -> bool:
    """Saves, and says in one line if that failed."""
    try:
        if saved.has_ledger:
            experiments = saved.save()
            if say_so:
                say(f"{saved.address} has {experiments} experiments")
    except Exception as error:  # the libraries of buckets have no base class for theirs in common
        say(f"{saved.address}: not saved: {clean_line(str(error)) or type(error).__name__}")
        return False
    return True


def say(line: str) -> None:
    """Prints a line beside the run's own."""
    print(f"saved_run: {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Parses the words before --, and the run's behind it."""
    parser = argparse.ArgumentParser(prog="saved_run.sh", allow_abbrev=False)
    parser.add_argument("--store", help="folder, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER to keep a copy of the run in")
    parser.add_argument("--save_every", type=float, default=300.0, help="seconds between two saves")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    own, of_run = parser.parse_args(words[:end]), words[end + 1 :]
    flag_values = flags.FlagValues()
    define_options(flag_values, RunOptions)
    try:
        flag_values(["run", *of_run])
        folder = read_options(flag_values, FolderOptions).folder
        saved = None if own.store is None else SavedRun(folder, Git(Path.cwd(), os.environ), own.store)
        if saved is not None and (line := saved.begin()) is not None:
            say(line)
    except flags.Error as error:
        say(" ".join(str(error).split()))
        return UsageError.exit_status
    except UserError as error:
        say(str(error))
        return error.exit_status
    return prepare(flag_values) or run(of_run, saved, own.save_every)


if __name__ == "__main__":
    sys.exit(main())
