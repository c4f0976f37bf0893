"""The guard against a machine whose speed changes: which runs of a program had the training that the others had."""

from collections.abc import Mapping, Sequence
from statistics import median_high, median_low
from typing import Protocol, TypeVar

from autoresearch_jax.measurement import Scalar

TOLERANCE = 0.1  # of the speed; a run that was slower than others by more had less training than they
# Of a champion, whose runs lie hours apart, the latest tell the machine's speed now: three slow ones are no accident.
_LATEST = 5


class Timed(Protocol):
    """A run whose speed may be known."""

    @property
    def steps_per_second(self) -> float | None: ...


Run = TypeVar("Run", bound=Timed)


def steps_per_second(metrics: Mapping[str, Scalar]) -> float | None:
    """How fast a trial trained; None where that is not known."""
    steps, seconds = metrics.get("num_steps"), metrics.get("training_seconds")
    if isinstance(steps, int | float) and isinstance(seconds, int | float) and seconds > 0:
        return steps / seconds
    return None


def slowdown(steps_per_second: float | None, others: Sequence[float]) -> float | None:
    """By which share a run was slower than others; None if it is within the tolerance, or nothing is known.

    Others are taken by their median, of two the slower one: a single quick run does not make all others slow.
    """
    if steps_per_second is None or not others:
        return None
    share = 1 - steps_per_second / median_low(others)
    return share if share > TOLERANCE else None


def speeds(runs: Sequence[Timed]) -> list[float]:
    """Steps per second of the runs where it is known."""
    return [speed for run in runs if (speed := run.steps_per_second) is not None]


def typical_speed(runs: Sequence[Timed]) -> float | None:
    """The median of their speeds, of two the faster one, because what else runs makes a machine slow and never fast."""
    known = speeds(runs)
    return median_high(known) if known else None


def without_busy_start(runs: Sequence[Run]) -> list[Run]:
    """A candidate's runs without the first, if that was slow and the second was not: the machine was busy.

    No more than that is excused. A program whose speed depends on the seed could else have its worse runs left out.
    """
    if len(runs) > 1 and slowdown(runs[0].steps_per_second, speeds(runs[1:2])) is not None:
        return list(runs[1:])
    return list(runs)


def at_present_speed(runs: Sequence[Run]) -> list[Run]:
    """A champion's runs without those that were slower, or faster, than its latest ones typically are."""
    now = typical_speed(runs[-_LATEST:])
    if now is None:
        return list(runs)
    slowest, fastest = now * (1 - TOLERANCE), now / (1 - TOLERANCE)
    return [run for run in runs if run.steps_per_second is None or slowest <= run.steps_per_second <= fastest]
