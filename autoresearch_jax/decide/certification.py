"""Certification: which kept edits are improvements, and which are reverted.

Every run of the night says something of each kept edit. Where that does not suffice, doubtful edits are taken out in
groups and the champion is measured without them; a group that is no gain is reverted.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, Decision, describe, describe_gain, shown
from autoresearch_jax.errors import UsageError
from autoresearch_jax.types import Metric, Scalar

CERTAIN = 0.95  # least probability of an improvement that is certified
_DOUBTFUL = 0.2  # an edit that is less likely an improvement is taken out to see
_GROUP = 8
_LEAST_SHARE = 1 / 3  # of the keeps that certification waits for, which must be in doubt before it begins
_LEAST_RUNS, _MOST_RUNS = 2, 3  # of the champion without a group
_CLEAR = 0.8  # probability that a group is a gain, or is none, after which it is not measured on
_MOST_CHAMPION_RUNS = 12  # one after the other
_KNOWN_VARIANCE = 0.075  # of the champion's score, in sigma squared, that is measured up to before the run ends


@dataclass(frozen=True)
class CertificationSettings:
    """How much is spent; raises UsageError for a value that makes no sense."""

    share: float = 0.15  # most of a run's trials that go into certification
    every: int = 10  # keeps after which doubtful edits are looked at; 0 for only at the end of the run

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise UsageError(f"--certify_share={self.share:g}: at least 0 and below 1")
        if self.every < 0:
            raise UsageError(f"--certify_every={self.every}: 0 or more")

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """What a run keeps to."""
        return {f"certify_{name}": value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Revert:
    """Edits to take out of the champion, by their experiments."""

    edits: tuple[int, ...]


@dataclass(frozen=True)
class MeasureChampion:
    """A further run of the champion."""


Step = Revert | MeasureChampion


def certified(lineage: Lineage) -> dict[int, float]:
    """The edits of the champion that are improvements, each with the probability of that."""
    gains = lineage.posterior.gains
    return {number: gain.real for number, gain in gains.items() if number in lineage.champion and gain.real >= CERTAIN}


def next_step(
    lineage: Lineage, looked_at: Collection[int], spent: int, settings: CertificationSettings, *, at_end: bool
) -> Step | None:
    """What certification does next; None if nothing is in doubt, or its share is spent.

    Args:
      lineage: of the run.
      looked_at: edits that were taken out before, or cannot be.
      spent: runs that certification had so far.
      settings: how much is spent.
      at_end: the search is over: the champion, too, is measured until it is known.
    """
    left = _left(lineage, spent, settings)
    of_champion = _wanted_of_champion(lineage) if at_end else 0
    group = _doubtful(lineage, looked_at)
    if not at_end and len(group) < _LEAST_SHARE * settings.every:
        return None
    # The champion's runs come last: none of them had a say in what became champion. Where there is little left, a group
    # and the champion share it.
    if group and left - min(of_champion, left // 2) >= _MOST_RUNS:
        return Revert(tuple(group[:_GROUP]))
    return MeasureChampion() if of_champion and left >= 1 else None


def is_due(keeps: int, settings: CertificationSettings) -> bool:
    """True once enough edits were kept since the last certification to certify again."""
    return settings.every > 0 and keeps >= settings.every


def wanted_runs(lineage: Lineage, looked_at: Collection[int], spent: int, settings: CertificationSettings) -> int:
    """How many runs certification would take if the search ended now."""
    groups = math.ceil(len(_doubtful(lineage, looked_at)) / _GROUP)
    return min(_wanted_of_champion(lineage) + groups * _MOST_RUNS, _left(lineage, spent, settings))


def wanted_of_champion(lineage: Lineage, spent: int, settings: CertificationSettings) -> int:
    """How many of these are runs of the champion, which may run at the same time; those of a revert may not."""
    return min(_wanted_of_champion(lineage), _left(lineage, spent, settings))


def _wanted_of_champion(lineage: Lineage) -> int:
    """Runs of the champion until its score is known; none where its error is that of the test items."""
    posterior = lineage.posterior
    variance = posterior.variance(lineage.champion) - lineage.champion_item_variance
    if posterior.learnt.seed_share == 0 or variance <= _KNOWN_VARIANCE:
        return 0
    return max(0, min(math.ceil(1 / _KNOWN_VARIANCE - 1 / variance), _MOST_CHAMPION_RUNS - lineage.latest_of_champion))


def _left(lineage: Lineage, spent: int, settings: CertificationSettings) -> int:
    return int(settings.share * lineage.num_runs) - spent


def _doubtful(lineage: Lineage, looked_at: Collection[int]) -> list[int]:
    """Edits of the champion that are probably no improvement, the most doubtful first."""
    if lineage.posterior.sigma == 0:
        return []
    gains = lineage.posterior.gains
    doubts = sorted((gains[number].real, number) for number in lineage.champion if number not in looked_at)
    return [number for real, number in doubts if real < _DOUBTFUL]


def decide_revert(lineage: Lineage, number: int, metric: Metric) -> Decision:
    """What becomes of the champion without a group of edits, after each of its runs."""
    program, posterior = lineage.programs[number], lineage.posterior
    group = lineage.parent_of(number) - program.contents
    gain = posterior.gain_of(group)
    z = gain.mean / gain.error if gain.error > 0 else math.copysign(math.inf, gain.mean)
    probability = 0.5 * math.erfc(-z / math.sqrt(2))
    without = Estimate(-gain.mean, gain.error)
    what = f"{describe(metric, lineage, number)}, {describe_gain(without)}"
    reason = f"{what}: P(the edits are a gain) {shown(probability)}"
    runs = len(program.runs)
    is_clear = runs >= _LEAST_RUNS and not 1 - _CLEAR < probability < _CLEAR
    if runs < _MOST_RUNS and not is_clear and posterior.learnt.seed_share > 0:
        return Decision(Action.MEASURE_CANDIDATE, reason, without, 1 - probability, posterior.sigma)
    action = Action.KEEP if probability < 0.5 else Action.DISCARD
    words = "they are reverted" if action.keeps else "they stay"
    return Decision(action, f"{reason}, {words}", without, 1 - probability, posterior.sigma)
