"""The three audits of a run: is its gain real, does each kept change earn its place, does the gain hold elsewhere.

Each text is measured on the same fresh seeds. What is left to do follows from the ledger, so the same call takes up an
audit that was cut short. No proposer ever sees an audit's trial.
"""

import enum
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from autoresearch_jax.assets.base import ConstantError
from autoresearch_jax.audit.findings import (
    BASELINE,
    CHAMPION,
    FEWEST_PAIRS,
    AuditFindings,
    Change,
    Scores,
    ablation_findings,
    holdout_findings,
    on_holdout,
    on_val,
    read_scores,
    transfer_findings,
)
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.certifying import CONFLICT, Reverted, Version, revert
from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.plan import draw_audit_seeds
from autoresearch_jax.engine.records import AuditTrial, ExperimentRow, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import read_compile_cost
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import MAX_FAILURES, HoldoutTask, RunError, Task, TaskFailures
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.types import (
    TOO_BUSY,
    Candidate,
    CandidateRejected,
    CandidateUntouched,
    Measurement,
    Merge,
    Scalar,
    Status,
)

FURTHER_SEEDS = 6  # that an audit may take beyond --runs until two give both scores: with fewer nothing can be said
DEPTH = "DEPTH"  # the constant of an asset that sets its size


class AuditError(UserError):
    """There is nothing to audit, or it cannot be measured any more."""


class AuditKind(enum.StrEnum):
    """What an audit asks."""

    HOLDOUT = "holdout"  # is the gain real on text that steered nothing
    ABLATION = "ablation"  # does each kept change still earn its place
    TRANSFER = "transfer"  # does the gain hold at another size


class AuditObserver(Protocol):
    """Who is told what an audit does."""

    def prepares(self, subject: str) -> None:
        """A text is about to be prepared."""

    def measures(self, subject: str, number: int, total: int) -> None:
        """Trial `number` of `total`, counted from 1, is about to begin."""

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """How far the current trial is."""


@dataclass(frozen=True)
class _Audit:
    """An audit: its number, counted from 1, and its question as the ledger has it."""

    number: int
    kind: AuditKind
    question: str


@dataclass(frozen=True)
class _Subject:
    """A text that an audit measures, and the experiment that it is made from."""

    experiment: int
    candidate: Candidate


def kept_experiments(ledger: Ledger) -> list[ExperimentRow]:
    """What a run kept: its baseline, and every champion after it.

    Raises:
      AuditError: the run kept nothing but its baseline, or not even that.
    """
    rows = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL and row.decision is Action.KEEP]
    if len(rows) < 2:
        state = "the champion is still the baseline" if rows else "the run has no baseline yet"
        raise AuditError(f"{state}: there is nothing to audit until `autoresearch run` has kept a change")
    return rows


class Audits:
    """Audits of one run. All raise RunError if the task itself fails too often, KeyboardInterrupt if asked to end."""

    def __init__(
        self, task: Task, ledger: Ledger, folder: RunFolder, interrupts: Interrupts, observer: AuditObserver
    ) -> None:
        """Raises AuditError if the run kept nothing; for a transfer the task has the longer budget."""
        self._task = task
        self._ledger = ledger
        self._folder = folder
        self._interrupts = interrupts
        self._observer = observer
        self._failures = TaskFailures()
        self._kept = kept_experiments(ledger)
        self._contenders = {BASELINE: self._kept[0], CHAMPION: self._kept[-1]}

    def holdout(self, runs: int) -> AuditFindings:
        """Baseline and champion on fresh seeds, scored on val and on the holdout.

        Raises:
          AuditError: the task has no holdout, or one of them cannot be measured any more, or they are the same program.
        """
        if not isinstance(self._task, HoldoutTask):
            raise AuditError("the task has no holdout: audit it with --transfer or --ablate")
        audit = self._begin(AuditKind.HOLDOUT, {"runs": runs})
        sources = {name: self._ledger.source(row.id) for name, row in self._contenders.items()}
        subjects = self._prepare_contenders(audit, sources, "the same program: there is no gain to audit")
        baseline, champion = (self._contenders[name].score for name in (BASELINE, CHAMPION))
        metric = self._task.metric
        reported = None if baseline is None or champion is None else metric.gain(champion, over=baseline)
        return self._end(audit, holdout_findings(self._measure(audit, subjects, runs), metric, reported))

    def transfer(self, runs: int, depth: int, factor: float) -> AuditFindings:
        """Baseline and champion at another depth, with a longer budget.

        Each is run `runs` times; `factor` is how many times the run's budget the task's is.

        Raises:
          UsageError: one of them has no such constant.
          AuditError: one of them cannot be measured there, or they are the same program there.
        """
        sources = {name: self._at_depth(name, row, depth) for name, row in self._contenders.items()}
        audit = self._begin(AuditKind.TRANSFER, {"runs": runs, "depth": depth, "budget_factor": factor})
        same = f"the same program at {DEPTH} {depth}: all of the gain is in {DEPTH}"
        scores = self._measure(audit, self._prepare_contenders(audit, sources, same), runs)
        where = f"at {DEPTH} {depth} with {factor:g} times the budget"
        findings = transfer_findings(scores, self._task.metric, where)
        setting: dict[str, Scalar] = {
            "depth": depth,
            "budget_seconds": self._task.budget.seconds,
            "budget_steps": self._task.budget.steps,
        }
        return self._end(audit, replace(findings, figures={**setting, **findings.figures}))

    def ablation(self, runs: int, merge: Merge) -> AuditFindings:
        """The champion against itself without each of its kept changes.

        Raises:
          AuditError: the champion cannot be measured any more.
        """
        audit = self._begin(AuditKind.ABLATION, {"runs": runs})
        versions = [Version(row.id, self._ledger.source(row.id)) for row in self._kept]
        champion = self._prepare(audit, CHAMPION, versions[-1].source)
        subjects = {CHAMPION: _Subject(self._kept[-1].id, champion)}
        changes = []
        for index, row in enumerate(self._kept[1:], start=1):
            change, candidate = self._without(audit, row, revert(versions, index, merge, self._task.asset), champion)
            changes.append(change)
            if change.subject is not None and candidate is not None:
                subjects[change.subject] = _Subject(self._kept[-1].id, candidate)
        scores = self._measure(audit, subjects, runs if len(subjects) > 1 else 0)
        return self._end(audit, ablation_findings(scores, self._task.metric, changes))

    def _without(
        self, audit: _Audit, row: ExperimentRow, reverted: Reverted, champion: Candidate
    ) -> tuple[Change, Candidate | None]:
        """The champion without a change, ready to be measured where it can be."""
        if reverted.source is None:
            return Change(row, None, reverted.obstacle, reverted.note), None
        subject = f"without {row.id}"
        try:
            candidate = self._candidate(audit, subject, reverted.source)
        except CandidateRejected as rejection:
            reason = f"without it the text is refused ({rejection.status}): {rejection.reason}"
            return Change(row, None, CONFLICT, reason), None
        if candidate.program_hash == champion.program_hash:
            return Change(row, None, "no effect", "without it the text gives the same program"), None
        return Change(row, subject, note=reverted.note), candidate

    def _at_depth(self, name: str, row: ExperimentRow, depth: int) -> str:
        try:
            return self._task.asset.set_constants(self._ledger.source(row.id), {DEPTH: depth})
        except ConstantError as error:
            raise UsageError(f"--transfer={depth}: the {name}, experiment {row.id}: {error}") from error

    def _prepare_contenders(self, audit: _Audit, sources: Mapping[str, str], same: str) -> dict[str, _Subject]:
        candidates = {name: self._prepare(audit, name, source) for name, source in sources.items()}
        if candidates[BASELINE].program_hash == candidates[CHAMPION].program_hash:
            raise AuditError(f"champion and baseline are {same}")
        return {name: _Subject(self._contenders[name].id, candidate) for name, candidate in candidates.items()}

    def _prepare(self, audit: _Audit, name: str, source: str) -> Candidate:
        try:
            return self._candidate(audit, name, source)
        except CandidateRejected as rejection:
            raise AuditError(f"the {name} cannot be measured ({rejection.status}): {rejection.reason}") from rejection

    def _candidate(self, audit: _Audit, subject: str, source: str) -> Candidate:
        self._observer.prepares(subject)
        with self._interrupts.allowed():
            return self._task.prepare(source, self._log_dir(audit, subject))

    def _begin(self, kind: AuditKind, settings: Mapping[str, Scalar]) -> _Audit:
        """A new audit, or the one with the same question that was cut short."""
        champion = self._kept[-1].id
        question = json.dumps({"kind": kind, "champion": champion, **settings}, sort_keys=True)
        trials = self._ledger.audit_trials()
        unanswered = [trial.audit for trial in trials if trial.question == question and trial.answered_at is None]
        number = unanswered[-1] if unanswered else max((trial.audit for trial in trials), default=0) + 1
        return _Audit(number, kind, question)

    def _end(self, audit: _Audit, findings: AuditFindings) -> AuditFindings:
        """Closes an audit and adds the figures that every one has."""
        self._ledger.answer_audit(audit.number)
        first: dict[str, Scalar] = {
            "audit": audit.number,
            "kind": str(audit.kind),
            "champion_experiment": self._kept[-1].id,
        }
        last = {"holdout_readings": self._ledger.holdout_readings()}
        return replace(findings, figures={**first, **findings.figures, **last})

    def _measure(self, audit: _Audit, subjects: Mapping[str, _Subject], runs: int) -> Scores:
        """Runs each subject once with each of `runs` fresh seeds, except for trials that are finished.

        Seed by seed, in turn forwards and backwards, so that a machine that slows down does so for all alike. Where
        fewer than `FEWEST_PAIRS` seeds gave a score of the first subject and of another, these two are run with up to
        `FURTHER_SEEDS` more. What failed `MAX_FAILURES` times in a row is given up; if it is the first subject, with
        which all others are compared, so is the audit.
        """
        names = list(subjects)
        try:
            for index, (name, seed) in enumerate(self._schedule(audit, names, runs + FURTHER_SEEDS)):
                trials = self._trials(audit)
                given_up = {other for other in names if _is_given_up(trials, other)}
                if names[0] in given_up or given_up >= set(names[1:]):
                    break
                if index >= len(names) * runs:
                    lacking = self._lacking(audit, names) - given_up
                    if not lacking:
                        break
                    if name not in {names[0], *lacking}:
                        continue
                found = next((trial for trial in trials if (trial.subject, trial.seed) == (name, seed)), None)
                if found is None and name not in given_up:
                    found = self._ledger.begin_audit_trial(
                        subjects[name].experiment,
                        seed,
                        split="holdout" if audit.kind is AuditKind.HOLDOUT else "val",
                        audit=audit.number,
                        question=audit.question,
                        subject=name,
                    )
                if found is not None and found.status is None:
                    self._observer.measures(name, index + 1, max(len(names) * runs, index + 1))
                    self._ledger.finish_trial(found.id, self._run(audit, found, subjects[name].candidate))
        finally:
            with suppress(OSError):  # it holds the snapshot of a trial that was cut short
                self._snapshots(audit).rmdir()
        return read_scores(self._trials(audit))

    def _lacking(self, audit: _Audit, names: Sequence[str]) -> set[str]:
        """Subjects that cannot be compared with the first one yet."""
        scores, value = read_scores(self._trials(audit)), on_holdout if audit.kind is AuditKind.HOLDOUT else on_val
        gains = {name: scores.gains(name, names[0], value, self._task.metric) for name in names[1:]}
        return {name for name in gains if len(gains[name]) < FEWEST_PAIRS}

    def _trials(self, audit: _Audit) -> list[AuditTrial]:
        return [trial for trial in self._ledger.audit_trials() if trial.audit == audit.number]

    def _schedule(self, audit: _Audit, names: Sequence[str], runs: int) -> list[tuple[str, int]]:
        others = [trial.seed for trial in self._ledger.audit_trials() if trial.audit != audit.number]
        used = {*others, *(trial.seed for trial in self._ledger.trials())}
        seeds = draw_audit_seeds(int(self._ledger.settings()["seed"] or 0), audit.number, runs, used)
        return [(name, seed) for i, seed in enumerate(seeds) for name in (names[::-1] if i % 2 else names)]

    def _run(self, audit: _Audit, trial: AuditTrial, candidate: Candidate) -> Measurement:
        """Runs a trial and deletes its snapshot: what an audit trains is never the champion.

        The snapshot of a trial that is cut short stays, to be judged by the next process.
        """
        log_dir = self._log_dir(audit, trial.subject)
        measured = self._ledger.measured(self._ledger.experiment(trial.experiment))
        snapshot_dir = self._snapshots(audit) / f"{trial.id:04d}"
        snapshot_dir.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._interrupts.allowed():
                measurement = self._measure_function(audit)(
                    candidate,
                    seed=trial.seed,
                    log_dir=log_dir,
                    snapshot_dir=snapshot_dir,
                    on_progress=self._observer.progress,
                    compile_cost=read_compile_cost(self._ledger, measured.id, champion=None),
                )
        except CandidateUntouched as error:  # the trial stays open
            raise RunError(f"{error}; the same command goes on from here") from error
        except Exception as error:
            if trouble := disk_trouble(error):
                raise RunError(f"{trouble}; the same command goes on from here") from error
            measurement = Measurement(Status.CRASH, None, trial.seed, error=self._failures.enter(error, log_dir))
        else:
            self._failures.clear()
            if measurement.metrics.get(TOO_BUSY):  # the trial stays open
                raise RunError(f"{measurement.error}; the same command goes on from here")
        shutil.rmtree(snapshot_dir, ignore_errors=True)
        return replace(measurement, snapshot=None)

    def _measure_function(self, audit: _Audit) -> Callable[..., Measurement]:
        if audit.kind is AuditKind.HOLDOUT and isinstance(self._task, HoldoutTask):
            return self._task.measure_on_holdout
        return self._task.measure

    def _log_dir(self, audit: _Audit, subject: str) -> Path:
        log_dir = self._folder.logs / f"audit-{audit.number:04d}" / subject.replace(" ", "-")
        log_dir.mkdir(parents=True, exist_ok=True)
        return log_dir

    def _snapshots(self, audit: _Audit) -> Path:
        return self._folder.snapshots / f"audit-{audit.number:04d}"


def _is_given_up(trials: Sequence[AuditTrial], subject: str) -> bool:
    ended = [trial for trial in trials if trial.subject == subject and trial.status is not None]
    return len(ended) >= MAX_FAILURES and all(trial.value is None for trial in ended[-MAX_FAILURES:])
