"""Rows of the ledger."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_jax.measurement import Scalar, Status
from autoresearch_jax.search.constants import ConstantValue


class Kind(enum.StrEnum):
    """What an experiment is to the loop."""

    BASELINE = "baseline"
    PROPOSAL = "proposal"
    TRIAL = "trial"  # measured by hand with `autoresearch trial`; no part of the search


class Verdict(enum.StrEnum):
    """What becomes of a candidate."""

    KEEP = "keep"
    DISCARD = "discard"


@dataclass(frozen=True)
class Intent:
    """An experiment as it is written down before anything is spent on it.

    Attributes:
      kind: baseline, proposal or trial.
      source: full text to measure.
      constants: its top-level constants.
      hypothesis: one line.
      category: kind of change.
      proposer: who proposed it.
      parent: the champion it was made from; None for the baseline.
      parent_commit: commit that holds the parent.
      cost_dollars: what proposing it cost.
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


@dataclass(frozen=True)
class Conclusion:
    """How an experiment ended.

    Attributes:
      status: OK exactly when it was measured; DUPLICATE has the score of its twin, and is kept if it is the
        champion's program in a shorter text.
      score: None where there is none.
      decision: keep or discard; None for a trial by hand.
      reason: one line.
      commit: where git has it; None for what never became a commit.
      seconds: time spent on it.
    """

    status: Status
    score: float | None
    decision: Verdict | None
    reason: str
    commit: str | None
    seconds: float


@dataclass(frozen=True)
class ExperimentRow:
    """An experiment without its source, which `Ledger.source` reads; see `Intent` and `Conclusion`."""

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
    decision: Verdict | None
    reason: str | None
    commit: str | None
    seconds: float | None

    @property
    def is_open(self) -> bool:
        """True until the experiment is over."""
        return self.status is None


@dataclass(frozen=True)
class TrialRow:
    """One measurement; `status` is None while it runs, or if the process that ran it was killed."""

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
