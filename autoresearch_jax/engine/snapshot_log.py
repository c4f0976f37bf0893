"""What became of a run's snapshots after their trials: expired, or moved."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_jax.engine.database import Database

_COLUMNS = ("id", "trial", "event", "place")


class SnapshotEvent(enum.StrEnum):
    """What can become of a snapshot."""

    EXPIRED = "expired"  # need not be kept any longer: it is deleted, if it is not already
    MOVED = "moved"  # is whole at another place, and here no longer, or not much longer


@dataclass(frozen=True)
class SnapshotEventRow:
    """One event.

    Attributes:
      id: 1, 2, 3, ...
      trial: whose snapshot it is.
      event: what became of it.
      place: of one that was moved, where it is now.
    """

    id: int
    trial: int
    event: SnapshotEvent
    place: str | None


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


def _as_event(row: Sequence[Any]) -> SnapshotEventRow:
    """From `_COLUMNS`."""
    number, trial, event, place = row
    return SnapshotEventRow(number, trial, SnapshotEvent(event), place)
