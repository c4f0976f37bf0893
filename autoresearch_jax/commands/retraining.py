"""`autoresearch trial --retrain=N`: trains runs of an experiment again whose snapshots are not there, or damaged."""

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_jax.commands.constants_flag import check_began_with
from autoresearch_jax.commands.progress import TrialProgress
from autoresearch_jax.commands.task_flags import TaskOptions
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder, check_settings, task_settings
from autoresearch_jax.engine.state import REFERENCE_SECONDS, calibrate
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import CalibratedTask, Task
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.report.tables import format_lines
from autoresearch_jax.snapshots.kept import KeptSnapshot, SnapshotGoneError, Whereabouts, find_snapshot
from autoresearch_jax.tasks.lm.integrity import RESTORE, SNAPSHOT_SHA256, snapshot_damage
from autoresearch_jax.types import HASHED_BY, PROGRAM_HASH, Candidate, CandidateRejected, Measurement, Scalar

SCRATCH = ".retrained"  # beside the snapshots: what is not in its place yet
REPLACED = ".replaced"  # ends the name of what had to make room


class RetrainInterruptedError(UserError):
    """Ctrl-C or SIGTERM; what was trained so far is kept."""

    exit_status = 130  # 128 + SIGINT, as of any command that Ctrl-C ended


@dataclass(frozen=True)
class RetrainOptions:
    """What was asked for.

    Attributes:
      task: dataset, budget and machine, which have to be those of the run.
      folder: of the run.
      experiment: whose runs.
      constants: as they were named, which may be none but those that the run began with.
      editable: the training file as it was named; None for the run's. Only its name is used.
      seed: as it was named, which may be none but the run's; None for that one.
      format: "text" or "json".
    """

    task: TaskOptions
    folder: RunFolder
    experiment: int
    constants: Mapping[str, Scalar]
    editable: Path | None
    seed: int | None
    format: str


def retrain(options: RetrainOptions) -> int:
    """Trains what is missing, one run after the other; each is entered as soon as it is done.

    Raises:
      RetrainInterruptedError: the process was asked to end.
      UserError: it cannot be done.
    """
    folder = options.folder
    if not folder.ledger.is_file():
        raise LedgerError(f"{folder.ledger}: no ledger there; check --tag and --run_dir")
    with folder.lock(), Interrupts().installed() as interrupts, closing(Ledger.open(folder.ledger)) as ledger:
        try:
            with interrupts.allowed():
                check_began_with(ledger.experiments(), options.constants)
                measured, trials = _asked(ledger, options)
                editable = _editable(ledger, options)
                lost = list(_find_lost(ledger, folder, trials))
                _sweep(folder, lost)
                if not lost:
                    _print_end(options, [])
                    return 0
                task = options.task.make_task(folder.path, editable)
            with closing(task):
                _check_settings(ledger, folder, measured, trials, task)
                if measured.kind is not Kind.TRIAL:
                    calibrate(ledger, folder, task)
                elif isinstance(reference := trials[0].metrics.get(REFERENCE_SECONDS), int | float):
                    assert isinstance(task, CalibratedTask)
                    task.calibrate(float(reference), folder.logs)
                done = list(_Retraining(options, task, ledger, interrupts, measured).train(lost))
        except KeyboardInterrupt as interrupt:
            raise RetrainInterruptedError("interrupted; the same command goes on from here") from interrupt
        except sqlite3.Error as error:
            raise LedgerError(f"{folder.ledger}: {error}; the same command goes on from here") from error
    _print_end(options, done)
    return 0


@dataclass(frozen=True)
class _Lost:
    """A snapshot that is to be made anew, and what is wrong with the one that should be there, in one line."""

    kept: KeptSnapshot
    reason: str


class _Retraining:
    """Trains runs of one experiment again, on the run's own task."""

    def __init__(
        self, options: RetrainOptions, task: Task, ledger: Ledger, interrupts: Interrupts, measured: ExperimentRow
    ) -> None:
        self._options = options
        self._task = task
        self._ledger = ledger
        self._interrupts = interrupts
        self._measured = measured
        self._log_dir = options.folder.log_dir(measured.id) / "retrained"
        self._scratch = _scratch(options.folder)

    def train(self, lost: Sequence[_Lost]) -> Iterator[dict[str, Scalar]]:
        """Figures of each run, once its snapshot is in its place and in the ledger.

        Raises:
          UserError: a run gave no score, or the source is not the program any more that it was.
        """
        self._log_dir.mkdir(exist_ok=True)
        self._scratch.mkdir(parents=True, exist_ok=True)
        with self._interrupts.allowed():
            candidate = self._prepare(lost)
        for number, one in enumerate(lost, start=1):
            measurement = self._measure(candidate, one.kept, f"run {number}/{len(lost)}  ")
            yield self._enter(one, measurement)
        shutil.rmtree(self._scratch)

    def _prepare(self, lost: Sequence[_Lost]) -> Candidate:
        number = self._measured.id
        try:
            candidate = self._task.prepare(self._ledger.source(number), self._log_dir)
        except CandidateRejected as rejection:
            reason = f"cannot be measured any more ({rejection.status}): {rejection.reason}"
            raise UserError(f"experiment {number} {reason}; see {self._log_dir}") from rejection
        for one in lost:
            metrics = one.kept.trial.metrics
            then = metrics.get(PROGRAM_HASH, self._measured.program_hash)
            if then in (None, candidate.program_hash):  # none of a trial by hand
                continue
            hashed_by = metrics.get(HASHED_BY), candidate.facts.get(HASHED_BY)
            if hashed_by[0] == hashed_by[1]:
                raise UserError(
                    f"experiment {number} is another program now ({candidate.program_hash}) than when it was measured "
                    f"({then}): train it again where the task is as it was"
                )
            raise UserError(
                f"experiment {number} was hashed by {hashed_by[0]} and is by {hashed_by[1]} now: whether it is the "
                "program still that was measured cannot be told; install what it was measured with"
            )
        return candidate

    def _measure(self, candidate: Candidate, kept: KeptSnapshot, prefix: str) -> Measurement:
        trial = kept.trial
        log_dir = self._log_dir / f"{trial.id:04d}"
        log_dir.mkdir(exist_ok=True)
        with TrialProgress(prefix) as progress, self._interrupts.allowed():
            measurement = self._task.measure(
                candidate,
                seed=trial.seed,
                log_dir=log_dir,
                snapshot_dir=self._scratch / kept.name,
                on_progress=progress,
            )
        if measurement.value is None or measurement.snapshot is None:
            reason = f"gave no score when it was trained again ({measurement.status}): {measurement.error}"
            raise UserError(f"trial {trial.id} of experiment {self._measured.id} {reason}; see {log_dir}")
        return replace(measurement, metrics={**measurement.metrics, PROGRAM_HASH: candidate.program_hash})

    def _enter(self, one: _Lost, measurement: Measurement) -> dict[str, Scalar]:
        """Puts a new snapshot into its place; whatever is there, such as a damaged one, stays until it can."""
        trial = one.kept.trial
        assert trial.value is not None
        assert measurement.value is not None
        own = self._options.folder.own_snapshot(Path(one.kept.name))
        if own.exists():
            own.rename(self._scratch / f"{own.name}{REPLACED}")
        (self._scratch / own.name).rename(own)
        self._ledger.snapshots.retrain(trial.id, replace(measurement, snapshot=own))
        figures: dict[str, Scalar] = {
            "trial": trial.id,
            "seed": trial.seed,
            "was": one.reason,
            "score_then": trial.value,
            "score_now": measurement.value,
            "difference": measurement.value - trial.value,
            "snapshot": str(own),
        }
        if self._options.format == "text":
            print(f"{format_lines(figures)}\n---", flush=True)
        return figures


def _scratch(folder: RunFolder) -> Path:
    return folder.own_snapshot(Path(SCRATCH))


def _sweep(folder: RunFolder, lost: Sequence[_Lost]) -> None:
    """Removes what a call left that was killed, but for snapshots that are asked for now: these need not be trained."""
    useful = {one.kept.name for one in lost}
    for path in _scratch(folder).glob("*"):
        if path.name not in useful:
            shutil.rmtree(path)
    with suppress(OSError):  # it is not there, or not empty
        _scratch(folder).rmdir()


def _asked(ledger: Ledger, options: RetrainOptions) -> tuple[ExperimentRow, list[TrialRow]]:
    """The experiment that was measured, and its runs that count."""
    row = next((row for row in ledger.experiments() if row.id == options.experiment), None)
    where = f"{options.folder.path}: experiment {options.experiment}"
    if row is None:
        raise UserError(f"{where}: there is none; `autoresearch results` lists them")
    trials = [trial for trial in ledger.runs(row) if trial.snapshot is not None]
    if not trials or row.score is None:
        raise UserError(f"{where}: has no score ({row.status or 'not over yet'}), so there is nothing to train again")
    return ledger.measured(row), trials


def _find_lost(ledger: Ledger, folder: RunFolder, trials: Sequence[TrialRow]) -> Iterator[_Lost]:
    for trial in trials:
        kept = find_snapshot(ledger, folder, trial)
        sha256 = kept.metrics.get(SNAPSHOT_SHA256)
        try:
            with kept.folder() as snapshot:
                damage = snapshot_damage(snapshot, None if sha256 is None else str(sha256))
        except SnapshotGoneError:
            expired = kept.whereabouts is Whereabouts.EXPIRED
            yield _Lost(kept, f"{kept.place}: {'has expired' if expired else 'is missing'}")
            continue
        if damage:
            yield _Lost(kept, kept.shown(damage[0], snapshot).removesuffix(f": {RESTORE}"))


def _editable(ledger: Ledger, options: RetrainOptions) -> Path:
    """The training file, of which only the name is used: the texts are in the ledger, and the seeds.

    Raises:
      UsageError: another file or another seed than the run's was named.
    """
    settings = ledger.settings()
    own = settings.get("editable")
    if options.seed not in (None, settings.get("seed")):
        raise UsageError(f"--seed={options.seed}: what is trained again has its seeds in the ledger; leave it out")
    if own is None:  # trials by hand
        return options.editable or Path("train_lib.py")
    if options.editable is not None and options.editable.name != Path(str(own)).name:
        raise UsageError(f"--editable={options.editable}: what is trained again stands in the ledger; leave it out")
    return Path(str(own))


def _check_settings(
    ledger: Ledger, folder: RunFolder, measured: ExperimentRow, trials: Sequence[TrialRow], task: Task
) -> None:
    """Refuses a task with another dataset or budget: what it trains would be another snapshot."""
    if measured.kind is not Kind.TRIAL:
        check_settings(ledger.settings(), task_settings(task), folder.path)
        return
    then: dict[str, Scalar] = {"fingerprint": measured.category}
    now: dict[str, Scalar] = {"fingerprint": task.fingerprint}
    if task.budget.steps is not None:  # of a trial by hand the budget is not written down, only what came of it
        then["num_steps"], now["num_steps"] = trials[0].metrics.get("num_steps"), task.budget.steps
    check_settings(then, now, folder.path)


def _print_end(options: RetrainOptions, done: list[dict[str, Scalar]]) -> None:
    figures: dict[str, Scalar] = {"experiment": options.experiment, "retrained_trials": len(done)}
    if not done:
        figures["reason"] = "nothing to train again: all its snapshots are there and as they were written"
    if options.format == "json":
        print(json.dumps({**figures, "trials": done}, indent=1))
    else:
        print(format_lines(figures))
