"""The trials that run: handed to the executor, and what they gave, in the ledger."""

import itertools
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autoresearch_jax.decide.pruning import PruningThresholds
from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.plan import RunTrial, find_thresholds
from autoresearch_jax.engine.recorder import Recorder
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose, TrialRow
from autoresearch_jax.engine.state import read_compile_cost, read_state
from autoresearch_jax.engine.stopping import MachineWaits, StoppingList
from autoresearch_jax.engine.task import GOES_ON, MAX_FAILURES, RunError, TaskFailures
from autoresearch_jax.executors.base import Finished, Work
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import (
    ATTENDED_SHARE,
    CLOCK_FAULT,
    LOSSES,
    PROGRAM_HASH,
    STATE_BYTES,
    TOO_BUSY,
    Candidate,
    CandidateRejected,
    CandidateUntouched,
    Measurement,
    Scrutiny,
    Status,
    TermsChanged,
    read_curve,
)

MOST_AT_ONCE = 8  # trials of a run: with more of them in flight a night finds less
MOSTLY_ATTENDED = 0.5  # a trial that had the machine for this share of its time and is slow may have itself to blame


@dataclass(frozen=True)
class _Out:
    """A trial that runs; `waits` is how many waits for the machine came before it."""

    trial: TrialRow
    candidate: Candidate
    thresholds: PruningThresholds | None
    waits: int


class Flight:
    """Runs trials of one run's experiments, as many at a time as the executor has slots, at most MOST_AT_ONCE.

    A trial that the machine failed stays open in the ledger, as those of a killed process do: see `left`.

    Attributes:
      ready: gives an experiment as it can be measured, by its number; see `Measuring`.
      started: `time.monotonic()` when the first of the experiments that are open began.
    """

    def __init__(
        self,
        parts: Parts,
        recorder: Recorder,
        stopping: StoppingList,
        first_wait_seconds: float,
    ) -> None:
        """Takes what the loop works with; `ready` is still to be set."""
        self._parts = parts
        self._ledger = parts.ledger
        self._recorder = recorder
        self._waits = MachineWaits(stopping, parts.observer, parts.interrupts, first_wait_seconds)
        self._out: dict[int, _Out] = {}  # by ticket
        self._num_waits = 0
        self._failures = TaskFailures()
        self._has_measured = False  # in this process
        self._champion_failures = 0
        self._has_told_clock_fault = False
        self.started = time.monotonic()
        self.ready: Callable[[int], Candidate]

    @property
    def num_free(self) -> int:
        """How many more trials can be started."""
        return min(self._parts.executor.slots, MOST_AT_ONCE) - len(self._out)

    @property
    def since(self) -> float:
        """`time.monotonic()`; from then on the time is in no experiment's `seconds` yet."""
        return max(self._recorder.last_ended, self.started)

    @property
    def is_empty(self) -> bool:
        """True if no trial runs."""
        return not self._out

    def num_running(self, experiment: int) -> int:
        """How many trials of an experiment run."""
        return sum(out.trial.experiment == experiment for out in self._out.values())

    def left(self) -> list[TrialRow]:
        """The trials that were begun and neither finished nor run, such as those of a killed process."""
        running = {out.trial.id for out in self._out.values()}
        return [trial for trial in self._ledger.open_trials() if trial.id not in running]

    def take_up(self, trial: TrialRow) -> None:
        """Starts a trial that was left, see `start`."""
        self._ledger.take_up_trial(trial.id)
        rows = self._ledger.open_experiments()
        asks = next((row.id for row in rows if row.id == trial.experiment), rows[0].id if rows else trial.experiment)
        self._launch(asks, trial)

    def start(self, asked_by: int, action: RunTrial) -> None:
        """Writes a trial down, together with the decision that an experiment asks for it by, and runs it.

        Raises:
          RunError, StopReached, KeyboardInterrupt: see `finish_one`.
        """
        with self._ledger.transaction():
            if action.decision is not None:
                self._ledger.record_decision(asked_by, action.decision)
            trial = self._ledger.begin_trial(action.of, action.seed, action.purpose)
        self._launch(asked_by, trial)

    def finish_one(self, timeout: float | None) -> None:
        """Waits until a trial is over, and stores what it gave; `timeout` is in seconds, None for no limit.

        Raises:
          RunError: the task or the champion failed too often, or the disk has no room; experiments stay open.
          StopReached: other work kept the machine busy until the run was over; experiments stay open.
          KeyboardInterrupt: the process was asked to end; experiments stay open.
        """
        with self._parts.interrupts.allowed():
            finished = self._parts.executor.next_finished(timeout)
        if finished is not None:
            out = self._out.pop(finished.ticket)
            self._store(out.trial, lambda: self._result(out, finished), out.waits)

    def abandon(self) -> None:
        """Ends all trials; they stay open in the ledger."""
        for ticket, out in self._out.items():
            self._parts.executor.cancel(ticket)
            with suppress(sqlite3.Error):  # of a full disk: then it was begun and never ended
                self._ledger.interrupt_trial(out.trial.id)
        self._out.clear()

    def drop(self, experiment: ExperimentRow, status: Status, reason: str) -> None:
        """Ends the left trials of an experiment that cannot be measured any more."""
        for trial in self.left():
            if trial.experiment == experiment.id:
                self._finish(trial, Measurement(status, None, trial.seed, error=reason))

    def task_failed(self, experiment: ExperimentRow, error: Exception, trial: TrialRow | None = None) -> str:
        """Logs a failure that is not the candidate's and returns it in one line; waits after one of the machine.

        Before anything was measured in this process, no wait would help a machine that fails.

        Raises:
          RunError: it failed too often in a row, or the disk is to blame; the same command takes it up again.
          StopReached: the machine failed until the run was over; the same command takes it up, too.
        """
        if trouble := disk_trouble(error):
            raise RunError(f"{trouble}; {GOES_ON}") from error
        self._parts.disk.require_room()
        is_hopeless = isinstance(error, CandidateUntouched) and not self._has_measured
        is_baseline = experiment.kind is Kind.BASELINE and experiment.is_open
        most = 1 if is_baseline or is_hopeless else MAX_FAILURES
        words = self._failures.enter(error, self._parts.folder.log_dir(experiment.id), most, self._goes_on())
        if isinstance(error, CandidateUntouched):
            is_certifying = experiment.kind is Kind.REVERT or (trial is not None and trial.purpose is Purpose.CERTIFY)
            champion = None if is_certifying else self._recorder.champion
            self._wait(words, self._failures.count - 1, champion)
        return words

    def _goes_on(self) -> str:
        """What the next process does, and the experiment that it tries first."""
        rows = self._ledger.open_experiments()
        first = f", with experiment {rows[0].id} ({clean_line(rows[0].hypothesis)}) first" if rows else ""
        return GOES_ON + first

    def _wait(self, why: str, waits: int, champion: ExperimentRow | None) -> None:
        self._num_waits += 1
        self._waits.wait(why, waits, champion, self.since)

    def _launch(self, asked_by: int, trial: TrialRow) -> None:
        number = len(self._ledger.trials(trial.experiment))
        self._parts.observer.measures(self._ledger.experiment(asked_by), trial, number)
        self._store(trial, lambda: self._submit(trial), self._num_waits)

    def _submit(self, trial: TrialRow) -> None:
        parts, experiment = self._parts, self._ledger.experiment(trial.experiment)
        snapshot_dir = parts.folder.snapshot_dir(trial.experiment, trial.id)
        snapshot_dir.parent.mkdir(parents=True, exist_ok=True)
        with parts.interrupts.allowed():
            candidate = self.ready(trial.experiment)
        parts.disk.require_room(_bytes_of_snapshot(candidate))
        thresholds = self._thresholds(experiment, trial)
        work = Work(
            candidate,
            trial.seed,
            self._log_dir(trial),
            snapshot_dir,
            scrutiny=self._scrutiny(trial),
            stop_above=() if thresholds is None else thresholds.loss_limits,
            reference_log_dirs=self._reference_log_dirs(trial),
            compile_cost=read_compile_cost(self._ledger, trial.experiment, self._recorder.champion),
            on_progress=partial(parts.observer.progress, trial.id),
        )
        self._out[parts.executor.submit(work)] = _Out(trial, candidate, thresholds, self._num_waits)

    def _log_dir(self, trial: TrialRow) -> Path:
        """The experiment's, or one in it where another trial of it runs."""
        log_dir = self._parts.folder.log_dir(trial.experiment)
        if self.num_running(trial.experiment):
            log_dir = log_dir / f"trial{trial.id}"
            log_dir.mkdir(exist_ok=True)
        return log_dir

    def _result(self, out: _Out, finished: Finished) -> Measurement:
        measurement = finished.result()
        self._failures.clear()
        self._has_measured = True
        if measurement.status is Status.PRUNED and out.thresholds is not None:
            words = out.thresholds.explain(read_curve(measurement.metrics.get(LOSSES)))
            measurement = replace(measurement, error=words)
        return replace(measurement, metrics={**measurement.metrics, PROGRAM_HASH: out.candidate.program_hash})

    def _store(self, trial: TrialRow, get: Callable[[], Measurement | None], waits: int) -> None:
        """Stores what a trial gave; nothing where it runs, or is left since the machine or the task failed.

        The machine may end all that runs: the first of these trials is waited for, and counts as a failure.
        """
        experiment = self._ledger.experiment(trial.experiment)
        try:
            measurement = get()
        except CandidateRejected as rejection:
            measurement = Measurement(rejection.status, None, trial.seed, rejection.facts, error=rejection.reason)
        except RunError:
            raise
        except TermsChanged as error:  # for a person to mend, and the next proposal would meet it again
            raise RunError(f"{error}; {self._goes_on()}") from error
        except KeyboardInterrupt:
            self._ledger.interrupt_trial(trial.id)
            raise
        except CandidateUntouched as error:
            self._ledger.interrupt_trial(trial.id)
            if waits == self._num_waits:
                self.task_failed(experiment, error, trial)
            return
        except Exception as error:
            reason = self.task_failed(experiment, error)
            if any(other.value is not None for other in self._ledger.trials(trial.experiment)):
                return
            measurement = Measurement(Status.CRASH, None, trial.seed, error=reason)
        if measurement is not None:
            self._enter(experiment, trial, measurement, waits)

    def _enter(self, experiment: ExperimentRow, trial: TrialRow, measurement: Measurement, waits: int) -> None:
        if measurement.status is not Status.OK:
            self._parts.disk.require_room()  # a full disk is no candidate's fault
        if measurement.metrics.get(TOO_BUSY) and not self._was_others_work(trial, measurement):
            measurement = replace(measurement, metrics={**measurement.metrics, TOO_BUSY: False})
        self._finish(trial, measurement)
        self._tell_clock_fault(trial, measurement)
        if measurement.metrics.get(TOO_BUSY):
            if waits == self._num_waits:
                self._wait_for_machine(trial, measurement)
            return
        if not experiment.is_open or experiment.kind is Kind.REVERT:
            self._recorder.refresh()  # the scores of kept experiments have changed
        if experiment.is_open:
            return
        if trial.purpose is Purpose.CERTIFY and self._parts.retention is not None:
            self._parts.retention.apply(experiment)
        self._champion_failures = self._champion_failures + 1 if measurement.value is None else 0
        if self._champion_failures >= MAX_FAILURES:
            raise RunError(
                f"the champion (experiment {trial.experiment}) cannot be measured any more ({measurement.status}): "
                f"{measurement.error}; see {self._parts.folder.log_dir(trial.experiment)}; {self._goes_on()}"
            )

    def _finish(self, trial: TrialRow, measurement: Measurement) -> None:
        self._ledger.finish_trial(trial.id, measurement)
        ended = next(row for row in self._ledger.trials(trial.experiment) if row.id == trial.id)
        self._parts.observer.measured(ended)

    def _tell_clock_fault(self, trial: TrialRow, measurement: Measurement) -> None:
        """Says, once in a process, that a trial was timed by the wall clock in place of the attended one."""
        fault = measurement.metrics.get(CLOCK_FAULT)
        if fault is not None and not self._has_told_clock_fault:
            self._has_told_clock_fault = True
            self._parts.observer.notice(
                f"the attended clock failed in trial {trial.id} ({fault}): the wall clock from there on"
            )

    def _wait_for_machine(self, trial: TrialRow, measurement: Measurement) -> None:
        """Waits before a trial that other work on the machine ended is run again, at most as long as the run may last.

        Certification may come after the stopping list has ended the search: it waits a few times.

        Raises StopReached if an item of the stopping list holds; the experiment stays open; RunError if the machine
        stays too busy to certify; KeyboardInterrupt if the process was asked to end.
        """
        busy = self._busy_in_a_row(trial.experiment)
        is_certifying = trial.purpose is Purpose.CERTIFY
        if is_certifying and busy >= MAX_FAILURES:
            raise RunError(f"{measurement.error}; the same command certifies the run when the machine is free")
        champion = None if is_certifying else self._recorder.champion
        self._wait(measurement.error or "", busy - 1, champion)

    def _was_others_work(self, trial: TrialRow, measurement: Measurement) -> bool:
        """False of a candidate for which the machine is slow each time, although it has the machine for itself."""
        share = measurement.metrics.get(ATTENDED_SHARE)
        is_alone = isinstance(share, int | float) and share >= MOSTLY_ATTENDED
        return not is_alone or self._busy_in_a_row(trial.experiment) < MAX_FAILURES - 1

    def _busy_in_a_row(self, experiment: int) -> int:
        """How many of an experiment's latest finished trials the machine was too busy for."""
        finished = [trial for trial in self._ledger.trials(experiment) if trial.status is not None]
        return sum(1 for _ in itertools.takewhile(lambda trial: trial.was_too_busy, reversed(finished)))

    def _thresholds(self, experiment: ExperimentRow, trial: TrialRow) -> PruningThresholds | None:
        """The losses above which a trial is stopped; None for one that is run to its end.

        Only the first trial of a candidate may be cut short: further ones were asked for because it might be better,
        and the champion's are what all others are compared with.
        """
        state, pruning, champion = read_state(self._ledger), self._parts.pruning, self._recorder.champion
        is_first = trial.purpose is Purpose.CANDIDATE and not self._ledger.scored(trial.experiment)
        if pruning is None or state is None or experiment.kind is not Kind.PROPOSAL or not is_first:
            return None
        if champion is None or trial.parent != champion.id:  # one that was left, and the champion changed meanwhile
            return None
        return find_thresholds(self._ledger, state, experiment, trial.seed, self._parts.task.metric, pruning)

    def _reference_log_dirs(self, trial: TrialRow) -> list[Path]:
        """Where the trials of the champion and of the baseline left their logs, without the trial's own folder."""
        state = read_state(self._ledger)
        if state is None:
            return []
        others = {state.champion.id, state.baseline} - {trial.experiment}
        return [self._parts.folder.log_dir(number) for number in sorted(others)]

    def _scrutiny(self, trial: TrialRow) -> Scrutiny:
        """KEEP for one trial of what becomes the champion: its first on a fresh seed, or its only one."""
        if self._parts.rule.fresh_runs == 0:
            return Scrutiny.KEEP
        if trial.purpose is not Purpose.CHAMPION:
            return Scrutiny.SEARCH
        earlier = [other for other in self._ledger.trials(trial.experiment) if other.id < trial.id]
        is_first = all(other.purpose is not Purpose.CHAMPION or other.was_too_busy for other in earlier)
        return Scrutiny.KEEP if is_first else Scrutiny.SEARCH


def _bytes_of_snapshot(candidate: Candidate) -> int:
    """At most, as far as it is known."""
    state_bytes = candidate.facts.get(STATE_BYTES)
    return int(state_bytes) if isinstance(state_bytes, int | float) else 0
