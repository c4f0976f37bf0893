"""Which experiments say something about the constants of today's champion, and how good each was."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, Constants, Outcome
from autoresearch_jax.types import Metric, Status

OPTIMIZER = "optuna"  # name of the proposer that moves constants; a replayed or resumed run keeps it
HALF_BAD = 0.75  # of the losses that are known, as many are below that of a trial that was stopped early
NEWEST, BEST = 120, 60  # experiments that count of a longer history; the time of a proposal grows with their number


@dataclass(frozen=True)
class Trial:
    """A setting of the constants.

    Attributes:
      experiment: its number.
      constants: all of the source's.
      loss: its score as the champion's structure would have it, turned so that lower is better; None if it failed.
      is_pruned: it has none because it was stopped early: surely no better than the champion, but it trains.
    """

    experiment: int
    constants: Constants
    loss: float | None
    is_pruned: bool = False


def moves_constants_alone(outcome: Outcome) -> bool:
    """True if an experiment is known to have moved nothing but constants.

    The category alone does not say so: an agent may give any to a change of structure. The proposer's name is ours.
    """
    return outcome.category == CONSTANTS_CATEGORY and outcome.proposer == OPTIMIZER


def find_trials(history: Sequence[Outcome], metric: Metric) -> list[Trial]:
    """The latest and the best trials, the oldest first.

    An experiment that may have changed more than constants says nothing of them. If it was kept, what it gained is
    taken off the scores before it: the constants are assumed to matter as much as they did.
    """
    sign = 1.0 if metric.direction == "minimize" else -1.0
    trials: list[Trial] = []
    level: float | None = None  # the champion's loss at that time
    gained = 0.0  # by changes of structure so far
    for outcome in history:
        loss = None if outcome.score is None else sign * outcome.score
        is_structure = level is not None and not moves_constants_alone(outcome)
        kept = outcome.kept and loss is not None
        if is_structure and kept:
            assert loss is not None
            assert level is not None
            gained += level - loss
        if kept or not is_structure:
            is_pruned = loss is None and outcome.status in (Status.PRUNED, Status.DUPLICATE)  # or a twin of such
            level_loss = None if loss is None else loss + gained
            trials.append(Trial(outcome.experiment, outcome.constants, level_loss, is_pruned))
        if kept:
            level = loss
    at_present = [trial if trial.loss is None else replace(trial, loss=trial.loss - gained) for trial in trials]
    return _most_telling(at_present)


def standardise(trials: Sequence[Trial]) -> NDArray[np.float64]:
    """Losses with mean 0 and deviation 1 for a model that is to be exact about good settings only.

    Losses above the median are drawn closer, failures are as bad as the worst, and what was stopped early is as bad as
    the middle one of the worse half.

    Args:
      trials: one of which has a loss.
    """
    known = np.array([trial.loss for trial in trials if trial.loss is not None])
    best, worst = float(known.min()), float(known.max())
    unknown = {True: float(np.quantile(known, HALF_BAD)), False: worst}  # by whether it was stopped early
    losses_N = np.array([unknown[trial.is_pruned] if trial.loss is None else trial.loss for trial in trials])
    unit = float(np.median(losses_N)) - best or worst - best or 1.0
    losses_N = (losses_N - best) / unit
    losses_N = np.where(losses_N > 1, 1 + np.log(np.maximum(losses_N, 1)), losses_N)
    return (losses_N - losses_N.mean()) / (float(losses_N.std()) or 1.0)


def _most_telling(trials: Sequence[Trial]) -> list[Trial]:
    if len(trials) <= NEWEST + BEST:
        return list(trials)
    older, newest = trials[:-NEWEST], trials[-NEWEST:]
    scored = [(trial.loss, -trial.experiment, trial) for trial in older if trial.loss is not None]
    best = [trial for _, _, trial in heapq.nsmallest(BEST, scored, key=lambda entry: entry[:2])]
    return [*sorted(best, key=lambda trial: trial.experiment), *newest]
