"""What the engine and a task share: metric, budget, status, candidate, measurement. Neither imports the other."""

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_jax.errors import UserError

Scalar = float | int | str | bool | None
# base, ours, theirs -> a text with the changes that lead from base to both; None where these touch the same lines
Merge = Callable[[str, str, str], str | None]

SCORE_DECIMALS = 6  # of a score that is printed
USUAL_SHARE = 0.9  # ATTENDED_SHARE is shown beside a trial where it is below this


class Status(enum.StrEnum):
    """How a trial ended. Only `OK` has a score; a missing score is None, never 0."""

    OK = "ok"
    CRASH = "crash"
    OOM = "oom"
    TIMEOUT = "timeout"
    NONFINITE = "nonfinite"
    INVALID = "invalid"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    PRUNED = "pruned"


class Scrutiny(enum.StrEnum):
    """How hard a trial is looked at; it changes what is checked, never what is trained or how it is scored.

    `SEARCH`: a trial of the search, a sample of the rows is probed. `KEEP`: the candidate is about to become champion,
    every row is probed several times. `AUDIT`: the same, and the trained model is scored on the holdout, too.
    """

    SEARCH = "search"
    KEEP = "keep"
    AUDIT = "audit"


@dataclass(frozen=True)
class Metric:
    """The scalar metric: one number, one direction.

    Attributes:
      name: as it is printed and stored, such as "val_bpb".
      direction: "minimize" or "maximize".
    """

    name: str
    direction: str = "minimize"

    def is_better(self, value: float, than: float) -> bool:
        """True if `value` is strictly better than `than`."""
        return value < than if self.direction == "minimize" else value > than

    def gain(self, value: float, over: float) -> float:
        """How much better `value` is than `over`, in the metric's unit; negative if it is worse."""
        return over - value if self.direction == "minimize" else value - over


@dataclass(frozen=True)
class Budget:
    """The time box of one trial: wall-clock seconds or a number of steps, exactly one of them."""

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None):
            raise ValueError("a budget is either seconds or steps")
        if (self.seconds or self.steps or 0) <= 0:
            raise ValueError("a budget must be positive")


HOLDOUT_SCORE = "holdout_score"  # among a measurement's metrics: the metric on the holdout, where an audit asked for it
HOLDOUT_ITEMS = "holdout_items"  # beside it, for a task with items: the score on each, as a JSON list
PROGRAM_HASH = "program_hash"  # among a measurement's metrics: what ran, as it was hashed then
STATE_BYTES = "state_bytes"  # among a candidate's facts: of all that it trains; a snapshot is no larger by much
LOSSES = "losses"  # among a measurement's metrics: its loss curve, see `write_curve`; None where there is none
ATTENDED_SHARE = "attended_share"  # among a measurement's metrics: of WALL_SECONDS, how much the trial had the machine
WALL_SECONDS = "wall_seconds"  # among a measurement's metrics: of training, by the wall clock
CLOCK_FAULT = "clock_fault"  # among a measurement's metrics: why the wall clock took over, None where it did not
TOO_BUSY = "too_busy"  # among a measurement's metrics: true of a time-out that says nothing of the candidate
COMPILED_PROGRAMS = "compiled_programs"  # among a measurement's metrics: those that no cache had
COMPILING_SECONDS = "compiling_seconds"  # among a measurement's metrics: by the budget's clock, what compiling took
CHARGED_COMPILE = "charged_compile_seconds"  # among a measurement's metrics: of the budget, for compiling too long
HASHED_BY = "hashed_by"  # among a candidate's facts: by what its program hash was made; others are not comparable


CURVE_POINTS = 20  # of a loss curve: the mean loss of each twentieth of the budget


@dataclass(frozen=True)
class CompileCost:
    """What earlier trials say about compiling; None where they do not.

    Attributes:
      charged: that a trial of this candidate was charged for it, in seconds; all of its trials are charged alike.
      champion: that compiling the champion took, in seconds.
    """

    charged: float | None = None
    champion: float | None = None


UNKNOWN_COMPILE_COST = CompileCost()


@dataclass(frozen=True)
class LossLimit:
    """A loss that a trial must not be above.

    Attributes:
      point: of the curve, 1 to CURVE_POINTS: looked at as soon as so many twentieths of the budget are spent.
      loss: as the task's curves have it; the lower the better, whatever the metric's direction.
    """

    point: int
    loss: float


def write_curve(losses: Sequence[float]) -> str:
    """A loss curve as one of the metrics; of a trial that was cut short it has fewer points."""
    return " ".join(f"{loss:.6g}" for loss in losses)


def read_curve(text: Scalar) -> tuple[float, ...]:
    """What `write_curve` wrote; nothing where that is no curve."""
    try:
        losses = tuple(map(float, str(text or "").split()))
    except ValueError:
        return ()
    return losses if all(map(math.isfinite, losses)) else ()


@dataclass(frozen=True)
class Candidate:
    """A version of the editable asset that passed every check and can be measured.

    Attributes:
      source: the asset's text.
      program_hash: hash of what will run; equal hashes are equal candidates whatever their text.
      programs_dir: where the task keeps what will run; None for a task that keeps nothing.
      facts: what is known before anything is spent (parameters, FLOPs, bytes, ...).
    """

    source: str
    program_hash: str
    programs_dir: Path | None = None
    facts: Mapping[str, Scalar] = field(default_factory=dict)


class TermsChanged(UserError):
    """What scores are compared by, such as a dataset, is not what it was when the task was made."""


class CandidateUntouched(UserError):
    """The machine or the harness failed before the candidate was touched, so nothing is known of it.

    Such as a process that dies while it starts. The message says what its log says.
    """


class CandidateRejected(Exception):
    """The candidate cannot be measured; carries the status it gets and one line that says why.

    Attributes:
      status: REJECTED, CRASH, TIMEOUT or OOM.
      reason: one line for people and proposers.
      details: a longer text for the log and the proposer, such as a traceback, `sanitize.fenced`; or None.
      facts: what is known of it all the same; a task adds to them.
    """

    def __init__(self, status: Status, reason: str, details: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.details = details
        self.facts: dict[str, Scalar] = {}


@dataclass(frozen=True)
class Measurement:
    """What one trial gave.

    Attributes:
      status: how it ended; `value` is a number exactly when it is OK.
      value: the metric.
      seed: the seed it ran with.
      metrics: everything else that was measured, by name, None where it is missing. Names every task should
        fill where it can: "training_seconds", "total_seconds", "peak_memory_bytes", "num_steps".
      snapshot: folder of the trained result, if one was kept.
      error: one line that says what went wrong, None if nothing did.
      items: the score on each test item, whose mean the metric is, in an order that never changes; None for a task
        without. Then the choice of items is part of a score's error, which further seeds do not lessen.
    """

    status: Status
    value: float | None
    seed: int
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    snapshot: Path | None = None
    error: str | None = None
    items: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if (self.status is Status.OK) != (self.value is not None):
            raise ValueError(f"a measurement with status {self.status} and value {self.value}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score of {self.value}: that is no number to compare")
