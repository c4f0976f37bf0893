"""The audits of a run: how its champion did on what the search never saw. No brief is ever made from them."""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch_jax.engine.database import Database, metrics_json
from autoresearch_jax.types import HOLDOUT_SCORE, Measurement, Scalar, Status

_AUDIT_COLUMNS = ("id", "kind", "champion", "settings", "began_at", "ended_at", "findings")
_TRIAL_COLUMNS = ("id", "audit", "subject", "seed", "status", "value", "holdout", "metrics", "error")


class AuditKind(enum.StrEnum):
    """What an audit asks."""

    HOLDOUT = "holdout"  # is the gain real on text that steered nothing
    ABLATION = "ablation"  # does each kept change still earn its place
    TRANSFER = "transfer"  # does the gain hold at another size


@dataclass(frozen=True)
class AuditRow:
    """An audit; `findings` are None until it is over."""

    id: int
    kind: AuditKind
    champion: int
    settings: Mapping[str, Scalar]
    began_at: float
    ended_at: float | None
    findings: Mapping[str, Any] | None


@dataclass(frozen=True)
class AuditTrialRow:
    """One measurement of an audit; `status` is None while it runs, or if it was cut short.

    Attributes:
      subject: what was measured, such as "champion".
      value: the metric on the split that steers the search.
      holdout: the metric on the holdout; None if it was not read.
    """

    id: int
    audit: int
    subject: str
    seed: int
    status: Status | None
    value: float | None
    holdout: float | None
    metrics: Mapping[str, Scalar]
    error: str | None


class AuditLog:
    """The part of a ledger that audits write."""

    def __init__(self, database: Database) -> None:
        """Makes the log of a ledger's file."""
        self._database = database

    def begin(self, kind: AuditKind, champion: int, settings: Mapping[str, Scalar]) -> AuditRow:
        """Writes down that an audit is about to spend; one with the same question that was cut short is taken up."""
        for audit in reversed(self.audits()):
            if audit.ended_at is None and (audit.kind, audit.champion, audit.settings) == (kind, champion, settings):
                return audit
        values = {"kind": kind, "champion": champion, "settings": json.dumps(settings, sort_keys=True)}
        with self._database.transaction():
            number = self._database.insert("audits", {**values, "began_at": self._database.clock()})
        return next(audit for audit in self.audits() if audit.id == number)

    def begin_trial(self, audit: int, subject: str, seed: int, source: str) -> AuditTrialRow:
        """Writes down that a budget is about to be spent, and on which text."""
        values = {"audit": audit, "subject": subject, "seed": seed, "source": source}
        with self._database.transaction():
            number = self._database.insert("audit_trials", {**values, "started_at": self._database.clock()})
        return next(trial for trial in self.trials(audit) if trial.id == number)

    def finish_trial(self, trial: int, measurement: Measurement) -> None:
        """Stores what a trial gave."""
        values = {
            "finished_at": self._database.clock(),
            "status": measurement.status,
            "value": measurement.value,
            "holdout": measurement.metrics.get(HOLDOUT_SCORE),
            "metrics": metrics_json(measurement.metrics),
            "error": measurement.error,
        }
        self._database.update("audit_trials", trial, values, where="status IS NULL")

    def end(self, audit: int, findings: Mapping[str, Any]) -> None:
        """Stores what came of an audit."""
        values = {"ended_at": self._database.clock(), "findings": json.dumps(findings, sort_keys=True)}
        self._database.update("audits", audit, values, where="ended_at IS NULL")

    def audits(self) -> list[AuditRow]:
        """All audits in the order of their numbers."""
        rows = self._database.rows("audits", _AUDIT_COLUMNS, "ORDER BY id")
        return [_as_audit(*row) for row in rows]

    def trials(self, audit: int) -> list[AuditTrialRow]:
        """The trials of an audit in the order of their numbers."""
        rows = self._database.rows("audit_trials", _TRIAL_COLUMNS, "WHERE audit = ? ORDER BY id", (audit,))
        return [_as_trial(*row) for row in rows]

    def holdout_readings(self) -> int:
        """How often the holdout was read: audits that began a trial on it, whether or not they came to their end."""
        return sum(audit.kind is AuditKind.HOLDOUT and bool(self.trials(audit.id)) for audit in self.audits())


def _as_audit(
    number: int, kind: str, champion: int, settings: str, began_at: float, ended_at: float | None, findings: str | None
) -> AuditRow:
    found = None if findings is None else json.loads(findings)
    return AuditRow(number, AuditKind(kind), champion, json.loads(settings), began_at, ended_at, found)


def _as_trial(
    number: int,
    audit: int,
    subject: str,
    seed: int,
    status: str | None,
    value: float | None,
    holdout: float | None,
    metrics: str | None,
    error: str | None,
) -> AuditTrialRow:
    ended = None if status is None else Status(status)
    return AuditTrialRow(number, audit, subject, seed, ended, value, holdout, json.loads(metrics or "{}"), error)
