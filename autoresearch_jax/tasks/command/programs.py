"""What runs of a candidate: a folder of the asset, the files that it may read and what `build` made, by content."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from autoresearch_jax.files import sha256_of_file, sha256_of_json
from autoresearch_jax.sandbox.process import WatchError
from autoresearch_jax.sandbox.sandbox import SandboxError, remove_tree, scratch_folder
from autoresearch_jax.sanitize import fenced
from autoresearch_jax.tasks.command.asset import AssetProcess, Cage, copy_written, untouched
from autoresearch_jax.tasks.command.task_file import TaskFile
from autoresearch_jax.tasks.command.timebox import AssetFailed
from autoresearch_jax.types import CandidateRejected, Scalar, Status, TermsChanged

SCRATCH = ".command-"  # what scratch folders' names begin with; short, as the path of a socket has to be
BUILD_LOG = "build.log"
RESULT, MANIFEST = "result.json", "manifest.json"  # of a snapshot: what the trial gave, and the hashes of its files
SNAPSHOT_SHA256 = "snapshot_sha256"  # among the metrics: of the snapshot's manifest
MAX_LOG_BYTES = 4000  # of a log that go with a rejection


class TaskFiles:
    """The files beside the asset as they were when the task was opened."""

    def __init__(self, task: TaskFile) -> None:
        """Hashes them; raises TermsChanged if one of them cannot be read."""
        self._task = task
        words = [word for word in task.evaluate.command if (task.folder / word).is_file()]
        self._stamps = {name: self._stamp(name) for name in (*task.files.asset, *self._trusted(words))}
        self.asset = {name: self._hash(name) for name in task.files.asset}
        self.trusted = {name: self._hash(name) for name in self._trusted(words)}

    def _trusted(self, words: Iterable[str]) -> list[str]:
        return [*words, *self._task.files.val, *self._task.files.holdout]

    def require_unchanged(self) -> None:
        """Raises TermsChanged if one of them was changed since."""
        for name, stamp in self._stamps.items():
            if self._stamp(name) != stamp:
                path = self._task.folder / name
                raise TermsChanged(f"{path} was changed during the run: put it back, or begin a run with another --tag")

    def _hash(self, name: str) -> str:
        try:
            return sha256_of_file(self._task.folder / name)
        except OSError as error:
            raise TermsChanged(f"{self._task.folder / name}: cannot be read: {error.strerror}") from error

    def _stamp(self, name: str) -> tuple[int, int, int] | None:
        with contextlib.suppress(OSError):
            status = (self._task.folder / name).stat()
            return status.st_size, status.st_mtime_ns, status.st_ino
        return None


def fingerprint_of(task: TaskFile, files: TaskFiles) -> str:
    """Hash of all but the candidate that a score depends on."""
    tables = {
        name: None if table is None else asdict(table)
        for name in ("metric", "build", "run", "serve", "evaluate")
        for table in [getattr(task, name)]
    }
    limits = {"memory_mb": task.budget.memory_mb, "start_seconds": task.budget.start_seconds}
    return sha256_of_json({**tables, "limits": limits, "asset": files.asset, "trusted": files.trusted})[:32]


def fingerprint_parts(task: TaskFile, files: TaskFiles) -> dict[str, str]:
    """The parts of `fingerprint_of`, by what people know them as."""
    tables = {name: getattr(task, name) for name in ("metric", "build", "run", "serve", "evaluate")}
    there = {name: asdict(table) for name, table in tables.items() if table is not None}
    there["budget"] = {"memory_mb": task.budget.memory_mb, "start_seconds": task.budget.start_seconds}
    hashes = {f"[{name}] of {task.path.name}": sha256_of_json(table) for name, table in there.items()}
    return {name: sha256[:16] for name, sha256 in (hashes | files.asset | files.trusted).items()}


def program_hash_of(task: TaskFile, files: TaskFiles, canonical: str) -> str:
    """Hash of what runs: equal ones are one candidate."""
    commands = [None if table is None else asdict(table) for table in (task.build, task.run, task.serve)]
    text = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    return sha256_of_json({"asset": text, "files": files.asset, "commands": commands})


def make_programs(cage: Cage, source: str, target: Path, log_dir: Path) -> None:
    """Makes the folder `target` of a candidate, unless it is there: `work`, and `build` where there is such a command.

    Raises:
      CandidateRejected: it cannot be built.
      CandidateUntouched: the sandbox failed.
    """
    if target.exists():
        return
    task = cage.task
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        work = partial / "work"
        for name in task.files.asset:
            place = work / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(task.folder / name, place)
        place = work / task.asset.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(source, encoding="utf-8")
        if task.build is not None:
            _build(cage, partial, log_dir / BUILD_LOG)
        with contextlib.suppress(FileExistsError, OSError):  # another thread made the same
            os.rename(partial, target)
    finally:
        remove_tree(partial)


def _build(cage: Cage, programs: Path, log_path: Path) -> None:
    assert cage.task.build is not None
    try:
        with scratch_folder(SCRATCH) as scratch:
            (scratch / "build").mkdir()
            process = AssetProcess(
                *(cage, "build", cage.task.build.command, scratch, programs),
                seconds=cage.task.budget.build_seconds,
                log_path=log_path,
                variables={
                    "BUILD": str(scratch / "build"),
                    "SEED": "0",
                    "BUDGET_SECONDS": f"{cage.task.budget.seconds:g}",
                },
            )
            try:
                process.run_to_end()
            finally:
                process.close()
            copy_written(scratch / "build", programs / "build")
    except AssetFailed as failure:
        if failure.too_busy:
            raise untouched(failure) from failure
        raise CandidateRejected(failure.status, failure.reason, log_tail("build's log", log_path)) from failure
    except (WatchError, SandboxError, OSError) as error:
        raise untouched(error) from error


def log_tail(label: str, path: Path) -> str | None:
    """The end of a log for people and proposers; None where there is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_LOG_BYTES))
        text = file.read().decode("utf-8", "replace")
        return fenced(label, text) if text.strip() else None
    return None


def rejected(reason: str) -> CandidateRejected:
    """A text that is refused before anything runs."""
    return CandidateRejected(Status.REJECTED, reason)


def inventory(folder: Path) -> Mapping[str, str]:
    """SHA-256 of each file in a folder, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def snapshot_figures(folder: Path) -> dict[str, Scalar]:
    """Metrics of a trial that are known once its snapshot is whole."""
    return {SNAPSHOT_SHA256: sha256_of_file(folder / MANIFEST)}


def snapshot_differences(folder: Path, sha256: str | None, value: float | None) -> list[str]:
    """A line for each file of a snapshot that is not as it was written, and for a score that is not its own."""
    remedy = "restore it from a copy"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if sha256 is not None and sha256_of_file(folder / MANIFEST) != sha256:
            return [f"{folder / MANIFEST}: was changed: {remedy}"]
        then, now = dict(manifest["files"]), {**inventory(folder)}
        now.pop(MANIFEST)
        found = [
            f"{folder / name}: was changed: {remedy}" for name in sorted(then.keys() & now) if then[name] != now[name]
        ]
        found += [f"{folder / name}: is missing: {remedy}" for name in sorted(then.keys() - now)]
        found += [f"{folder / name}: was not there: remove it" for name in sorted(now.keys() - then)]
        scored = json.loads((folder / RESULT).read_text(encoding="utf-8"))["value"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{folder}: cannot be read: {error}: {remedy}"]
    return found if scored == value else [*found, f"{folder / RESULT}: {scored}, the ledger has {value}"]
