"""The guard against a machine that was busy: which trials of a program ran as fast as the others."""

from collections.abc import Sequence
from statistics import median_low

from autoresearch_jax.search.records import TrialRow

TOLERANCE = 0.1  # of the speed; a trial that ran slower than others by more had less training than they


def slowdown(steps_per_second: float | None, others: Sequence[float]) -> float | None:
    """By which share a trial ran slower than others; None if it is within the tolerance, or nothing is known.

    Others are taken by their median, of two the slower one: a single quick trial does not make all others slow.
    """
    if steps_per_second is None or not others:
        return None
    share = 1 - steps_per_second / median_low(others)
    return share if share > TOLERANCE else None


def speeds(trials: Sequence[TrialRow]) -> list[float]:
    """Steps per second of the trials where it is known."""
    return [speed for trial in trials if (speed := trial.steps_per_second) is not None]


def steady(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Trials of one program without those that ran slower than its others: the machine was busy then.

    Where the budget is in steps a slow machine does not matter to the score, and nobody should ask.
    """

    def ran_slow(trial: TrialRow) -> bool:
        others = [other for other in trials if other is not trial]
        return slowdown(trial.steps_per_second, speeds(others)) is not None

    return [trial for trial in trials if not ran_slow(trial)]
