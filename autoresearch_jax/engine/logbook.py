"""What a ledger tells beside its experiments: processes that worked on the run, what became of snapshots, audits."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_jax.engine.database import Database
from autoresearch_jax.engine.records import AuditTrial, Purpose, SnapshotEvent, SnapshotEventRow, as_trial, columns


class Logbook(Database):
    """Sessions, one a process; events of snapshots; trials of audits."""

    def begin_session(self, certification: Mapping[str, Any] | None = None) -> int:
        """Writes down that a process begins to work on the run; returns the session's number."""
        return self.insert("sessions", {"began_at": self.clock(), "certifies": json.dumps(certification)})

    def note_certification(self, session: int, certification: Mapping[str, Any] | None) -> None:
        """Stores what another process needs to go on with the certification that a session began; None at its end."""
        self.update("sessions", {"certifies": json.dumps(certification)}, "id = ?", session)

    def left_certification(self) -> dict[str, Any]:
        """What the latest session noted of a certification that it did not complete; empty if there is none."""
        rows = self.select("sessions", ("certifies",), "ORDER BY id DESC LIMIT 1")
        return (json.loads(rows[0]["certifies"]) or {}) if rows else {}

    def end_session(self, session: int, reason: str) -> None:
        """Stores in one line why a process ends its work on the run."""
        self.update("sessions", {"ended_at": self.clock(), "reason": reason}, "id = ?", session)

    def last_ending(self) -> str | None:
        """Why the last process ended; "killed" if it could not say, or is at work; None before the first."""
        rows = self.select("sessions", ("reason",), "ORDER BY id DESC LIMIT 1")
        return rows[0]["reason"] or "killed" if rows else None

    def snapshot_events(self) -> Mapping[int, SnapshotEventRow]:
        """The latest event of each trial that has one; the others' snapshots are where their trials put them."""
        rows = self.select("snapshot_events", columns(SnapshotEventRow), "ORDER BY id")
        events = (SnapshotEventRow(row["id"], row["trial"], SnapshotEvent(row["event"]), row["place"]) for row in rows)
        return {event.trial: event for event in events}

    def expire_snapshots(self, trials: Sequence[int]) -> None:
        """Writes down that snapshots are about to be deleted, all of them or none."""
        with self.transaction():
            for trial in trials:
                self._enter_event(trial, SnapshotEvent.EXPIRED)

    def move_snapshot(self, trial: int, place: str) -> None:
        """Writes down that a snapshot is whole at another place, and about to be deleted here."""
        self._enter_event(trial, SnapshotEvent.MOVED, place)

    def _enter_event(self, trial: int, event: SnapshotEvent, place: str | None = None) -> None:
        self.insert("snapshot_events", {"trial": trial, "event": event, "happened_at": self.clock(), "place": place})

    def begin_audit_trial(self, experiment: int, seed: int, **of_audit: Any) -> AuditTrial:
        """Writes down that a budget is about to be spent for an audit; for the other arguments see `AuditTrial`."""
        values = {"experiment": experiment, "seed": seed, "purpose": Purpose.AUDIT, "started_at": self.clock()}
        with self.transaction():
            self.insert("trials", {**values, **of_audit})
            return self.audit_trials()[-1]

    def answer_audit(self, audit: int) -> None:
        """Writes down that an audit is over."""
        self.update("trials", {"answered_at": self.clock()}, "audit = ?", audit)

    def audit_trials(self) -> list[AuditTrial]:
        """The trials of all audits, which are no part of the search, in the order of their numbers."""
        rows = self.select("trials", columns(AuditTrial), "WHERE audit IS NOT NULL ORDER BY id")
        return [as_trial(row, AuditTrial) for row in rows]

    def holdout_readings(self) -> int:
        """How many audits have read the holdout, or began to."""
        return len({trial.audit for trial in self.audit_trials() if trial.split == "holdout"})
