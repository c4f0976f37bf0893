"""What draws of who proposes have in common: which experiments they may depend on, posteriors, sizes of gains."""

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

from autoresearch_jax.proposers.base import Brief, PastExperiment, Running, is_gain

HALF_LIFE = 40.0  # experiments after which one counts half; a night has about a hundred
SIZE_HALF_LIFE = 10.0  # the same for the size of a gain: those of a table shrink with each
PRIOR_GAINS, PRIOR_MISSES = 0.25, 2.25  # one in ten is a gain, but a few proposals outweigh that: a night has no more
CODES_SIZE = 3.0  # of a first gain by a change of the code, in noise floors, see docs/evidence/decisions.md
Known = TypeVar("Known", PastExperiment, Running)


def known(brief: Brief) -> list[PastExperiment]:
    """The outcomes that a draw may depend on: without the baseline and the experiment just before.

    That one may still be measured when an agent is asked ahead, and must make no difference.
    """
    return before_last(brief, brief.history[1:])


def before_last(brief: Brief, experiments: Sequence[Known]) -> list[Known]:
    """Those at least two before the one to propose."""
    return [one for one in experiments if one.experiment <= brief.experiment - 2]


def posterior_draw(
    rng: random.Random,
    brief: Brief,
    outcomes: Iterable[PastExperiment],
    prior_weight: float = 1.0,
    further: tuple[float, float] = (0.0, 0.0),
) -> float:
    """Draws the probability that one more is a gain.

    Args:
      rng: source of the draw.
      brief: whose experiment it is for.
      outcomes: that count, each by its age.
      prior_weight: of the prior.
      further: gains and misses that count beside them.
    """
    gains, misses = prior_weight * PRIOR_GAINS + further[0], prior_weight * PRIOR_MISSES + further[1]
    for outcome in outcomes:
        weight = 0.5 ** ((brief.experiment - outcome.experiment) / HALF_LIFE)
        if is_gain(outcome):
            gains += weight
        else:
            misses += weight
    return rng.betavariate(gains, misses)


def gain_sizes(brief: Brief) -> list[tuple[PastExperiment, float]]:
    """The gains that a draw may depend on, with their sizes in noise floors; empty without a floor."""
    sizes: list[tuple[PastExperiment, float]] = []
    champion: float | None = None
    numbers = {outcome.experiment for outcome in known(brief)}
    for outcome in brief.history:
        if not outcome.kept or outcome.score is None:
            continue
        if outcome.experiment in numbers and is_gain(outcome) and champion is not None and brief.noise_floor:
            gain = brief.metric.gain(outcome.score, over=champion)
            sizes.append((outcome, max(0.0, gain / brief.noise_floor)))
        champion = outcome.score
    return sizes


def expected_size(brief: Brief, prior: float, sizes: Iterable[tuple[PastExperiment, float]]) -> float:
    """Size of a next gain in noise floors: their mean by age, with one of the prior's size; 1 if no floor is known."""
    if not brief.noise_floor:
        return 1.0
    total, weights = prior, 1.0
    for outcome, size in sizes:
        weight = 0.5 ** ((brief.experiment - outcome.experiment) / SIZE_HALF_LIFE)
        total, weights = total + weight * size, weights + weight
    return total / weights


def new_rng(brief: Brief, purpose: str) -> random.Random:
    """Of its own for each purpose, so that no draw shifts another."""
    return random.Random(f"bandit {brief.run_seed} {purpose}")
