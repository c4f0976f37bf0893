"""What becomes of a candidate: pure functions of recorded numbers, without clock, files or randomness."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autoresearch_jax.measurement import Metric


class Choice(enum.StrEnum):
    """What a rule may say of a candidate."""

    KEEP = "keep"
    DISCARD = "discard"
    MEASURE_AGAIN = "measure again"


@dataclass(frozen=True)
class Decision:
    """A rule's choice, and one line that says why."""

    choice: Choice
    reason: str


@dataclass(frozen=True)
class Score:
    """One trial that was scored.

    Attributes:
      seed: what it ran with; trials of champion and candidate with equal seeds are pairs.
      value: the metric.
    """

    seed: int
    value: float


class DecisionRule(Protocol):
    """Decides after each trial of a candidate, from what was measured so far."""

    def decide(self, champion: Sequence[Score], candidate: Sequence[Score]) -> Decision:
        """Keep, discard or measure once more.

        Args:
          champion: its scores, at least one, in the order of its trials.
          candidate: its scores, in the order of its trials; the first decision comes after the first of them.
        """
        ...


@dataclass(frozen=True)
class GreedyDecision:
    """Keeps whatever came out better in a single trial. Climbs its own noise."""

    metric: Metric

    def decide(self, champion: Sequence[Score], candidate: Sequence[Score]) -> Decision:
        """See `DecisionRule.decide`."""
        value, best = candidate[0].value, champion[0].value
        gain = self.metric.gain(value, over=best)
        reason = f"{self.metric.name} {value:.6f} against the champion's {best:.6f} ({gain:+.6f})"
        return Decision(Choice.KEEP if self.metric.is_better(value, than=best) else Choice.DISCARD, reason)
