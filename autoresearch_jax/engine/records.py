"""Rows of the ledger, and how they are read from its columns."""

import enum
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.training_file import ConstantValue
from autoresearch_jax.types import HOLDOUT_SCORE, TOO_BUSY, Scalar, Status


class Kind(enum.StrEnum):
    """What an experiment is to the loop."""

    BASELINE = "baseline"
    PROPOSAL = "proposal"
    REVERT = "revert"  # the champion without some of its edits, to certify the others
    TRIAL = "trial"  # measured by hand with `autoresearch trial`; no part of the search


class Purpose(enum.StrEnum):
    """What a trial is run for."""

    CANDIDATE = "candidate"  # to decide on its experiment
    CHAMPION = "champion"  # to know the champion; no decision hung on how it came out
    CERTIFY = "certify"  # to certify edits of the champion, or to know its score when the run ends
    AUDIT = "audit"  # asked for by `autoresearch audit`; no part of the search


@dataclass(frozen=True)
class Intent:
    """An experiment as it is written down before anything is spent on it.

    Attributes:
      kind: baseline, proposal, revert or trial.
      source: full text to measure.
      constants: its top-level constants.
      hypothesis: one line.
      category: kind of change.
      proposer: who proposed it.
      parent: the champion it was made from; None for the baseline.
      parent_commit: commit that holds the parent.
      cost_dollars: what proposing it cost.
      without: experiments whose edits a revert takes out of the champion.
    """

    kind: Kind
    source: str
    constants: Mapping[str, ConstantValue] = field(default_factory=dict)
    hypothesis: str = ""
    category: str = ""
    proposer: str = ""
    parent: int | None = None
    parent_commit: str | None = None
    cost_dollars: float = 0.0
    without: Sequence[int] = ()


@dataclass(frozen=True)
class ExperimentRow:
    """An experiment without its source, which `Ledger.source` reads. Attributes that are not here: see `Intent`.

    Attributes:
      status: OK exactly when it was measured; None while it is open. A DUPLICATE has its twin's score, none if that was
        pruned, and is kept if it is the champion's program in a shorter text.
      score: of a kept one the posterior mean of its true score, by all trials of the run so far; else the mean of its
        trials; None where there is none.
      error: standard deviation of the score of a kept one; else None.
      decision: KEEP or DISCARD; None for a trial by hand.
      reason: one line.
      commit: where git has it; None for what never became a commit.
      seconds: time spent on it.
      simplification: True if it was kept for its shorter source alone.
    """

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
    status: Status | None
    score: float | None
    decision: Action | None
    reason: str | None
    commit: str | None
    seconds: float | None
    simplification: bool = False
    without: Sequence[int] = ()
    error: float | None = None

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

    `interrupted_at` is when it was told to, in seconds since 1970; None once another process has taken the trial up.
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
class AuditTrial:
    """One measurement of an audit; `status` is None while it runs, or if it was cut short.

    Attributes:
      audit: number of the audit.
      question: what it asks, as JSON.
      subject: what was measured, such as "champion".
      split: "val" or "holdout".
      value: the score on val.
      is_answered: True once the audit is over.
    """

    id: int
    audit: int
    question: str
    subject: str
    split: str
    seed: int
    status: Status | None
    value: float | None
    metrics: Mapping[str, Scalar]
    error: str | None
    is_answered: bool

    @property
    def holdout(self) -> float | None:
        """The score on the holdout; None if it was not read."""
        found = self.metrics.get(HOLDOUT_SCORE)
        return float(found) if isinstance(found, int | float) else None


@dataclass(frozen=True)
class DecisionRow:
    """A decision on an experiment after one of its trials, see `Decision`."""

    id: int
    experiment: int
    decided_at: float
    action: Action
    reason: str
    gain: Estimate | None
    probability: float | None
    sigma: float | None


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


EXPERIMENT_COLUMNS = (
    *("id", "kind", "parent", "parent_commit", "proposer", "hypothesis", "category", "cost_dollars", "constants"),
    *("created_at", "program_hash", "status", "score", "decision", "reason", "commit_id", "seconds", "simplification"),
    "without",
)
TRIAL_COLUMNS = (
    *("id", "experiment", "seed", "started_at", "finished_at", "status", "value", "metrics", "snapshot", "error"),
    *("purpose", "interrupted_at"),
)
AUDIT_COLUMNS = (
    *("id", "audit", "question", "subject", "split", "seed", "status", "value", "metrics", "error", "answered_at"),
)
DECISION_COLUMNS = ("id", "experiment", "decided_at", "action", "reason", "gain", "error", "probability", "sigma")


def _read_json(text: str) -> dict[str, Any]:
    """An object whose names are shared with all others that have them: the rows of a long run stay in memory."""
    found: dict[str, Any] = json.loads(
        text, object_pairs_hook=lambda pairs: {sys.intern(name): value for name, value in pairs}
    )
    return found


def as_experiment(row: Sequence[Any]) -> ExperimentRow:
    """From `EXPERIMENT_COLUMNS`."""
    values = list(row)
    values[1] = Kind(values[1])
    values[8] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in _read_json(values[8]).items()
    }
    values[11] = None if values[11] is None else Status(values[11])
    values[13] = None if values[13] is None else Action(values[13])
    values[17] = bool(values[17])
    values[18] = tuple(json.loads(values[18] or "[]"))
    return ExperimentRow(*values)


def as_trial(row: Sequence[Any]) -> TrialRow:
    """From `TRIAL_COLUMNS`."""
    values = list(row)
    values[5] = None if values[5] is None else Status(values[5])
    values[7] = _read_json(values[7] or "{}")
    values[8] = None if values[8] is None else Path(values[8])
    values[10] = Purpose(values[10] or Purpose.CANDIDATE)
    return TrialRow(*values)


def as_audit_trial(row: Sequence[Any]) -> AuditTrial:
    """From `AUDIT_COLUMNS`."""
    number, audit, question, subject, split, seed, status, value, metrics, error, answered_at = row
    ended, found = None if status is None else Status(status), _read_json(metrics or "{}")
    is_answered = answered_at is not None
    return AuditTrial(number, audit, question, subject, split, seed, ended, value, found, error, is_answered)


def as_decision(row: Sequence[Any]) -> DecisionRow:
    """From `DECISION_COLUMNS`."""
    number, experiment, decided_at, action, reason, gain, error, probability, sigma = row
    estimate = None if gain is None else Estimate(gain, error)
    return DecisionRow(number, experiment, decided_at, Action(action), reason, estimate, probability, sigma)
