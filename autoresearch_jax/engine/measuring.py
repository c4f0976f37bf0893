"""Carries an experiment from its source to its conclusion: prepares it, and runs the trials that plan.py asks for."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.pruning import Pruning, PruningThresholds
from autoresearch_jax.decide.rule import Action, Decision, DecisionRule
from autoresearch_jax.engine.disk import DiskGuard, disk_trouble
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.machine_waits import MachineWaits
from autoresearch_jax.engine.plan import (
    Conclude,
    RunTrial,
    champion_trial,
    conclude_known_program,
    find_thresholds,
    next_action,
    read_open_experiment,
)
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.recorder import Recorder
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.same_program import SameProgram
from autoresearch_jax.engine.state import read_compile_cost, read_state
from autoresearch_jax.engine.stopping import Interrupts, StoppingList
from autoresearch_jax.engine.task import MAX_FAILURES, Observer, RunError, SnapshotKeeper, Task, TaskFailures
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.executors.base import Executor, Work
from autoresearch_jax.proposers.base import Proposer
from autoresearch_jax.types import (
    ATTENDED_SHARE,
    CLOCK_FAULT,
    HASHED_BY,
    LOSSES,
    PROGRAM_HASH,
    STATE_BYTES,
    TOO_BUSY,
    Candidate,
    CandidateRejected,
    CandidateUntouched,
    Measurement,
    Scalar,
    Scrutiny,
    Status,
    TermsChanged,
    read_curve,
)

MOSTLY_ATTENDED = 0.5  # a trial that had the machine for this share of its time and is slow may have itself to blame


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    task: Task
    executor: Executor
    proposer: Proposer
    precheck: Precheck
    rule: DecisionRule
    ledger: Ledger
    workspace: Workspace
    folder: RunFolder
    program: ProgramFile
    observer: Observer
    interrupts: Interrupts
    disk: DiskGuard
    retention: SnapshotKeeper | None = None  # None keeps all snapshots
    pruning: Pruning | None = None
    certification: CertificationSettings | None = None
    flags: Mapping[str, Scalar] = field(default_factory=dict)  # see `keep_to_settings`


class Measuring:
    """Measures candidates of one task, under one rule.

    After each trial the next action follows from the ledger alone, so an experiment that was left at any point is taken
    up from there.
    """

    def __init__(
        self, parts: Parts, recorder: Recorder, stopping: StoppingList, run_seed: int, first_wait_seconds: float
    ) -> None:
        """Takes what the loop works with; see `Loop` for the last two."""
        self._parts = parts
        self._ledger = parts.ledger
        self._recorder = recorder
        self._run_seed = run_seed
        self._waits = MachineWaits(stopping, parts.observer, parts.interrupts, first_wait_seconds)
        self._started = time.monotonic()  # of the experiment, in this process
        self._failures = TaskFailures()
        self._has_measured = False  # in this process
        self._champion_failures = 0
        self._has_told_clock_fault = False
        self._prepared: dict[int, Candidate] = {}  # the present candidate, and the champion
        self._same_program = SameProgram(
            parts.task, parts.ledger, parts.folder, parts.disk, parts.interrupts, self._task_failed
        )

    def evaluate(self, experiment: ExperimentRow) -> Conclude:
        """Spends what it takes to decide on an experiment; takes up one that a killed process left.

        Raises:
          RunError: the task or the champion failed too often, or the disk has no room; the experiment stays open.
          StopReached: other work kept the machine busy until the run was over; the same.
          KeyboardInterrupt: the process was asked to end; the same.
        """
        parts = self._parts
        parts.disk.require_room()
        self._started = time.monotonic()
        page, log_dir = parts.program.program, parts.folder.log_dir(experiment.id)
        champion = self._recorder.champion
        if champion is not None and (twin := self._same_program.known(experiment)) is not None:
            same = champion if champion.program_hash == twin.program_hash else None
            if (known := conclude_known_program(self._ledger, experiment, twin, same, page)) is not None:
                self._ledger.set_program(experiment.id, twin.program_hash)
                return known
        candidate = None
        while candidate is None:
            try:
                with parts.interrupts.allowed():
                    candidate = parts.precheck.prepare(self._ledger.source(experiment.id), experiment.id)
                    champion = self._same_program.champion(experiment, candidate, self._recorder.champion)
            except CandidateRejected as rejection:
                parts.disk.require_room()  # a full disk is no candidate's fault
                if rejection.details:
                    (log_dir / "rejected.txt").write_text(rejection.details, encoding="utf-8")
                return Conclude(rejection.status, Decision(Action.DISCARD, rejection.reason))
            except Exception as error:
                failure = self._task_failed(experiment, error)
                if not isinstance(error, CandidateUntouched):
                    return Conclude(Status.CRASH, Decision(Action.DISCARD, failure))
                candidate = None  # it is prepared again
        program_hash = candidate.program_hash if champion is None else champion.program_hash
        assert program_hash is not None
        self._ledger.set_program(experiment.id, program_hash)
        known = conclude_known_program(self._ledger, experiment, candidate, champion, page)
        if known is None:
            return self._measure_until_decided(experiment, candidate)
        return self._same_program.refusal(experiment, candidate, known) or known

    def measure_champion(self, champion: ExperimentRow) -> None:
        """Runs the champion once more, to know its score better before the run ends.

        Raises:
          RunError, StopReached, KeyboardInterrupt: see `evaluate`.
        """
        self._started = time.monotonic()
        state = read_state(self._ledger)
        assert state is not None
        trial = self._left_trial() or self._begin(champion, champion_trial(state, Purpose.CERTIFY, self._run_seed))
        self._run(None, trial)

    def _measure_until_decided(self, experiment: ExperimentRow, candidate: Candidate) -> Conclude:
        parts = self._parts
        self._prepared[experiment.id] = candidate
        while True:
            trial = self._left_trial()
            if trial is None:
                state = read_state(self._ledger)
                found = read_open_experiment(self._ledger, experiment, state, parts.program.program)
                action = next_action(state, found, parts.rule, parts.task.metric, self._run_seed)
                action = self._same_program.refusal(experiment, candidate, action) or action
                if isinstance(action, Conclude):
                    champion = experiment if action.decision.action.keeps else self._recorder.champion
                    kept = None if champion is None else self._ledger.measured(champion).id
                    self._prepared = {number: ready for number, ready in self._prepared.items() if number == kept}
                    return action
                trial = self._begin(experiment, action)
            self._run(experiment, trial)

    def _begin(self, experiment: ExperimentRow, action: RunTrial) -> TrialRow:
        """Writes a trial down, together with the decision that asks for it."""
        with self._ledger.transaction():
            if action.decision is not None:
                self._ledger.record_decision(experiment.id, action.decision)
            return self._ledger.begin_trial(action.of, action.seed, action.purpose)

    def _left_trial(self) -> TrialRow | None:
        """A trial that was begun and not finished, begun again from now on."""
        trial = self._ledger.open_trial()
        if trial is not None:
            self._ledger.take_up_trial(trial.id)
        return trial

    def _task_failed(self, experiment: ExperimentRow, error: Exception, trial: TrialRow | None = None) -> str:
        """Logs a failure that is not the candidate's and returns it in one line; waits after one of the machine.

        Before anything was measured in this process, no wait would help a machine that fails.

        Raises:
          RunError: it was one too many, or the disk's; the same command takes the experiment up again.
          StopReached: the machine failed until the run was over; the same.
        """
        if trouble := disk_trouble(error):
            raise RunError(f"{trouble}; the same command goes on from here") from error
        self._parts.disk.require_room()
        is_hopeless = isinstance(error, CandidateUntouched) and not self._has_measured
        most = 1 if experiment.kind is Kind.BASELINE or is_hopeless else MAX_FAILURES
        words = self._failures.enter(error, self._parts.folder.log_dir(experiment.id), most)
        if isinstance(error, CandidateUntouched):
            is_certifying = experiment.kind is Kind.REVERT or (trial is not None and trial.purpose is Purpose.CERTIFY)
            champion = None if is_certifying else self._recorder.champion
            self._waits.wait(words, self._failures.count - 1, champion, self._started)
        return words

    def _run(self, experiment: ExperimentRow | None, trial: TrialRow) -> None:
        """Runs a trial and stores what it gave.

        `experiment` is None if it is only about the champion.
        """
        experiment = experiment or self._ledger.experiment(trial.experiment)
        is_own = trial.experiment == experiment.id and experiment.is_open
        self._parts.observer.measures(experiment, trial, len(self._ledger.trials(trial.experiment)))
        measurement = self._measure(experiment, trial)
        if measurement is None:
            return  # the same trial again
        if measurement.status is not Status.OK:
            self._parts.disk.require_room()  # a full disk is no candidate's fault
        if measurement.metrics.get(TOO_BUSY) and not self._was_others_work(trial, measurement):
            measurement = replace(measurement, metrics={**measurement.metrics, TOO_BUSY: False})
        self._ledger.finish_trial(trial.id, measurement)
        self._parts.observer.measured(self._ledger.trials(trial.experiment)[-1])
        self._tell_clock_fault(trial, measurement)
        if measurement.metrics.get(TOO_BUSY):
            self._wait_for_machine(trial, measurement)
            return
        if not is_own or experiment.kind is Kind.REVERT:
            self._recorder.refresh()  # the scores of kept experiments have changed
        if is_own:
            return
        self._champion_failures = self._champion_failures + 1 if measurement.value is None else 0
        if self._champion_failures >= MAX_FAILURES:
            raise RunError(
                f"the champion (experiment {trial.experiment}) cannot be measured any more ({measurement.status}): "
                f"{measurement.error}; see {self._parts.folder.log_dir(trial.experiment)}; the same command goes on "
                "from here"
            )

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

        Raises:
          StopReached: an item of the stopping list holds; the experiment stays open.
          RunError: the machine stays too busy to certify; the same.
          KeyboardInterrupt: the process was asked to end.
        """
        busy = self._busy_in_a_row(trial.experiment)
        is_certifying = trial.purpose is Purpose.CERTIFY
        if is_certifying and busy >= MAX_FAILURES:
            raise RunError(f"{measurement.error}; the same command certifies the run when the machine is free")
        champion = None if is_certifying else self._recorder.champion
        self._waits.wait(measurement.error or "", busy - 1, champion, self._started)

    def _was_others_work(self, trial: TrialRow, measurement: Measurement) -> bool:
        """False of a candidate for which the machine is slow each time, although it has the machine for itself."""
        share = measurement.metrics.get(ATTENDED_SHARE)
        is_alone = isinstance(share, int | float) and share >= MOSTLY_ATTENDED
        return not is_alone or self._busy_in_a_row(trial.experiment) < MAX_FAILURES - 1

    def _busy_in_a_row(self, experiment: int) -> int:
        """How many of an experiment's latest finished trials the machine was too busy for."""
        finished = [trial for trial in self._ledger.trials(experiment) if trial.status is not None]
        return sum(1 for _ in itertools.takewhile(lambda trial: trial.was_too_busy, reversed(finished)))

    def _measure(self, experiment: ExperimentRow, trial: TrialRow) -> Measurement | None:
        """What a trial gave; None if it is run again, since the machine failed, or the task on a scored program."""
        parts = self._parts
        snapshot_dir = parts.folder.snapshot_dir(trial.experiment, trial.id)
        try:
            snapshot_dir.parent.mkdir(parents=True, exist_ok=True)
            with parts.interrupts.allowed():
                candidate = self._ready(trial.experiment)
                parts.disk.require_room(_bytes_of_snapshot(candidate))
                thresholds = self._thresholds(experiment, trial)
                parts.executor.submit(
                    Work(
                        candidate,
                        trial.seed,
                        parts.folder.log_dir(trial.experiment),
                        snapshot_dir,
                        scrutiny=self._scrutiny(trial),
                        stop_above=() if thresholds is None else thresholds.loss_limits,
                        reference_log_dirs=self._reference_log_dirs(trial),
                        compile_cost=read_compile_cost(self._ledger, trial.experiment, self._recorder.champion),
                        on_progress=parts.observer.progress,
                    )
                )
                finished = parts.executor.next_finished()
                assert finished is not None  # it waits without a limit
                measurement = finished.result()
        except CandidateRejected as rejection:
            return Measurement(rejection.status, None, trial.seed, rejection.facts, error=rejection.reason)
        except RunError:
            raise
        except TermsChanged as error:  # for a person to mend, and the next proposal would meet it again
            raise RunError(f"{error}; the same command goes on from here") from error
        except KeyboardInterrupt:
            self._ledger.interrupt_trial(trial.id)
            raise
        except CandidateUntouched as error:
            self._ledger.interrupt_trial(trial.id)
            self._task_failed(experiment, error, trial)
            return None
        except Exception as error:
            reason = self._task_failed(experiment, error)
            if any(other.value is not None for other in self._ledger.trials(trial.experiment)):
                return None
            return Measurement(Status.CRASH, None, trial.seed, error=reason)
        self._failures.clear()
        self._has_measured = True
        if measurement.status is Status.PRUNED and thresholds is not None:
            words = thresholds.explain(read_curve(measurement.metrics.get(LOSSES)))
            measurement = replace(measurement, error=words)
        return replace(measurement, metrics={**measurement.metrics, PROGRAM_HASH: candidate.program_hash})

    def _ready(self, experiment: int) -> Candidate:
        """An experiment that can be measured; the champion of an earlier process is prepared again.

        Raises:
          CandidateRejected: it is refused now.
          RunError: it has become another program.
        """
        if experiment not in self._prepared:
            log_dir = self._parts.folder.log_dir(experiment)
            candidate = self._parts.task.prepare(self._ledger.source(experiment), log_dir)
            then, hashed_by = self._ledger.experiment(experiment).program_hash, candidate.facts.get(HASHED_BY)
            is_comparable = self._ledger.trials(experiment)[0].metrics.get(HASHED_BY) == hashed_by
            if candidate.program_hash != then and is_comparable:
                raise RunError(
                    f"the champion (experiment {experiment}) is another program now ({candidate.program_hash}) than "
                    f"when it was measured ({then}): go on where the task is as it was, or use another --tag"
                )
            self._prepared[experiment] = candidate
        return self._prepared[experiment]

    def _thresholds(self, experiment: ExperimentRow, trial: TrialRow) -> PruningThresholds | None:
        """The losses above which a trial is stopped; None for one that is run to its end.

        Only the first trial of a candidate may be cut short: further ones were asked for because it might be better,
        and the champion's are what all others are compared with.
        """
        state, pruning = read_state(self._ledger), self._parts.pruning
        is_first = trial.purpose is Purpose.CANDIDATE and not self._ledger.scored(trial.experiment)
        if pruning is None or state is None or experiment.kind is not Kind.PROPOSAL or not is_first:
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
