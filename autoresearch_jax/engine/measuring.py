"""Trials of an experiment, one after the other, until the rule has decided; then fresh ones of what was kept."""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from statistics import stdev

from autoresearch_jax.decide.certification import decide_revert
from autoresearch_jax.decide.noise import mean_of, next_paired_seed
from autoresearch_jax.decide.pruning import Pruning, PruningThresholds
from autoresearch_jax.decide.rule import Action, Decision, DecisionRule, decide_greedily
from autoresearch_jax.engine.disk import DiskGuard, disk_trouble
from autoresearch_jax.engine.plan import compare_texts, draw_seed, find_thresholds, nodes_added
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.recorder import Ending, Recorder
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import RunState, read_state
from autoresearch_jax.engine.stopping import FIRST_WAIT_SECONDS, Interrupts, StoppingList, StopReached, backoff
from autoresearch_jax.engine.task import MAX_FAILURES, Observer, RunError, Task, TaskFailures
from autoresearch_jax.sandbox.faults import FaultPoint, reach
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
    Measurement,
    Scrutiny,
    Status,
    TermsChanged,
    read_curve,
)

MOSTLY_ATTENDED = 0.5  # share of its time; a trial that had more of it and is slow may have itself to blame


class Measuring:
    """Measures candidates of one task, under one rule.

    What comes next follows from the ledger alone, after each trial anew. So an experiment can be left at any point and
    is taken up from there.
    """

    def __init__(
        self,
        task: Task,
        rule: DecisionRule,
        recorder: Recorder,
        folder: RunFolder,
        program: ProgramFile,
        interrupts: Interrupts,
        observer: Observer,
        disk: DiskGuard,
        run_seed: int,
        pruning: Pruning | None = None,
        *,
        stopping: StoppingList,
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
    ) -> None:
        self._task = task
        self._stopping = stopping
        self._started = time.monotonic()  # of the experiment, in this process
        self._rule = rule
        self._disk = disk
        self._recorder = recorder
        self._folder = folder
        self._program = program
        self._interrupts = interrupts
        self._observer = observer
        self._run_seed = run_seed
        self._pruning = pruning
        self._first_wait_seconds = first_wait_seconds
        self._failures = TaskFailures()
        self._champion_failures = 0
        self._has_told_clock_fault = False
        self._prepared: dict[int, Candidate] = {}  # the present candidate, and the champion

    def until_decided(self, experiment: ExperimentRow, candidate: Candidate) -> Ending:
        """Runs trials of a candidate, and where they are wanted of its champion, until it is kept or discarded.

        Raises:
          RunError: the task itself, or the champion, failed too often; the experiment stays open.
          StopReached: other work kept the machine busy until the run was over; the same.
          KeyboardInterrupt: the process was asked to end; the same.
        """
        self._prepared[experiment.id] = candidate
        self._started = time.monotonic()
        while True:
            found = self._left_trial() or self._next(experiment)
            if isinstance(found, Ending):
                kept = experiment.id if found.verdict is Action.KEEP else self._champion_id()
                self._prepared = {number: ready for number, ready in self._prepared.items() if number == kept}
                return found
            self._run(experiment, found)

    def task_failed(self, experiment: ExperimentRow, error: Exception) -> str:
        """Logs a failure that is not the candidate's and returns it in one line.

        Raises:
          RunError: it was one too many, or the disk's; the experiment stays open, and the same command takes it up
            again.
        """
        if trouble := disk_trouble(error):
            raise RunError(f"{trouble}; the same command goes on from here") from error
        self._disk.require_room()
        most = 1 if experiment.kind is Kind.BASELINE else MAX_FAILURES
        return self._failures.enter(error, self._folder.log_dir(experiment.id), most)

    def _champion_id(self) -> int | None:
        champion = self._recorder.champion
        return None if champion is None else self._recorder.ledger.measured(champion).id

    def measure_champion(self, champion: ExperimentRow) -> None:
        """Runs the champion once more, to know its score better before the run ends.

        Raises:
          RunError, StopReached, KeyboardInterrupt: see `until_decided`.
        """
        self._started = time.monotonic()
        ledger = self._recorder.ledger
        measured = ledger.measured(champion)
        trial = self._left_trial() or self._begin(measured, Purpose.CERTIFY, self._fresh_seed(measured))
        self._run(None, trial)

    def _left_trial(self) -> TrialRow | None:
        """A trial that was begun and not finished, begun again from now on."""
        trial = self._recorder.ledger.open_trial()
        if trial is not None:
            self._recorder.ledger.take_up_trial(trial.id)
        return trial

    def _next(self, experiment: ExperimentRow) -> TrialRow | Ending:
        """The next trial, written down with the decision that asks for it; or how the experiment ends."""
        ledger = self._recorder.ledger
        trials = [trial for trial in ledger.trials(experiment.id) if not trial.was_too_busy]
        failed = _fatal(experiment, trials)
        if failed is not None:
            return _failure(experiment, failed)
        state = read_state(ledger)
        if state is None:
            return self._next_of_baseline(experiment)
        decisions = ledger.decisions(experiment.id)
        if decisions and decisions[-1].action.keeps:
            last = decisions[-1]
            kept = Decision(last.action, last.reason, last.gain, last.probability, last.sigma)
            return self._next_as_champion(experiment, self._rule.fresh_runs, kept)
        if not trials:
            return self._begin_candidate(experiment, state, trials)
        decision = self._decide(experiment, state)
        with ledger.transaction():
            found: TrialRow | Ending
            match decision.action:
                case Action.MEASURE_CANDIDATE:
                    found = self._begin_candidate(experiment, state, trials)
                case Action.MEASURE_CHAMPION:
                    found = self._begin(state.champion, Purpose.CHAMPION, self._fresh_seed(state.champion))
                case Action.DISCARD:
                    score = mean_of([trial.score for trial in ledger.runs(experiment)])
                    found = Ending(Status.OK, score, Action.DISCARD, decision.reason, len(trials))
                case Action.KEEP | Action.KEEP_SIMPLER:
                    found = self._next_as_champion(experiment, self._rule.fresh_runs, decision)
            if isinstance(found, Ending):  # is written down with the decision, not before
                return replace(found, decision=decision)
            ledger.record_decision(experiment.id, decision)
        return found

    def _decide(self, experiment: ExperimentRow, state: RunState) -> Decision:
        ledger, lineage = self._recorder.ledger, state.lineage
        if experiment.kind is Kind.REVERT:
            assert lineage is not None, "the greedy rule certifies nothing"
            return decide_revert(lineage, experiment.id, self._task.metric)
        runs = ledger.scored(experiment.id)
        if lineage is None:
            return decide_greedily(self._task.metric, runs[0].score, state.score.mean)
        added = nodes_added(ledger, experiment, self._recorder.require_champion(), self._program.program)
        return self._rule.decide(lineage, experiment.id, state.complexity(runs, added))

    def _next_of_baseline(self, experiment: ExperimentRow) -> TrialRow | Ending:
        """Runs of the baseline; their spread is the first that is known of the noise."""
        kept = Decision(Action.KEEP, "the baseline")
        found = self._next_as_champion(experiment, self._rule.baseline_runs, kept)
        if isinstance(found, TrialRow):
            return found
        runs = [run.score for run in self._recorder.ledger.scored(experiment.id)]
        spread = f"; they scatter by {stdev(runs):.2g}" if len(runs) > 1 else ""
        decision = Decision(Action.KEEP, f"the baseline, {len(runs)} run{'' if len(runs) == 1 else 's'}{spread}")
        return replace(found, reason=decision.reason, decision=decision)

    def _next_as_champion(self, experiment: ExperimentRow, wanted: int, decision: Decision) -> TrialRow | Ending:
        ledger = self._recorder.ledger
        trials = [trial for trial in ledger.trials(experiment.id) if not trial.was_too_busy]
        runs = ledger.scored(experiment.id)
        is_baseline = experiment.kind is Kind.BASELINE  # of which no decision depended on any run
        if sum(is_baseline or run.purpose is Purpose.CHAMPION for run in runs) < wanted:
            return self._begin(experiment, Purpose.CHAMPION, self._fresh_seed(experiment))
        simpler = decision.action is Action.KEEP_SIMPLER
        score = mean_of([run.score for run in ledger.runs(experiment)])
        return Ending(
            Status.OK, score, Action.KEEP, decision.reason, len(trials), simplification=simpler, effect=decision
        )

    def _begin_candidate(self, experiment: ExperimentRow, state: RunState, trials: list[TrialRow]) -> TrialRow:
        purpose = Purpose.CERTIFY if experiment.kind is Kind.REVERT else Purpose.CANDIDATE
        return self._begin(experiment, purpose, self._paired_seed(experiment, state, trials))

    def _paired_seed(self, experiment: ExperimentRow, state: RunState, trials: list[TrialRow]) -> int:
        """One of the champion's, so that the two runs are a pair, while there are such; else a fresh one."""
        paired = next_paired_seed(state.seeds, [trial.seed for trial in trials], experiment.id)
        return self._fresh_seed(experiment) if paired is None else paired

    def _fresh_seed(self, experiment: ExperimentRow) -> int:
        counted = sum(not trial.was_too_busy for trial in self._recorder.ledger.trials(experiment.id))
        return draw_seed(self._run_seed, experiment.id, counted)

    def _begin(self, measured: ExperimentRow, purpose: Purpose, seed: int) -> TrialRow:
        return self._recorder.ledger.begin_trial(measured.id, seed, purpose)

    def _run(self, experiment: ExperimentRow | None, trial: TrialRow) -> None:
        """Runs a trial and stores what it gave.

        Args:
          experiment: the one in question; None if it is only about the champion.
          trial: of it, or of the champion.
        """
        ledger = self._recorder.ledger
        experiment = experiment or ledger.experiment(trial.experiment)
        is_own = trial.experiment == experiment.id and experiment.is_open
        self._observer.measures(experiment, trial, len(ledger.trials(trial.experiment)))
        reach(FaultPoint.AFTER_TRIAL_INTENT, trial.id)
        measurement = self._measure(experiment, trial)
        if measurement is None:
            return  # the same trial again
        if measurement.status is not Status.OK:
            self._disk.require_room()  # of a full disk no candidate is to blame
        reach(FaultPoint.AFTER_MEASUREMENT, trial.id)
        if measurement.metrics.get(TOO_BUSY) and not self._was_others_work(trial, measurement):
            measurement = replace(measurement, metrics={**measurement.metrics, TOO_BUSY: False})
        ledger.finish_trial(trial.id, measurement)
        reach(FaultPoint.AFTER_TRIAL_RESULT, trial.id)
        self._tell_clock_fault(trial, measurement)
        if measurement.metrics.get(TOO_BUSY):
            self._wait_for_machine(trial, measurement)
            return
        if is_own and experiment.kind is not Kind.REVERT:
            return
        self._recorder.refresh()  # what is kept has another score by now
        if is_own:
            return
        if measurement.value is not None:
            self._champion_failures = 0
            return
        self._champion_failures += 1
        if self._champion_failures >= MAX_FAILURES:
            raise RunError(
                f"the champion (experiment {trial.experiment}) cannot be measured any more ({measurement.status}): "
                f"{measurement.error}; see {self._folder.log_dir(trial.experiment)}; the same command goes on from here"
            )

    def _tell_clock_fault(self, trial: TrialRow, measurement: Measurement) -> None:
        """Says, once in a process, that a trial was timed by the wall clock in place of the attended one."""
        fault = measurement.metrics.get(CLOCK_FAULT)
        if fault is not None and not self._has_told_clock_fault:
            self._has_told_clock_fault = True
            self._observer.notice(
                f"the attended clock failed in trial {trial.id} ({fault}): the wall clock from there on"
            )

    def _wait_for_machine(self, trial: TrialRow, measurement: Measurement) -> None:
        """Waits before a trial is run again that other work on the machine ended, but no longer than the run may last.

        Certification may come after the stopping list has ended the search: it waits a few times.

        Raises:
          StopReached: an item of the stopping list holds; the experiment stays open.
          RunError: the machine stays too busy to certify; the same.
          KeyboardInterrupt: the process was asked to end.
        """
        busy = self._busy_in_a_row(trial.experiment)
        seconds = backoff(self._first_wait_seconds, waits=busy - 1)
        self._observer.notice(f"{measurement.error}; measured again in {seconds:g} s")
        champion = self._recorder.champion
        is_certifying = trial.purpose is Purpose.CERTIFY
        if is_certifying and busy >= MAX_FAILURES:
            raise RunError(f"{measurement.error}; the same command certifies the run when the machine is free")
        if champion is None or is_certifying:  # the stopping list begins to count with the baseline
            with self._interrupts.allowed():
                time.sleep(seconds)
            return
        self._stopping.wait(seconds, champion, self._started)
        progress = self._stopping.progress(champion, waited_seconds=time.monotonic() - self._started)
        if (reason := self._stopping.stop_reason(progress)) is not None:
            raise StopReached(reason)

    def _was_others_work(self, trial: TrialRow, measurement: Measurement) -> bool:
        """False of a candidate for which the machine is slow each time, although it has the machine for itself."""
        share = measurement.metrics.get(ATTENDED_SHARE)
        is_alone = isinstance(share, int | float) and share >= MOSTLY_ATTENDED
        return not is_alone or self._busy_in_a_row(trial.experiment) < MAX_FAILURES - 1

    def _busy_in_a_row(self, experiment: int) -> int:
        """How many of an experiment's latest finished trials the machine was too busy for."""
        finished = [trial for trial in self._recorder.ledger.trials(experiment) if trial.status is not None]
        return sum(1 for _ in itertools.takewhile(lambda trial: trial.was_too_busy, reversed(finished)))

    def _measure(self, experiment: ExperimentRow, trial: TrialRow) -> Measurement | None:
        """What a trial gave; None if the task failed on a program that it measured before, so that it is run again."""
        snapshot_dir = self._folder.snapshot_dir(trial.experiment, trial.id)
        try:
            snapshot_dir.parent.mkdir(parents=True, exist_ok=True)
            with self._interrupts.allowed():
                candidate = self._ready(trial.experiment)
                self._disk.require_room(_bytes_of_snapshot(candidate))
                thresholds = self._thresholds(experiment, trial)
                measurement = self._task.measure(
                    candidate,
                    seed=trial.seed,
                    log_dir=self._folder.log_dir(trial.experiment),
                    snapshot_dir=snapshot_dir,
                    scrutiny=self._scrutiny(trial),
                    on_progress=self._observer.progress,
                    stop_above=() if thresholds is None else thresholds.ceilings,
                )
        except CandidateRejected as rejection:
            return Measurement(rejection.status, None, trial.seed, rejection.facts, error=rejection.reason)
        except RunError:
            raise
        except TermsChanged as error:  # for a person to mend, and the next proposal would meet it again
            raise RunError(f"{error}; the same command goes on from here") from error
        except KeyboardInterrupt:
            self._recorder.ledger.interrupt_trial(trial.id)
            raise
        except Exception as error:
            reason = self.task_failed(experiment, error)
            if any(other.value is not None for other in self._recorder.ledger.trials(trial.experiment)):
                return None
            return Measurement(Status.CRASH, None, trial.seed, error=reason)
        self._failures.clear()
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
            ledger = self._recorder.ledger
            candidate = self._task.prepare(ledger.source(experiment), self._folder.log_dir(experiment))
            then, hashed_by = ledger.experiment(experiment).program_hash, candidate.facts.get(HASHED_BY)
            # an update may write the same program differently; what made the hashes says whether one may compare them
            if candidate.program_hash != then and ledger.trials(experiment)[0].metrics.get(HASHED_BY) == hashed_by:
                raise RunError(
                    f"the champion (experiment {experiment}) is another program now ({candidate.program_hash}) than "
                    f"when it was measured ({then}): go on where the task is as it was, or use another --tag"
                )
            self._prepared[experiment] = candidate
        return self._prepared[experiment]

    def _thresholds(self, experiment: ExperimentRow, trial: TrialRow) -> PruningThresholds | None:
        """What a trial's losses are held against while it runs; None for one that is run to its end.

        Only what a candidate is first seen by may be cut short. Its further runs were asked for because it might be
        better, and the champion's are what all others are compared with.
        """
        ledger = self._recorder.ledger
        state = read_state(ledger)
        is_first = trial.purpose is Purpose.CANDIDATE and all(
            other.value is None for other in ledger.trials(trial.experiment)
        )
        if self._pruning is None or state is None or experiment.kind is not Kind.PROPOSAL or not is_first:
            return None
        return find_thresholds(ledger, state, experiment, trial.seed, self._task.metric, self._pruning)

    def _scrutiny(self, trial: TrialRow) -> Scrutiny:
        """One run of what becomes the champion is looked at harder than a sample does: the first that it does not need
        luck for, or with a rule that is content with one run, that one."""
        if self._rule.fresh_runs == 0:
            return Scrutiny.KEEP
        if trial.purpose is not Purpose.CHAMPION:
            return Scrutiny.SEARCH
        earlier = [other for other in self._recorder.ledger.trials(trial.experiment) if other.id < trial.id]
        is_first = all(other.purpose is not Purpose.CHAMPION or other.was_too_busy for other in earlier)
        return Scrutiny.KEEP if is_first else Scrutiny.SEARCH


def _bytes_of_snapshot(candidate: Candidate) -> int:
    """At most, as far as it is known."""
    state_bytes = candidate.facts.get(STATE_BYTES)
    return int(state_bytes) if isinstance(state_bytes, int | float) else 0


def _fatal(experiment: ExperimentRow, trials: list[TrialRow]) -> TrialRow | None:
    """The trial without a score that ends an experiment; None if there is none.

    A baseline that was scored once is as good as a champion: what fails after that is run again, but for MAX_FAILURES
    in a row.
    """
    failed = [trial for trial in trials if trial.status is not Status.OK]
    if experiment.kind is not Kind.BASELINE or len(failed) == len(trials):
        return failed[0] if failed else None
    latest = trials[-MAX_FAILURES:]
    return latest[-1] if len(latest) == MAX_FAILURES and all(trial in failed for trial in latest) else None


def _failure(experiment: ExperimentRow, trial: TrialRow) -> Ending:
    """How an experiment ends one of whose trials gave no score."""
    assert trial.status is not None
    reason = trial.error or str(trial.status)
    if trial.purpose is Purpose.CHAMPION and experiment.kind is not Kind.BASELINE:
        reason = f"it failed when it was measured afresh as the champion: {reason}"
    return Ending(trial.status, None, Action.DISCARD, reason)


class Evaluation:
    """Carries experiments of one task from their source to their ending."""

    def __init__(
        self,
        task: Task,
        recorder: Recorder,
        folder: RunFolder,
        program: ProgramFile,
        interrupts: Interrupts,
        measuring: Measuring,
        precheck: Precheck,
        disk: DiskGuard,
    ) -> None:
        self._task = task
        self._recorder = recorder
        self._folder = folder
        self._program = program
        self._interrupts = interrupts
        self._measuring = measuring
        self._precheck = precheck
        self._disk = disk
        self._hashes_now: dict[int, str | None] = {}  # of champions that were hashed otherwise

    def evaluate(self, experiment: ExperimentRow) -> Ending:
        """Spends what it takes to decide on an experiment; takes up one that a killed process left.

        Raises:
          RunError: the task itself failed too often, or the disk has no room; the experiment stays open.
          KeyboardInterrupt: the process was asked to end; the same.
        """
        self._disk.require_room()
        log_dir = self._folder.log_dir(experiment.id)
        try:
            with self._interrupts.allowed():
                candidate = self._precheck.prepare(self._recorder.ledger.source(experiment.id), experiment.id)
                champion_hash = self._champion_hash(candidate, log_dir / "champion")
        except CandidateRejected as rejection:
            self._disk.require_room()  # of a full disk no candidate is to blame
            if rejection.details:
                (log_dir / "rejected.txt").write_text(rejection.details, encoding="utf-8")
            return Ending(rejection.status, None, Action.DISCARD, rejection.reason)
        except Exception as error:
            return Ending(Status.CRASH, None, Action.DISCARD, self._measuring.task_failed(experiment, error))
        reach(FaultPoint.AFTER_TRACE, experiment.id)
        champion = self._recorder.champion
        if champion is not None and champion_hash == candidate.program_hash:
            assert champion.program_hash is not None
            self._recorder.ledger.set_program(experiment.id, champion.program_hash)  # by which its trials are found
            return compare_texts(self._recorder.ledger, experiment, champion, self._program.program)
        self._recorder.ledger.set_program(experiment.id, candidate.program_hash)
        reach(FaultPoint.AFTER_PROGRAM, experiment.id)
        if experiment.kind is Kind.REVERT:  # an earlier champion's program may be measured once more
            return self._measuring.until_decided(experiment, candidate)
        twin = self._recorder.ledger.scored_twin(candidate.program_hash, before=experiment.id)
        if twin is not None:
            reason = f"the same program as experiment {twin.id}"
            return Ending(Status.DUPLICATE, twin.score, Action.DISCARD, reason)
        pruned = self._recorder.ledger.pruned_twin(candidate.program_hash, before=experiment.id)
        if pruned is not None:
            reason = f"the same program as experiment {pruned.id}, which was stopped early"
            return Ending(Status.DUPLICATE, None, Action.DISCARD, reason)
        return self._measuring.until_decided(experiment, candidate)

    def _champion_hash(self, candidate: Candidate, log_dir: Path) -> str | None:
        """The champion's program hash, made as the candidate's was; None without a champion that can be prepared.

        An older autoresearch and another JAX hash the same program to something else. A champion from before is
        prepared again, once a process; other twins from before are not found, and their programs are measured anew.
        """
        ledger, champion = self._recorder.ledger, self._recorder.champion
        if champion is None:
            return None
        trial = ledger.trials(ledger.measured(champion).id)[0]
        if trial.metrics.get(HASHED_BY) == candidate.facts.get(HASHED_BY):
            return champion.program_hash
        if champion.id not in self._hashes_now:
            log_dir.mkdir(exist_ok=True)
            try:
                now = self._task.prepare(ledger.source(champion.id), log_dir).program_hash
            except CandidateRejected:
                now = None
            self._task.close()  # what it made ready is not what will be measured
            self._hashes_now[champion.id] = now
        return self._hashes_now[champion.id]
