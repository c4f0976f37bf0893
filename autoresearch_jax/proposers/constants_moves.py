"""Moves of a few constants away from the champion, the most promising first."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from autoresearch_jax.proposers.base import Constants
from autoresearch_jax.proposers.constants_axes import Axis
from autoresearch_jax.proposers.constants_evidence import Trial, standardise
from autoresearch_jax.proposers.constants_model import Model, fit_model, log_expected_improvement
from autoresearch_jax.proposers.space import Constant, Value

Array = NDArray[np.float64]

MOVES = (1, 2, 3)  # constants moved at once: few, so that a gain can be laid to something
MOVES_PROBABILITY = (0.4, 0.3, 0.3)
# What follows was chosen on the synthetic problems of scripts/bench_search.sh, with other seeds than it reports. None
# of it is sharp: a third or three times the draws, other shares, or half of the longest step came out much alike.
DRAWS = 300  # moves that are looked at first
NEAR_SHARE = 0.5  # of them that stay near the champion; the others go anywhere
STEP_LOW, STEP_HIGH = 0.02, 0.5  # a near one's deviation in widths of the range, spread over magnitudes
REFINED, REFINEMENTS = 10, 20  # of the best, each a little changed so many times
FINE_LOW, FINE_HIGH = 0.005, 0.1  # by steps of this deviation


def promising_moves(
    space: Sequence[Constant], champion: Constants, trials: Sequence[Trial], rng: np.random.Generator
) -> Iterator[dict[str, Value]]:
    """New values for one to three constants, in order of the expected improvement over the champion.

    Args:
      space: the table.
      champion: the champion's constants.
      trials: at least one of them with a loss.
      rng: draws the moves that are looked at.
    """
    axes = [Axis(row) for row in space]
    champion_D = np.array([_place(axis, champion[axis.name], 0.0) for axis in axes])
    model = _fit(axes, champion_D, trials)
    mean_1, _ = model.predict(champion_D[None])  # not its score, which a run's luck is part of
    settings_MxD = _drawn(axes, champion_D, rng)
    promise_M = log_expected_improvement(*model.predict(settings_MxD), mean_1[0])
    best_M = np.argsort(-promise_M, kind="stable")[:REFINED]
    refined_MxD = _refined(axes, champion_D, settings_MxD[best_M], rng)
    settings_MxD = np.concatenate([settings_MxD, refined_MxD])
    promise_M = np.concatenate([promise_M, log_expected_improvement(*model.predict(refined_MxD), mean_1[0])])
    for m in np.argsort(-promise_M, kind="stable"):
        moved = np.flatnonzero(settings_MxD[m] != champion_D)
        yield {axes[d].name: axes[d].decode(settings_MxD[m, d]) for d in moved}


def _fit(axes: Sequence[Axis], champion_D: Array, trials: Sequence[Trial]) -> Model:
    """A constant that a trial did not have, or with a value that has no place today, is taken to be as it is now."""
    settings_NxD = np.array(
        [
            [_place(axis, trial.constants.get(axis.name), champion_D[d]) for d, axis in enumerate(axes)]
            for trial in trials
        ]
    )
    is_choice_D = np.array([bool(axis.choices) for axis in axes])
    return fit_model(settings_NxD, standardise(trials), is_choice_D)


def _place(axis: Axis, value: object, otherwise: float) -> float:
    place = None if value is None else axis.encode(value)
    return otherwise if place is None else place


def _drawn(axes: Sequence[Axis], champion_D: Array, rng: np.random.Generator) -> Array:
    """Settings that differ from the champion's in a few constants, near and far: float64[DRAWS, D]."""
    shape = (DRAWS, len(axes))
    counts_M = rng.choice(MOVES, p=MOVES_PROBABILITY, size=DRAWS)
    ranks_MxD = rng.random(shape).argsort(axis=1).argsort(axis=1)
    is_near_M = rng.random(DRAWS) < NEAR_SHARE
    steps_MxD = _steps(rng, shape, STEP_LOW, STEP_HIGH)
    settings_MxD = np.tile(champion_D, (DRAWS, 1))
    for d, axis in enumerate(axes):
        places_M = axis.draw(rng, DRAWS)
        if not axis.choices:
            places_M = np.where(is_near_M, axis.near(settings_MxD[:, d], steps_MxD[:, d]), places_M)
        settings_MxD[:, d] = np.where(ranks_MxD[:, d] < counts_M, places_M, champion_D[d])
    return settings_MxD


def _refined(axes: Sequence[Axis], champion_D: Array, best_MxD: Array, rng: np.random.Generator) -> Array:
    """The settings with small steps along the constants that they move already."""
    settings_MxD = np.repeat(best_MxD, REFINEMENTS, axis=0)
    steps_MxD = _steps(rng, settings_MxD.shape, FINE_LOW, FINE_HIGH)
    for d, axis in enumerate(axes):
        places_M = settings_MxD[:, d]
        settings_MxD[:, d] = np.where(places_M == champion_D[d], places_M, axis.near(places_M, steps_MxD[:, d]))
    return settings_MxD


def _steps(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> Array:
    deviation_Mx1 = np.exp(rng.uniform(np.log(low), np.log(high), (shape[0], 1)))
    return deviation_Mx1 * rng.standard_normal(shape)
