"""Audits: some texts on the same fresh seeds, each trial written down before it is spent on."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from autoresearch_jax.audit.log import AuditKind, AuditRow, AuditTrialRow
from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.plan import draw_audit_seeds
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import MAX_FAILURES, RunError, Task, TaskFailures
from autoresearch_jax.types import TOO_BUSY, Candidate, Measurement, Scalar, Scrutiny, Status


class AuditObserver(Protocol):
    """Who is told what an audit does."""

    def prepares(self, subject: str) -> None:
        """A text is about to be prepared."""
        ...

    def measures(self, subject: str, number: int, total: int) -> None:
        """Trial `number` of `total`, counted from 1, is about to begin."""
        ...

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """How far the current trial is."""
        ...


class Auditing:
    """Measures texts for one audit. What is left to do follows from the ledger, so it can be cut short at any point."""

    def __init__(
        self, task: Task, ledger: Ledger, folder: RunFolder, interrupts: Interrupts, observer: AuditObserver
    ) -> None:
        self._task = task
        self._ledger = ledger
        self._folder = folder
        self._interrupts = interrupts
        self._observer = observer
        self._failures = TaskFailures()

    def prepare(self, audit: AuditRow, subject: str, source: str) -> Candidate:
        """Makes a text ready to be measured.

        Raises:
          CandidateRejected: it cannot be, and why.
          KeyboardInterrupt: the process was asked to end.
        """
        self._observer.prepares(subject)
        with self._interrupts.allowed():
            return self._task.prepare(source, self._log_dir(audit, subject))

    def measure(self, audit: AuditRow, subjects: Mapping[str, Candidate], runs: int) -> list[AuditTrialRow]:
        """Runs each subject once with each of `runs` fresh seeds, but for those of a process before.

        Seed by seed, in turn forwards and backwards, so that a machine that slows down does so for all alike. What
        failed `MAX_FAILURES` times in a row is given up; if it is the first subject, with which all others are
        compared, so is the audit.

        Returns:
          All trials of the audit.

        Raises:
          RunError: the task itself failed too often.
          KeyboardInterrupt: the process was asked to end.
        """
        try:
            for number, (subject, seed) in enumerate(self._schedule(audit, list(subjects), runs)):
                if self._is_over(audit, list(subjects)):
                    break
                trial = self._next_trial(audit, subject, seed, subjects[subject].source)
                if trial is not None:
                    self._observer.measures(subject, number + 1, len(subjects) * runs)
                    self._ledger.audits.finish_trial(trial.id, self._run(audit, trial, subjects[subject]))
        finally:
            with suppress(OSError):  # of a trial that was cut short there is one
                self._snapshots(audit).rmdir()
        return self._ledger.audits.trials(audit.id)

    def _schedule(self, audit: AuditRow, subjects: Sequence[str], runs: int) -> list[tuple[str, int]]:
        log = self._ledger.audits
        others = [trial.seed for other in log.audits() if other.id != audit.id for trial in log.trials(other.id)]
        used = {*others, *(trial.seed for trial in self._ledger.trials())}
        run_seed = int(self._ledger.settings()["seed"] or 0)
        seeds = draw_audit_seeds(run_seed, audit.id, runs, used)
        return [(name, seed) for i, seed in enumerate(seeds) for name in (subjects[::-1] if i % 2 else subjects)]

    def _is_over(self, audit: AuditRow, subjects: Sequence[str]) -> bool:
        given_up = {name for name in subjects if self._is_given_up(audit, name)}
        return subjects[0] in given_up or given_up >= set(subjects[1:])

    def _is_given_up(self, audit: AuditRow, subject: str) -> bool:
        ended = [trial for trial in self._ledger.audits.trials(audit.id) if trial.subject == subject and trial.status]
        return len(ended) >= MAX_FAILURES and all(trial.value is None for trial in ended[-MAX_FAILURES:])

    def _next_trial(self, audit: AuditRow, subject: str, seed: int, source: str) -> AuditTrialRow | None:
        """A trial to run; None if it was run already, or is not worth it."""
        for trial in self._ledger.audits.trials(audit.id):
            if (trial.subject, trial.seed) == (subject, seed):
                return trial if trial.status is None else None
        if self._is_given_up(audit, subject):
            return None
        return self._ledger.audits.begin_trial(audit.id, subject, seed, source)

    def _run(self, audit: AuditRow, trial: AuditTrialRow, candidate: Candidate) -> Measurement:
        """Runs a trial; its snapshot goes at once, because what an audit trains is never champion and has no exam.

        But for one that was cut short after it: then it is judged by the next process.
        """
        log_dir = self._log_dir(audit, trial.subject)
        snapshot_dir = self._snapshots(audit) / f"{trial.id:04d}"
        snapshot_dir.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._interrupts.allowed():
                measurement = self._task.measure(
                    candidate,
                    seed=trial.seed,
                    log_dir=log_dir,
                    snapshot_dir=snapshot_dir,
                    on_progress=self._observer.progress,
                    scrutiny=Scrutiny.AUDIT if audit.kind is AuditKind.HOLDOUT else Scrutiny.SEARCH,
                )
        except Exception as error:
            if trouble := disk_trouble(error):
                raise RunError(f"{trouble}; the same command goes on from here") from error
            measurement = Measurement(Status.CRASH, None, trial.seed, error=self._failures.enter(error, log_dir))
        else:
            self._failures.clear()
            if measurement.metrics.get(TOO_BUSY):  # the trial stays open
                raise RunError(f"{measurement.error}; the same command goes on from here")
        shutil.rmtree(snapshot_dir, ignore_errors=True)
        return measurement

    def _log_dir(self, audit: AuditRow, subject: str) -> Path:
        log_dir = self._folder.path / "logs" / f"audit-{audit.id:04d}" / subject.replace(" ", "-")
        log_dir.mkdir(parents=True, exist_ok=True)
        return log_dir

    def _snapshots(self, audit: AuditRow) -> Path:
        return self._folder.path / "snapshots" / f"audit-{audit.id:04d}"
