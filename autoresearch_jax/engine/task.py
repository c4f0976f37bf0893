"""All that the loop knows about a task: its metric, its fingerprint, how to prepare and measure."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.engine.records import ExperimentRow, TrialRow
from autoresearch_jax.errors import UserError
from autoresearch_jax.executors.places import Place
from autoresearch_jax.types import (
    UNKNOWN_COMPILE_COST,
    Budget,
    Candidate,
    CandidateUntouched,
    CompileCost,
    LossLimit,
    Measurement,
    Metric,
    Scalar,
    Scrutiny,
)

ProgressCallback = Callable[[Mapping[str, Scalar]], None]  # called now and then while a trial runs


class Terms(Protocol):
    """What a score depends on beside the candidate and its seed."""

    @property
    def metric(self) -> Metric: ...

    @property
    def budget(self) -> Budget: ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything but candidate and machine that a score depends on; unequal ones are never compared."""

    @property
    def terms(self) -> Mapping[str, Scalar]:
        """What of the machine a score depends on, by name: device, versions, clock; as with `fingerprint`."""


@runtime_checkable
class PartedTerms(Protocol):
    """Terms whose fingerprint is made of named parts."""

    @property
    def fingerprint_parts(self) -> Mapping[str, str]:
        """A hash of each file or table that the fingerprint is made of, by its name for people."""


class Task(Terms, Protocol):
    """An editable asset, a scalar metric, a time box."""

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """What a candidate has to work with, by name, as proposers are told it: the device, what may be chosen."""

    @property
    def asset(self) -> AssetKind:
        """What kind of text the editable asset is, and what people call it; see `assets.kinds.kind_of`."""

    @property
    def told(self) -> Sequence[str]:
        """Names of a trial's metrics that proposers are told of the champion; none measured on validation data."""

    @property
    def contract(self) -> str:
        """What it asks of the asset, as agents are told it: signatures, limits, versions; Markdown without headings."""

    def prepare(self, source: str, log_dir: Path, *, beside_a_trial: bool = False) -> Candidate:
        """Checks the asset and makes it ready to measure; spends nothing of the budget.

        Args:
          source: text of the editable asset.
          log_dir: an existing folder for whatever the checks print.
          beside_a_trial: another thread may be measuring: it must not be disturbed, and what it made ready stays so.

        Raises:
          CandidateRejected: it cannot be measured, and why.
          CandidateUntouched: the checks did not come as far as the candidate.
        """

    def measure(
        self,
        candidate: Candidate,
        *,
        seed: int,
        log_dir: Path,
        snapshot_dir: Path,
        on_progress: ProgressCallback | None = None,
        scrutiny: Scrutiny = Scrutiny.SEARCH,
        stop_above: Sequence[LossLimit] = (),
        reference_log_dirs: Sequence[Path] = (),
        compile_cost: CompileCost = UNKNOWN_COMPILE_COST,
    ) -> Measurement:
        """Spends one budget on a candidate. Never raises for what the candidate did: that is a status.

        Args:
          candidate: from `prepare` of this task, possibly of an earlier process with the same settings.
          seed: all randomness of the trial follows from it.
          log_dir: an existing folder for the trial's log.
          snapshot_dir: a path that does not exist yet, or the snapshot of the same trial that was cut short after it:
            then it is judged and not trained again. A snapshot is put there whole or not at all.
          on_progress: told how far the trial is.
          scrutiny: how hard the trained result is looked at.
          stop_above: where its loss is above one of these, the trial ends as PRUNED. A task whose trials have a loss
            puts the curve of it into the metrics as LOSSES, so that there can be limits; others ignore them.
          reference_log_dirs: `log_dir` of trials of other candidates, the champion and the baseline, where a task may
            have left what it compares this one with.
          compile_cost: what earlier trials say about compiling, for a task that compiles: it puts COMPILED_PROGRAMS,
            COMPILING_SECONDS and CHARGED_COMPILE into the metrics.

        Raises:
          CandidateUntouched: the trial did not come as far as the candidate.
        """

    def close(self) -> None:
        """Ends all processes of the task, also those that another thread waits for. The task can be used again."""


@runtime_checkable
class CalibratedTask(Protocol):
    """A task whose clock counts in units that have to be measured."""

    def calibrate(self, reference_seconds: float | None, log_dir: Path) -> float | None:
        """Tells the task what its clock counts in, before anything is measured.

        Args:
          reference_seconds: what this returned when the run began; None for a run that begins.
          log_dir: an existing folder for the log.

        Returns:
          What the run has to keep: seconds that a reference program takes on this machine; None where the clock needs
          none.

        Raises:
          UserError: the machine cannot be measured.
        """


@runtime_checkable
class PlaceableTask(Protocol):
    """A task whose machine is divided among several trials at the same time; it measures at the first place itself."""

    @property
    def other_places(self) -> Sequence[Place]:
        """The other ones; none where a trial has the machine for itself."""

    def at(self, place: Place) -> Task:
        """A task that measures at another place what this one prepares, with processes of its own.

        What `CalibratedTask.calibrate` finds holds for both. Its owner closes it.
        """


@runtime_checkable
class RepeatableTask(Protocol):
    """A task whose candidates are made by running their text, which may come out otherwise each time."""

    def prepare_again(self, source: str, log_dir: Path) -> Candidate:
        """As `Task.prepare`, under other conditions: clock, random numbers, hashes, addresses, folder.

        Another program hash means that the text does not say what runs. Nothing is made ready to measure, and what is
        stays so.

        Raises:
          CandidateRejected: it cannot be made now, and why.
        """


@runtime_checkable
class EvalBundleTask(Protocol):
    """A task whose scores can be computed again from a snapshot and what it stores beside it."""

    def keep_eval_bundle(self, folder: Path) -> str:
        """Stores in `folder` all else that a snapshot's score can be computed again from, unless it is there.

        Returns:
          SHA-256 over all of it, in hexadecimal; what is there is checked against it.

        Raises:
          UserError: what is there was changed, or cannot be written.
        """


@runtime_checkable
class HoldoutTask(Protocol):
    """A task with test data that nothing but an audit reads."""

    def measure_on_holdout(
        self,
        candidate: Candidate,
        *,
        seed: int,
        log_dir: Path,
        snapshot_dir: Path,
        on_progress: ProgressCallback | None = None,
        compile_cost: CompileCost = UNKNOWN_COMPILE_COST,
    ) -> Measurement:
        """As `Task.measure`; the metrics have the score on the holdout, too, as HOLDOUT_SCORE."""


class Observer(Protocol):
    """Who is told what the loop does."""

    def notice(self, text: str) -> None:
        """Something that the user should know."""

    def begins(self, experiment: ExperimentRow) -> None:
        """An experiment is about to be prepared and measured."""

    def measures(self, experiment: ExperimentRow, trial: TrialRow, number: int) -> None:
        """A trial is about to begin, one of several that may run; a candidate's may be another one of the champion."""

    def progress(self, trial: int, report: Mapping[str, Scalar]) -> None:
        """How far a trial is, by its number; before one begins, trial 0, how far an experiment is prepared."""

    def measured(self, trial: TrialRow) -> None:
        """A trial is over, and in the ledger."""

    def ends(self, experiment: ExperimentRow) -> None:
        """An experiment is over."""

    def waits(self, what: str, since: float, again_at: float) -> None:
        """The loop waits, such as for a service; called again for each further wait of the same kind.

        Args:
          what: is waited for, or why; one clean line.
          since: seconds since 1970.
          again_at: when it is tried again, in seconds since 1970.
        """

    def resumes(self) -> None:
        """The wait is over."""

    def service_down(self, what: str, since: float, again_at: float) -> None:
        """See `ServiceObserver.service_down`."""

    def service_back(self) -> None:
        """See `ServiceObserver.service_back`."""


class SnapshotKeeper(Protocol):
    """Keeps the snapshots that are still needed, and deletes or moves the others."""

    def settle(self) -> None:
        """Completes what a killed process left undone."""

    def apply(self, ended: ExperimentRow) -> None:
        """Enters an experiment that is over."""


GOES_ON = "the same command goes on from here"
MAX_FAILURES = 3  # in a row; one may be an accident of the machine, three are not the candidate's doing


class RunError(UserError):
    """The run cannot go on; what was measured so far is kept."""


class TaskFailures:
    """Counts failures in a row."""

    def __init__(self) -> None:
        self._count = 0

    def enter(self, error: Exception, log_dir: Path, most: int = MAX_FAILURES, goes_on: str = GOES_ON) -> str:
        """Logs a failure; returns it in one line.

        The traceback is added to task_error.txt in `log_dir`; `most` in a row are too many. `goes_on` ends the line of
        a RunError.

        Raises:
          RunError: it was one too many; what it failed on stays open, and the same command takes it up again.
        """
        log = log_dir / "task_error.txt"
        with log.open("a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))
        self._count += 1
        line = " ".join(str(error).split())
        if not isinstance(error, CandidateUntouched):
            line = f"the task failed: {type(error).__name__}: {line}"
        if self._count >= most:
            see = "" if isinstance(error, CandidateUntouched) else f"; see {log}"  # it names the log that says why
            raise RunError(f"{line}{see}; {goes_on}") from error
        return line

    @property
    def count(self) -> int:
        """How many there were since the last success."""
        return self._count

    def clear(self) -> None:
        """Enters a success."""
        self._count = 0
