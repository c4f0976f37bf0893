"""What became of a run's snapshots after their trials: expired, moved, trained again."""

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_jax.engine.database import Database, metrics_json
from autoresearch_jax.types import Measurement, Scalar

_COLUMNS = ("id", "trial", "event", "place", "value", "metrics")


class SnapshotEvent(enum.StrEnum):
    """What can become of a snapshot."""

    EXPIRED = "expired"  # need not be kept any longer: it is deleted, if it is not already
    MOVED = "moved"  # is whole at another place, and here no longer, or not much longer
    RETRAINED = "retrained"  # was trained again, and is in the run's folder


@dataclass(frozen=True)
class SnapshotEventRow:
    """One event.

    Attributes:
      id: 1, 2, 3, ...
      trial: whose snapshot it is.
      event: what became of it.
      place: of one that was moved, where it is now.
      value: the score of one that was trained again; with a budget in seconds not that of its trial.
      metrics: figures of the same, the hash of its manifest among them.
    """

    id: int
    trial: int
    event: SnapshotEvent
    place: str | None
    value: float | None
    metrics: Mapping[str, Scalar]


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
        rows = self._database.rows("snapshot_events", _COLUMNS, "WHERE id >= ? ORDER BY id", (self._next,))
        for row in rows:
            event = _as_event(row)
            found[event.trial] = event
        if rows and not self._database.in_transaction:  # which may yet be undone
            self._latest, self._next = found, rows[-1][0] + 1
        return found

    def retrained(self, trial: int) -> SnapshotEventRow | None:
        """How a trial's snapshot was last trained again, wherever that one is now; None if it was not."""
        where = "WHERE trial = ? AND event = ? ORDER BY id DESC LIMIT 1"
        rows = self._database.rows("snapshot_events", _COLUMNS, where, (trial, SnapshotEvent.RETRAINED))
        return _as_event(rows[0]) if rows else None

    def expire(self, trials: Sequence[int]) -> None:
        """Writes down that snapshots are about to be deleted, all of them or none."""
        with self._database.transaction():
            for trial in trials:
                self._enter(trial, SnapshotEvent.EXPIRED)

    def move(self, trial: int, place: str) -> None:
        """Writes down that a snapshot is whole at another place, and about to be deleted here."""
        with self._database.transaction():
            self._enter(trial, SnapshotEvent.MOVED, place=place)

    def retrain(self, trial: int, measurement: Measurement) -> None:
        """Writes down that a snapshot was trained again, which is in the run's folder now."""
        metrics = metrics_json(measurement.metrics)
        with self._database.transaction():
            self._enter(trial, SnapshotEvent.RETRAINED, value=measurement.value, metrics=metrics)

    def _enter(self, trial: int, event: SnapshotEvent, **columns: object) -> None:
        values = {"trial": trial, "event": event, "happened_at": self._database.clock(), **columns}
        self._database.insert("snapshot_events", values)


def _as_event(row: Sequence[Any]) -> SnapshotEventRow:
    """From `_COLUMNS`."""
    number, trial, event, place, value, metrics = row
    return SnapshotEventRow(number, trial, SnapshotEvent(event), place, value, json.loads(metrics or "{}"))
