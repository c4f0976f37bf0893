"""What becomes of a candidate: pure functions of recorded numbers, without clock, files or randomness."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autoresearch_jax.measurement import Metric, Scalar
from autoresearch_jax.search.noise import Noise, mean_of


class Step(enum.StrEnum):
    """What to do next with a candidate."""

    KEEP = "keep"
    KEEP_SIMPLER = "keep as a simplification"
    DISCARD = "discard"
    MEASURE_CANDIDATE = "measure again"
    MEASURE_CHAMPION = "measure the champion again"

    @property
    def keeps(self) -> bool:
        """True if the candidate becomes the champion."""
        return self in (Step.KEEP, Step.KEEP_SIMPLER)


@dataclass(frozen=True)
class Ruling:
    """The next step, and one line that says why."""

    step: Step
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


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of three programs, in bytes, each None where it is not known."""

    candidate: float | None = None
    champion: float | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate and its champion; trials without a score are not in it.

    Attributes:
      champion: the champion's runs since it was kept; those it was kept for were lucky and are not among them, unless
        the rule is content with one run.
      candidate: the candidate's runs, in their order, at least one.
      noise: the noise floor; None if nothing was run often enough to show one.
      nodes_saved: syntax nodes that the candidate's source has fewer than the champion's; 0 or less if it has not.
      anchor: runs of the last champion that was kept for its gain, if the present one is a simplification of it. A
        simplification is compared with these, so that a chain of them cannot lose more than one could.
      memory: what the programs need.
    """

    champion: Sequence[Score]
    candidate: Sequence[Score]
    noise: Noise | None = None
    nodes_saved: int = 0
    anchor: Sequence[Score] = ()
    memory: PeakMemory = PeakMemory()


class DecisionRule(Protocol):
    """Decides after each run of a candidate, from what was measured so far."""

    @property
    def baseline_runs(self) -> int:
        """Runs of the baseline, and fresh ones of each new champion, before anything is compared with it.

        With 1 the run that a candidate was kept for stands for the new champion, too.
        """
        ...

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """The rule's name, as "decision", and all that its rulings depend on; a run keeps to them."""
        ...

    def decide(self, evidence: Evidence) -> Ruling:
        """The next step after each run of the candidate, and after each of the champion that was asked for."""
        ...


@dataclass(frozen=True)
class GreedyDecision:
    """Keeps whatever came out better in a single run. Climbs its own noise."""

    metric: Metric

    @property
    def baseline_runs(self) -> int:
        """See `DecisionRule.baseline_runs`."""
        return 1

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """See `DecisionRule.settings`."""
        return {"decision": "greedy"}

    def decide(self, evidence: Evidence) -> Ruling:
        """See `DecisionRule.decide`."""
        value, best = evidence.candidate[0].value, evidence.champion[0].value
        gain = self.metric.gain(value, over=best)
        reason = f"{self.metric.name} {value:.6f} against the champion's {best:.6f} ({gain:+.6f}), one run each"
        return Ruling(Step.KEEP if self.metric.is_better(value, than=best) else Step.DISCARD, reason)


def mean_score(scores: Sequence[Score]) -> float:
    """The mean of their values."""
    return mean_of([score.value for score in scores])
