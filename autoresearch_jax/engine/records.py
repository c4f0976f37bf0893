"""Rows of the ledger, how they are read from its columns, and which are kept in memory."""

import enum
import functools
import json
import sqlite3
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from autoresearch_jax.assets.base import ConstantValue
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.types import HOLDOUT_ITEMS, HOLDOUT_SCORE, TOO_BUSY, Scalar, Status

Value = TypeVar("Value")


class Kind(enum.StrEnum):
    """What an experiment is to the loop."""

    BASELINE = "baseline"
    PROPOSAL = "proposal"
    REVERT = "revert"  # the champion without some of its edits, to certify the others
    TRIAL = "trial"  # measured by hand with `autoresearch trial`; no part of the search


class Purpose(enum.StrEnum):
    """What a trial is run for."""

    CANDIDATE = "candidate"  # to decide on its experiment
    CHAMPION = "champion"  # to know the champion; no decision depended on it
    CERTIFY = "certify"  # to certify edits of the champion, or to know its score when the run ends
    AUDIT = "audit"  # asked for by `autoresearch audit`; no part of the search


@dataclass(frozen=True)
class Intent:
    """An experiment as it is written down before anything is spent on it."""

    kind: Kind
    source: str  # full text to measure
    constants: Mapping[str, ConstantValue] = field(default_factory=dict)  # its constants, see `AssetKind.constants`
    hypothesis: str = ""  # one line
    category: str = ""
    proposer: str = ""
    # the champion it was made from; None for the baseline. An open experiment is moved, see `Ledger.move`.
    parent: int | None = None
    parent_commit: str | None = None
    cost_dollars: float = 0.0  # what proposing it cost
    without: Sequence[int] = ()  # experiments whose edits a revert takes out of the champion
    finding: str | None = None  # id of the finding that it tries; None if it tries none
    adopted_from: str | None = None  # name of the peer whose finding or champion it tries; None if it is no peer's
    used: Sequence[str] = ()  # ids of the findings that its proposer says it used
    why: str = ""  # its proposer's opinion why it should work; empty if there is none


@dataclass(frozen=True)
class ExperimentRow:
    """An experiment without its source, which `Ledger.source` reads. Attributes that are not here: see `Intent`."""

    id: int
    kind: Kind
    parent: int | None
    parent_commit: str | None
    proposer: str
    hypothesis: str
    category: str
    cost_dollars: float
    constants: Mapping[str, ConstantValue]
    created_at: float
    program_hash: str | None
    # OK exactly when it was measured; None while it is open. A DUPLICATE has its twin's score, none if that was pruned,
    # and is kept if it is the champion's program in a shorter text.
    status: Status | None
    # of a kept one the posterior mean of its true score, by all trials of the run so far; else the mean of its trials;
    # None where there is none
    score: float | None
    decision: Action | None  # KEEP or DISCARD; None for a trial by hand
    reason: str | None
    commit: str | None  # where git has it; None for what never became a commit
    # of the process that ended it, from its beginning or the end of the experiment before, if that is later
    seconds: float | None
    simplification: bool = False  # True if it was kept for its shorter source alone
    without: Sequence[int] = ()
    finding: str | None = None
    adopted_from: str | None = None
    used: Sequence[str] = ()
    why: str = ""
    ended: int | None = None  # 1, 2, 3, ... in the order in which experiments ended; None while it is open.
    # what its gain had to be above, in the metric's unit; None of what was not decided on by its gain
    price: float | None = None
    error: float | None = None  # standard deviation of the score of a kept one; else None

    def __hash__(self) -> int:  # of a few columns: `constants` has none
        return hash((self.id, self.status, self.score, self.error))

    @property
    def is_open(self) -> bool:
        """True until the experiment is over."""
        return self.status is None

    @property
    def is_improvement(self) -> bool:
        """True if it was kept for its score: not for a shorter source, and not for what it reverts."""
        is_kept = self.decision is Action.KEEP and self.status is Status.OK
        return is_kept and not self.simplification and self.kind is not Kind.REVERT


@dataclass(frozen=True)
class TrialRow:
    """One measurement; `status` is None while it runs, and if the process that ran it was killed or told to end.

    `ended` is 1, 2, 3, ... in the order in which trials ended, those of audits among them; None while it runs.
    `interrupted_at` is when it was told to, in seconds since 1970; None once another process has taken the trial up.
    `parent` is what its experiment was made from when it began.
    """

    id: int
    experiment: int
    seed: int
    started_at: float
    finished_at: float | None
    status: Status | None
    value: float | None
    metrics: Mapping[str, Scalar]
    snapshot: Path | None
    error: str | None
    purpose: Purpose = Purpose.CANDIDATE
    interrupted_at: float | None = None
    ended: int | None = None
    parent: int | None = None

    @property
    def was_too_busy(self) -> bool:
        """Whether other work on the machine ended the trial, so that it says nothing of the candidate."""
        return bool(self.metrics.get(TOO_BUSY))

    @property
    def score(self) -> float:
        """Of a trial that has one."""
        assert self.value is not None, f"trial {self.id} has no score"
        return self.value


@dataclass(frozen=True)
class AuditTrial(TrialRow):
    """One measurement of an audit, which asks a `question` (JSON) of subjects such as "champion"."""

    audit: int = 0  # its number
    question: str = ""
    subject: str = ""
    split: str = "val"  # "val" or "holdout"; `value` is the score on val in either case
    answered_at: float | None = None  # when the audit was over; None before
    items: str | None = None  # the score on each item of val, as a JSON list; None for a task without items

    @property
    def holdout_items(self) -> str | None:
        """As `items`, of the holdout."""
        found = self.metrics.get(HOLDOUT_ITEMS)
        return found if isinstance(found, str) else None

    @property
    def holdout(self) -> float | None:
        """The score on the holdout; None if it was not read."""
        found = self.metrics.get(HOLDOUT_SCORE)
        return float(found) if isinstance(found, int | float) else None


class SnapshotEvent(enum.StrEnum):
    """What can become of a snapshot."""

    EXPIRED = "expired"  # need not be kept any longer: it is deleted, if it is not already
    MOVED = "moved"  # is whole at another place, and here no longer, or not much longer


@dataclass(frozen=True)
class SnapshotEventRow:
    """What became of the snapshot of a trial, and the place where one that was moved is now."""

    id: int
    trial: int
    event: SnapshotEvent
    place: str | None


Row = TypeVar("Row", bound=ExperimentRow | TrialRow)


class Rows(Generic[Row]):
    """The rows of a growing table in the order in which they ended, the open ones last; what ended is read once."""

    def __init__(
        self,
        read: Callable[[int], list[Row]],
        may_be_undone: Callable[[], bool],
        version: Callable[[], Hashable],
        group: Callable[[Row], Hashable],
    ) -> None:
        """Stores how to read; rows are kept unless a transaction may yet be undone.

        `read` gives the rows that ended after the one with this `ended`, in that order, and then the open ones.
        """
        self._read = read
        self._may_be_undone = may_be_undone
        self._version = version
        self._group = group
        self._seen: Hashable = None  # the version in which `_open` was read
        self._open: list[Row] = []
        self._ended: list[Row] = []
        self._places: dict[int, int] = {}  # in `_ended`, by number
        self._groups: dict[Hashable, list[Row]] = {}

    def all(self) -> list[Row]:
        rest = self.latest()
        return [*self._ended, *rest]

    def of(self, group: Hashable) -> list[Row]:
        rest = self.latest()
        return [*self._groups.get(group, ()), *(row for row in rest if self._group(row) == group)]

    def get(self, number: int) -> Row | None:
        rest = self.latest()
        if (place := self._places.get(number)) is not None:
            return self._ended[place]
        return next((row for row in rest if row.id == number), None)

    def place(self, number: int) -> int:
        """Where in `all` a row is that ended before any transaction that may yet be undone."""
        return self._places[number]

    def open(self) -> list[Row]:
        """Those that have not ended, in the order of their numbers."""
        return [row for row in self.latest() if row.status is None]

    def num_concluded(self) -> int:
        rest = self.latest()
        return len(self._ended) + sum(row.status is not None for row in rest)

    def latest(self) -> list[Row]:
        """The rows that are not remembered: the open ones, within a transaction all that ended in it before these."""
        last = (self._ended[-1].ended if self._ended else None) or 0
        if self._may_be_undone():
            return self._read(last)
        version = self._version()
        if version == self._seen:
            return self._open
        rows = self._read(last)
        for row in rows:
            if row.status is not None:
                self._places[row.id] = len(self._ended)
                self._ended.append(row)
                self._groups.setdefault(self._group(row), []).append(row)
        self._seen, self._open = version, [row for row in rows if row.status is None]
        return self._open


@functools.cache
def columns(row: type, *, without: str = "") -> tuple[str, ...]:
    """The columns that a row is read from."""
    return tuple(column.name for column in fields(row) if column.name != without)


EXPERIMENT_COLUMNS = columns(ExperimentRow, without="error")
DECISION_COLUMNS = ("action", "reason", "gain", "error", "probability", "sigma", "price")


def _optional(kind: Callable[[Any], Value], value: object) -> Value | None:
    return None if value is None else kind(value)


def _read_json(text: str) -> dict[str, Any]:
    """An object whose names are shared with all others that have them: the rows of a long run stay in memory."""
    found: dict[str, Any] = json.loads(
        text, object_pairs_hook=lambda pairs: {sys.intern(name): value for name, value in pairs}
    )
    return found


def intent_columns(intent: Intent) -> dict[str, Any]:
    """The columns of an experiment that is begun."""
    lists = {name: json.dumps(list(items)) for name in ("without", "used") if (items := getattr(intent, name))}
    constants = json.dumps(intent.constants, sort_keys=True)
    return {**vars(intent), "why": intent.why or None, "without": None, "used": None, **lists, "constants": constants}


def as_experiment(row: sqlite3.Row) -> ExperimentRow:
    """From `EXPERIMENT_COLUMNS`."""
    constants = _read_json(row["constants"]).items()
    read = {
        "kind": Kind(row["kind"]),
        "constants": {name: tuple(value) if isinstance(value, list) else value for name, value in constants},
        "status": _optional(Status, row["status"]),
        "decision": _optional(Action, row["decision"]),
        "simplification": bool(row["simplification"]),
        "without": tuple(json.loads(row["without"] or "[]")),
        "used": tuple(json.loads(row["used"] or "[]")),
        "why": row["why"] or "",
    }
    return ExperimentRow(**{**dict(row), **read})


Trial = TypeVar("Trial", bound=TrialRow)


def as_trial(row: sqlite3.Row, kind: type[Trial]) -> Trial:
    """From the `columns` of the kind."""
    read = {
        "status": _optional(Status, row["status"]),
        "metrics": _read_json(row["metrics"] or "{}"),
        "snapshot": _optional(Path, row["snapshot"]),
        "purpose": Purpose(row["purpose"]),
    }
    return kind(**{**dict(row), **read})


def as_decision(row: sqlite3.Row) -> Decision:
    """From `DECISION_COLUMNS`."""
    gain = None if row["gain"] is None else Estimate(row["gain"], row["error"])
    return Decision(Action(row["action"]), row["reason"], gain, row["probability"], row["sigma"], row["price"])
