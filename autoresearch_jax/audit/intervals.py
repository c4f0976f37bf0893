"""How sure a mean is: Student's t interval of a few recorded differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

from autoresearch_jax.decide.noise import mean_of

CONFIDENCE = 0.95  # of two-sided intervals: one in twenty does not hold the truth


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends between which the true one lies with probability `CONFIDENCE`."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if it is surely above 0, -1 if surely below, 0 if that is open."""
        return (self.low > 0) - (self.high < 0)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The interval of the mean of independent values with normal noise; None for fewer than two, which show no noise.

    Equal values give an interval without width.
    """
    from scipy.special import stdtrit  # takes 0.2 s, which a driver that audits nothing need not wait for

    if len(values) < 2:
        return None
    mean = mean_of(values)
    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    spread = 0.0 if min(values) == max(values) else stdev(values)
    margin = quantile * spread / math.sqrt(len(values))
    return Interval(mean, mean - margin, mean + margin)
