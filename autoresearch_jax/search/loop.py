"""The loop: propose, measure, decide, keep or discard, repeat; every step written down before it is spent on."""

import shutil
import statistics
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autoresearch_jax.errors import UserError
from autoresearch_jax.measurement import Candidate, CandidateRejected, Measurement, Scalar, Status
from autoresearch_jax.proposers.base import Brief, Outcome, Proposal, Proposer, SpaceExhausted
from autoresearch_jax.proposers.space import Constant
from autoresearch_jax.search.commits import commit_message
from autoresearch_jax.search.constants import ConstantError, ConstantValue, read_constants, set_constants
from autoresearch_jax.search.decision import Choice, Decision, DecisionRule, Score
from autoresearch_jax.search.interrupts import Interrupts
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.program_file import ProgramFile
from autoresearch_jax.search.records import (
    Conclusion,
    ExperimentRow,
    Intent,
    Kind,
    TrialRow,
    Verdict,
)
from autoresearch_jax.search.results import write_results
from autoresearch_jax.search.run_folder import RunFolder, check_settings
from autoresearch_jax.search.seeds import draw_seed
from autoresearch_jax.search.stopping import Limit, Progress, experiments_limit
from autoresearch_jax.search.task import Task
from autoresearch_jax.search.workspace import Workspace

MAX_TASK_FAILURES = 3  # in a row; one may be an accident of the machine, three are not the candidates' doing
INTERRUPTED = "interrupted; the same command goes on from here"


class RunError(UserError):
    """The run cannot go on; what was measured so far is kept."""


class Observer(Protocol):
    """Who is told what the loop does."""

    def notice(self, text: str) -> None:
        """Something that the user should know."""
        ...

    def begins(self, experiment: ExperimentRow) -> None:
        """An experiment is about to be prepared and measured."""
        ...

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """How far the current trial is."""
        ...

    def ends(self, experiment: ExperimentRow) -> None:
        """An experiment is over."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a loop is made of."""

    task: Task
    proposer: Proposer
    rule: DecisionRule
    ledger: Ledger
    workspace: Workspace
    folder: RunFolder
    program: ProgramFile
    observer: Observer
    interrupts: Interrupts


class Loop:
    """One run, from its baseline to its stopping list, in as many processes as it takes.

    All state is in the ledger; what is kept here is read from it at the start. An experiment that was begun
    and not ended is taken up again with the source and the seed that were written down for it.
    """

    def __init__(self, parts: Parts, run_seed: int, max_experiments: int | None = None) -> None:
        """Makes a loop.

        Args:
          parts: what it is made of.
          run_seed: with the number of an experiment, the source of every seed.
          max_experiments: proposals to end after, instead of what program.md says of experiments.
        """
        self._parts = parts
        self._run_seed = run_seed
        self._max_experiments = max_experiments
        self._rows = [row for row in parts.ledger.experiments() if row.kind is not Kind.TRIAL and not row.is_open]
        self._history = [_as_outcome(row) for row in self._rows if self._is_of_search(row)]
        self._champion = next((row for row in reversed(self._rows) if row.decision is Verdict.KEEP), None)
        self._task_failures = 0

    def run(self) -> str:
        """Works until the run ends; returns one line that says why.

        Raises:
          RunError: the baseline cannot be measured, or the task fails again and again.
          UserError: the run was started with other settings, or git refuses.
        """
        self._settle()
        try:
            if self._champion is None:
                self._run_baseline()
            while (reason := self._advance()) is None:
                pass
        except KeyboardInterrupt:
            return INTERRUPTED
        return reason

    def _settle(self) -> None:
        """Checks that this is the run it was, and completes what a killed process left undone."""
        settings = self._settings()
        stored = self._parts.ledger.settings()
        if stored:
            check_settings(stored, settings, self._parts.folder.path)
        else:
            self._parts.ledger.save_settings(settings)
        self._parts.folder.write_settings(settings)
        if self._champion is None:
            self._parts.workspace.require_unused_branch()
        else:
            last = self._rows[-1]
            if last.id != self._champion.id:
                self._publish(self._champion, previous=self._champion.commit)
            self._publish(last, previous=last.parent_commit)
        write_results(self._parts.folder.results, self._parts.ledger, self._parts.task.metric)

    def _settings(self) -> dict[str, Scalar]:
        task = self._parts.task
        return {
            "editable": self._parts.workspace.editable,
            "seed": self._run_seed,
            "metric": task.metric.name,
            "direction": task.metric.direction,
            "budget_seconds": task.budget.seconds,
            "budget_steps": task.budget.steps,
            "fingerprint": task.fingerprint,
        }

    def _run_baseline(self) -> None:
        """Measures what the user committed; the run stands on it."""
        experiment = self._parts.ledger.open_experiment()
        if experiment is None:
            baseline = self._parts.workspace.baseline()
            experiment = self._parts.ledger.begin_experiment(
                Intent(
                    kind=Kind.BASELINE,
                    source=baseline.source,
                    constants=_constants(baseline.source),
                    hypothesis="baseline",
                    parent_commit=baseline.commit,
                )
            )
        ended = self._carry_out(experiment, time.monotonic())
        if ended.decision is not Verdict.KEEP:
            raise RunError(
                f"the baseline, {self._parts.workspace.editable} as committed, cannot be measured "
                f"({ended.status}): {ended.reason}"
            )

    def _advance(self) -> str | None:
        """Carries out one experiment; returns why the run is over, or None."""
        started = time.monotonic()
        experiment = self._parts.ledger.open_experiment()
        if experiment is None:
            champion = self._require_champion()
            space = self._parts.program.refresh(champion.constants, self._parts.observer.notice)
            reason = self._stop_reason(champion)
            if reason is not None:
                return f"{reason} reached"
            try:
                with self._parts.interrupts.allowed():
                    brief = self._brief(champion, space)
                    proposal = self._parts.proposer.propose(brief)
            except SpaceExhausted as exhausted:
                return str(exhausted)
            experiment = self._begin(champion, brief, proposal)
        if experiment.is_open:
            self._carry_out(experiment, started)
        return None

    def _stop_reason(self, champion: ExperimentRow) -> str | None:
        proposals = [row for row in self._rows if row.kind is Kind.PROPOSAL]
        progress = Progress(
            experiments=len(proposals),
            seconds=sum(row.seconds or 0.0 for row in self._rows),
            dollars=sum(row.cost_dollars for row in proposals),
            since_keep=sum(row.id > champion.id for row in proposals),
            metric=self._parts.task.metric.name,
            score=_score(champion),
        )
        stops = list(self._parts.program.program.stops)
        if self._max_experiments is not None:
            stops = [stop for stop in stops if not (isinstance(stop, Limit) and stop.quantity == "experiments")]
            stops.append(experiments_limit(self._max_experiments))
        return next((reason for stop in stops if (reason := stop.reached(progress)) is not None), None)

    def _brief(self, champion: ExperimentRow, space: Sequence[Constant]) -> Brief:
        return Brief(
            experiment=self._rows[-1].id + 1,
            run_seed=self._run_seed,
            metric=self._parts.task.metric,
            program=self._parts.program.program.text,
            space=space,
            champion_source=self._parts.ledger.source(champion.id),
            champion_constants=champion.constants,
            champion_score=_score(champion),
            history=tuple(self._history),
        )

    def _begin(self, champion: ExperimentRow, brief: Brief, proposal: Proposal) -> ExperimentRow:
        """Writes a proposal down; one that cannot be applied is over at once."""
        source, problem = proposal.source, None
        if source is None:
            try:
                source = set_constants(brief.champion_source, proposal.constants)
            except ConstantError as error:
                source, problem = brief.champion_source, str(error)
        intent = Intent(
            kind=Kind.PROPOSAL,
            source=source,
            constants=_constants(source),
            hypothesis=proposal.hypothesis,
            category=proposal.category,
            proposer=self._parts.proposer.name,
            parent=champion.id,
            parent_commit=champion.commit,
            cost_dollars=proposal.cost_dollars,
        )
        with self._parts.ledger.transaction():
            experiment = self._parts.ledger.begin_experiment(intent)
            if problem is not None:
                return self._discard(experiment, time.monotonic(), Status.REJECTED, problem)
        return experiment

    def _carry_out(self, experiment: ExperimentRow, started: float) -> ExperimentRow:
        """Prepares and measures an experiment until it is decided; returns it as it ended."""
        parts = self._parts
        parts.observer.begins(experiment)
        log_dir = parts.folder.log_dir(experiment.id)
        try:
            with parts.interrupts.allowed():
                candidate = parts.task.prepare(parts.ledger.source(experiment.id), log_dir)
        except CandidateRejected as rejection:
            if rejection.details:
                (log_dir / "rejected.txt").write_text(rejection.details, encoding="utf-8")
            return self._discard(experiment, started, rejection.status, rejection.reason)
        except Exception as error:
            return self._discard(experiment, started, Status.CRASH, self._task_failed(experiment, error))
        parts.ledger.set_program(experiment.id, candidate.program_hash)
        twin = parts.ledger.scored_twin(candidate.program_hash, before=experiment.id)
        if twin is not None:
            reason = f"the same program as experiment {twin.id}, which scored {_score(twin):.6f}"
            return self._discard(experiment, started, Status.DUPLICATE, reason, score=_score(twin))
        return self._measure_until_decided(experiment, candidate, started)

    def _measure_until_decided(self, experiment: ExperimentRow, candidate: Candidate, started: float) -> ExperimentRow:
        ledger = self._parts.ledger
        champion_scores = [] if self._champion is None else self._scores(self._champion)
        scores = self._scores(experiment)
        trial = next((trial for trial in ledger.trials(experiment.id) if trial.status is None), None)
        while True:
            if trial is None:
                seed = self._seed(experiment, champion_scores, len(scores))
                trial = ledger.begin_trial(experiment.id, seed)
            measurement = self._measure(experiment, trial, candidate)
            if measurement.status is not Status.OK or measurement.value is None:
                reason = measurement.error or str(measurement.status)
                return self._discard(experiment, started, measurement.status, reason, ended=(trial, measurement))
            scores.append(Score(trial.seed, measurement.value))
            decision = self._decide(champion_scores, scores)
            if decision.choice is not Choice.MEASURE_AGAIN:
                return self._conclude(
                    experiment,
                    started,
                    Status.OK,
                    statistics.fmean(score.value for score in scores),
                    Verdict.KEEP if decision.choice is Choice.KEEP else Verdict.DISCARD,
                    decision.reason,
                    num_runs=len(scores),
                    ended=(trial, measurement),
                )
            ledger.finish_trial(trial.id, measurement)
            trial = None

    def _decide(self, champion: Sequence[Score], candidate: Sequence[Score]) -> Decision:
        if not champion:
            return Decision(Choice.KEEP, "the baseline")
        return self._parts.rule.decide(champion, candidate)

    def _seed(self, experiment: ExperimentRow, champion: Sequence[Score], trial: int) -> int:
        """The seed of the champion's trial of the same number, so that the two are a pair; else a fresh one."""
        if trial < len(champion):
            return champion[trial].seed
        return draw_seed(self._run_seed, experiment.id, trial)

    def _measure(self, experiment: ExperimentRow, trial: TrialRow, candidate: Candidate) -> Measurement:
        parts = self._parts
        snapshot_dir = parts.folder.snapshot_dir(trial.id)
        snapshot_dir.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(snapshot_dir, ignore_errors=True)  # of the same trial, in a process that was killed
        try:
            with parts.interrupts.allowed():
                measurement = parts.task.measure(
                    candidate,
                    seed=trial.seed,
                    log_dir=parts.folder.log_dir(experiment.id),
                    snapshot_dir=snapshot_dir,
                    on_progress=parts.observer.progress,
                )
        except Exception as error:
            return Measurement(Status.CRASH, None, trial.seed, error=self._task_failed(experiment, error))
        self._task_failures = 0
        return measurement

    def _task_failed(self, experiment: ExperimentRow, error: Exception) -> str:
        """Logs a failure that is not the candidate's and returns it in one line.

        Raises:
          RunError: it was one too many; the experiment stays open, and the same command takes it up again.
        """
        log = self._parts.folder.log_dir(experiment.id) / "task_error.txt"
        with log.open("a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))
        line = f"the task failed: {type(error).__name__}: {' '.join(str(error).split())}"
        self._task_failures += 1
        if self._task_failures >= MAX_TASK_FAILURES or experiment.kind is Kind.BASELINE:
            raise RunError(f"{line}; see {log}; the same command goes on from here") from error
        return line

    def _discard(
        self,
        experiment: ExperimentRow,
        started: float,
        status: Status,
        reason: str,
        score: float | None = None,
        ended: tuple[TrialRow, Measurement] | None = None,
    ) -> ExperimentRow:
        return self._conclude(experiment, started, status, score, Verdict.DISCARD, reason, num_runs=0, ended=ended)

    def _conclude(
        self,
        experiment: ExperimentRow,
        started: float,
        status: Status,
        score: float | None,
        verdict: Verdict,
        reason: str,
        num_runs: int,
        ended: tuple[TrialRow, Measurement] | None,
    ) -> ExperimentRow:
        """Ends an experiment: commit object, then ledger, then ref; each may be repeated after a kill."""
        parts = self._parts
        commit = experiment.parent_commit
        if experiment.kind is Kind.PROPOSAL:
            message = commit_message(
                experiment,
                verdict,
                reason,
                parts.task.metric,
                score,
                _score(self._require_champion()),
                num_runs,
            )
            assert experiment.parent_commit is not None
            source = parts.ledger.source(experiment.id)
            commit = parts.workspace.commit(source, experiment.parent_commit, message, experiment.created_at)
        with parts.ledger.transaction():
            if ended is not None:
                trial, measurement = ended
                parts.ledger.finish_trial(trial.id, measurement)
            seconds = time.monotonic() - started
            row = parts.ledger.conclude(experiment.id, Conclusion(status, score, verdict, reason, commit, seconds))
        self._publish(row, previous=row.parent_commit)
        self._rows.append(row)
        if self._is_of_search(row):
            self._history.append(_as_outcome(row))
        if verdict is Verdict.KEEP:
            self._champion = row
        write_results(parts.folder.results, parts.ledger, parts.task.metric)
        parts.observer.ends(row)
        return row

    def _publish(self, row: ExperimentRow, previous: str | None) -> None:
        """Gives an ended experiment's commit its name in git."""
        if row.commit is None or (row.kind is Kind.BASELINE and row.decision is Verdict.DISCARD):
            return
        if row.decision is Verdict.KEEP:
            self._parts.workspace.keep(row.commit, previous)
        else:
            self._parts.workspace.discard(row.commit, row.id)

    def _scores(self, experiment: ExperimentRow) -> list[Score]:
        return [
            Score(trial.seed, trial.value)
            for trial in self._parts.ledger.trials(experiment.id)
            if trial.value is not None
        ]

    def _is_of_search(self, row: ExperimentRow) -> bool:
        """False for a baseline that failed: a later one took its place."""
        return row.kind is Kind.PROPOSAL or row.decision is Verdict.KEEP

    def _require_champion(self) -> ExperimentRow:
        assert self._champion is not None, "the baseline comes first"
        return self._champion


def _constants(source: str) -> dict[str, ConstantValue]:
    """Top-level constants of a source; none of one that is not Python, which the task will reject."""
    try:
        return read_constants(source)
    except SyntaxError:
        return {}


def _score(row: ExperimentRow) -> float:
    assert row.score is not None, f"experiment {row.id} has no score"
    return row.score


def _as_outcome(row: ExperimentRow) -> Outcome:
    assert row.status is not None
    return Outcome(
        experiment=row.id,
        proposer=row.proposer,
        hypothesis=row.hypothesis,
        category=row.category,
        constants=row.constants,
        status=row.status,
        score=row.score,
        kept=row.decision is Verdict.KEEP,
        reason=row.reason or "",
    )
