"""What a ledger holds, as it was written: rows of experiments, trials, decisions, sessions and audits."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from autoresearch_jax.decide.rule import Decision
from autoresearch_jax.engine.database import Clock, Database, LedgerError, metrics_json
from autoresearch_jax.engine.memo import RowCache
from autoresearch_jax.engine.records import (
    AUDIT_COLUMNS,
    DECISION_COLUMNS,
    EXPERIMENT_COLUMNS,
    TRIAL_COLUMNS,
    AuditTrial,
    DecisionRow,
    ExperimentRow,
    Intent,
    Purpose,
    SnapshotEvent,
    SnapshotEventRow,
    TrialRow,
    as_audit_trial,
    as_decision,
    as_experiment,
    as_trial,
)
from autoresearch_jax.types import Measurement, Scalar


class SnapshotLog:
    """The part of a ledger that tells what became of snapshots. Of a trial its latest event counts."""

    def __init__(self, database: Database) -> None:
        """Makes the log of a ledger's file."""
        self._database = database
        self._latest: dict[int, SnapshotEventRow] = {}  # by trial
        self._next = 1

    def latest(self) -> Mapping[int, SnapshotEventRow]:
        """The latest event of each trial that has one; the others' snapshots are where their trials put them."""
        found = dict(self._latest)
        rows = self._database.rows(
            "snapshot_events", ("id", "trial", "event", "place"), "WHERE id >= ? ORDER BY id", (self._next,)
        )
        for number, trial, event, place in rows:
            found[trial] = SnapshotEventRow(number, trial, SnapshotEvent(event), place)
        if rows and not self._database.in_transaction:  # which may yet be undone
            self._latest, self._next = found, rows[-1][0] + 1
        return found

    def expire(self, trials: Sequence[int]) -> None:
        """Writes down that snapshots are about to be deleted, all of them or none."""
        with self._database.transaction():
            for trial in trials:
                self._enter(trial, SnapshotEvent.EXPIRED)

    def move(self, trial: int, place: str) -> None:
        """Writes down that a snapshot is whole at another place, and about to be deleted here."""
        with self._database.transaction():
            self._enter(trial, SnapshotEvent.MOVED, place=place)

    def _enter(self, trial: int, event: SnapshotEvent, **columns: object) -> None:
        values = {"trial": trial, "event": event, "happened_at": self._database.clock(), **columns}
        self._database.insert("snapshot_events", values)


class Tables:
    """The rows of a ledger, each written before it is spent on; the concluded are read once."""

    def __init__(self, database: Database) -> None:
        """See `open` and `open_to_read`."""
        self._database = database
        self.snapshots = SnapshotLog(database)

        def may_keep() -> bool:
            return not database.in_transaction

        self._experiments = RowCache(self._experiments_from, may_keep, group=lambda row: row.program_hash)
        self._trials = RowCache(self._trials_from, may_keep, group=lambda row: row.experiment)

    @classmethod
    def open(cls, path: Path, clock: Clock = time.time) -> Self:
        """Opens a ledger, and makes it if there is none.

        Raises:
          LedgerError: it is no ledger, of another version, or cannot be written.
        """
        return cls(Database.open(path, clock))

    @classmethod
    def open_to_read(cls, path: Path) -> Self:
        """Opens an existing ledger without ever writing to it; a driver may be at work in it meanwhile.

        Raises:
          LedgerError: there is none, or it is of another version.
        """
        return cls(Database.open_to_read(path))

    def close(self) -> None:
        """Closes the file, and writes its hash beside it unless another process may go on writing."""
        self._database.close()

    @property
    def slowest_commit_seconds(self) -> float:
        """How long the disk took at most, so far, to take what was written."""
        return self._database.slowest_commit_seconds

    def transaction(self) -> AbstractContextManager[None]:
        """What is written inside is written together or not at all; transactions nest."""
        return self._database.transaction()

    def settings(self) -> dict[str, Scalar]:
        """What `save_settings` saved, in that order; empty before."""
        return self._database.settings()

    def save_settings(self, settings: Mapping[str, Scalar]) -> None:
        """Stores what must stay the same for as long as the run lives."""
        self._database.save_settings(settings)

    def begin_experiment(self, intent: Intent) -> ExperimentRow:
        """Writes down what is about to be tried and gives it the next number."""
        with self.transaction():
            (number,) = self._database.execute("SELECT coalesce(max(id) + 1, 0) FROM experiments").fetchone()
            values = {
                "id": number,
                "kind": intent.kind,
                "parent": intent.parent,
                "parent_commit": intent.parent_commit,
                "proposer": intent.proposer,
                "hypothesis": intent.hypothesis,
                "category": intent.category,
                "cost_dollars": intent.cost_dollars,
                "constants": json.dumps(intent.constants, sort_keys=True),
                "created_at": self._database.clock(),
                "without": json.dumps(list(intent.without)) if intent.without else None,
                "source": intent.source,
            }
            self._database.insert("experiments", values)
        row = self._experiments.get(number)
        assert row is not None
        return row

    def set_program(self, experiment: int, program_hash: str) -> None:
        """Stores what the experiment's source was traced to."""
        with self.transaction():
            self._database.execute("UPDATE experiments SET program_hash = ? WHERE id = ?", (program_hash, experiment))

    def begin_trial(self, experiment: int, seed: int, purpose: Purpose = Purpose.CANDIDATE) -> TrialRow:
        """Writes down that a budget is about to be spent."""
        values: dict[str, Any] = {"experiment": experiment, "seed": seed, "started_at": self._database.clock()}
        if purpose is not Purpose.CANDIDATE:
            values["purpose"] = purpose
        with self.transaction():
            number = self._database.insert("trials", values)
        trial = self._trials.get(number)
        assert trial is not None
        return trial

    def interrupt_trial(self, trial: int) -> None:
        """Writes down that a trial was cut short by a signal; it stays open."""
        self._mark_interrupted(trial, self._database.clock())

    def take_up_trial(self, trial: int) -> None:
        """Writes down that a trial that was cut short is run again, from now on."""
        self._mark_interrupted(trial, None)
        with self.transaction():
            statement = "UPDATE trials SET started_at = ? WHERE id = ? AND status IS NULL"
            self._database.execute(statement, (self._database.clock(), trial))

    def _mark_interrupted(self, trial: int, at: float | None) -> None:
        with self.transaction():
            statement = "UPDATE trials SET interrupted_at = ? WHERE id = ? AND status IS NULL"
            self._database.execute(statement, (at, trial))

    def finish_trial(self, trial: int, measurement: Measurement) -> None:
        """Stores what a trial gave."""
        values = {
            "finished_at": self._database.clock(),
            "status": measurement.status,
            "value": measurement.value,
            "metrics": metrics_json(measurement.metrics),
            "snapshot": None if measurement.snapshot is None else str(measurement.snapshot),
            "error": measurement.error,
            "items": None if measurement.items is None else json.dumps(list(measurement.items)),
        }
        self._database.update("trials", trial, values, where="status IS NULL")

    def record_decision(self, experiment: int, decision: Decision) -> None:
        """Stores a decision on an experiment."""
        values: dict[str, Any] = {
            "experiment": experiment,
            "decided_at": self._database.clock(),
            "action": decision.action,
            "reason": decision.reason,
            "gain": None if decision.gain is None else decision.gain.mean,
            "error": None if decision.gain is None else decision.gain.error,
            "probability": decision.probability,
            "sigma": decision.sigma,
        }
        self._database.insert("decisions", values)

    def begin_session(self) -> int:
        """Writes down that a process begins to work on the run; returns the session's number."""
        with self.transaction():
            return self._database.insert("sessions", {"began_at": self._database.clock()})

    def end_session(self, session: int, reason: str) -> None:
        """Stores in one line why a process ends its work on the run."""
        self._database.update("sessions", session, {"ended_at": self._database.clock(), "reason": reason})

    def last_ending(self) -> str | None:
        """Why the last process ended; "killed" if it could not say, or is at work; None if nobody kept account."""
        rows = self._database.rows("sessions", ("reason",), "ORDER BY id DESC LIMIT 1")
        return rows[0][0] or "killed" if rows else None

    def source(self, experiment: int) -> str:
        """Full text that the experiment measured.

        Raises:
          LedgerError: there is none of that number.
        """
        statement = "SELECT source FROM experiments WHERE id = ?"
        row = self._database.execute(statement, (experiment,)).fetchone()
        if row is None:
            raise LedgerError(f"the ledger has no experiment {experiment}")
        return str(row[0])

    def open_experiment(self) -> ExperimentRow | None:
        """The experiment of the search that is not over, if there is one."""
        return next(iter(self._experiments.open()), None)

    def trials(self, experiment: int | None = None) -> list[TrialRow]:
        """Trials of one experiment, or all, in the order of their numbers; none of audits."""
        return self._trials.all() if experiment is None else self._trials.of(experiment)

    def open_trial(self) -> TrialRow | None:
        """The trial of the search that was begun and not finished, if there is one."""
        return next(iter(self._trials.open()), None)

    def decisions(self, experiment: int) -> list[DecisionRow]:
        """The decisions on an experiment, in their order."""
        rows = self._database.rows("decisions", DECISION_COLUMNS, "WHERE experiment = ? ORDER BY id", (experiment,))
        return [as_decision(row) for row in rows]

    def begin_audit_trial(
        self, experiment: int, seed: int, *, split: str, audit: int, question: str, subject: str
    ) -> AuditTrial:
        """Writes down that a budget is about to be spent for an audit; see `AuditTrial`.

        Args:
          experiment: whose text the subject is, or is made from.
          seed: of the trial.
          split: "holdout" if that is read, else "val".
          audit: number of the audit.
          question: what it asks, as JSON.
          subject: what is measured.
        """
        values = {
            "experiment": experiment,
            "seed": seed,
            "purpose": Purpose.AUDIT,
            "split": split,
            "audit": audit,
            "question": question,
            "subject": subject,
            "started_at": self._database.clock(),
        }
        self._database.insert("trials", values)
        return self.audit_trials()[-1]

    def answer_audit(self, audit: int) -> None:
        """Writes down that an audit is over."""
        with self.transaction():
            statement = "UPDATE trials SET answered_at = ? WHERE audit = ?"
            self._database.execute(statement, (self._database.clock(), audit))

    def audit_trials(self) -> list[AuditTrial]:
        """The trials of all audits, which are no part of the search, in the order of their numbers."""
        rows = self._database.rows("trials", AUDIT_COLUMNS, "WHERE audit IS NOT NULL ORDER BY id")
        return [as_audit_trial(row) for row in rows]

    def holdout_readings(self) -> int:
        """How many audits have read the holdout, or began to."""
        return len({trial.audit for trial in self.audit_trials() if trial.split == "holdout"})

    def _items(self, trial: int) -> list[float] | None:
        (text,) = self._database.execute("SELECT items FROM trials WHERE id = ?", (trial,)).fetchone()
        return None if text is None else [float(score) for score in json.loads(text)]

    def _experiments_from(self, first: int) -> list[ExperimentRow]:
        rows = self._database.rows("experiments", EXPERIMENT_COLUMNS, "WHERE id >= ? ORDER BY id", (first,))
        return [as_experiment(row) for row in rows]

    def _trials_from(self, first: int) -> list[TrialRow]:
        rows = self._database.rows("trials", TRIAL_COLUMNS, "WHERE id >= ? AND audit IS NULL ORDER BY id", (first,))
        return [as_trial(row) for row in rows]
