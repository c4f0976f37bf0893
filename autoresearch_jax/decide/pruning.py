"""Pruning thresholds: how far behind the champion candidates that end well are on their way.

Computed from recorded loss curves, simulated on them by scripts/bench_prune.sh; see docs/reference/pruning.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from autoresearch_jax.decide.gains import Floats
from autoresearch_jax.types import CURVE_POINTS, LossLimit, Scalar

# Candidates that ended nearer to the champion than this share of all did tell most of those that end as good as it.
_NEAR = 0.25


@dataclass(frozen=True)
class Finished:
    """A candidate that ran to its end, against the champion of its time."""

    behind: Sequence[float]  # by how much its loss was above the champion's at each point of the curve
    worse: float  # by how much its score was worse than the champion's, in the metric's unit; negative if it was better


@dataclass(frozen=True)
class Pruning:
    """What is risked, and from when on."""

    # probability that a candidate which would end as good as the champion is stopped, over all looks together
    risk: float = 0.02
    least_finished: int = 12  # candidates that must have run to their end before one is stopped
    first_point: int = 4  # of the curve, that is looked at; before it schedules differ too much
    last_point: int = 10  # after it schedules part again, as some cool down earlier, and there is less left to save

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """What a run keeps to."""
        return {"prune": True, **{f"prune_{name}": value for name, value in asdict(self).items()}}


@dataclass(frozen=True)
class PruningThresholds:
    """What a trial's losses are held against."""

    champion: Sequence[float]  # the champion's curve
    allowances: Mapping[int, float]  # by point, how far a trial may be behind
    risk: float  # see `Pruning.risk`

    @property
    def loss_limits(self) -> tuple[LossLimit, ...]:
        """The losses that a trial must not be above."""
        return tuple(LossLimit(point, self.champion[point - 1] + by) for point, by in self.allowances.items())

    def explain(self, losses: Sequence[float]) -> str:
        """Why a trial with these losses was stopped, one line."""
        point = len(losses)
        behind = losses[-1] - self.champion[point - 1]
        return (
            f"at {point / CURVE_POINTS:.0%} of the budget its loss was {behind:.3g} above the champion's; "
            f"probability of ending better below {self.risk:g}"
        )


def find_allowances(finished: Sequence[Finished], pruning: Pruning, luck: float = 0.0) -> Mapping[int, float]:
    """By point of the curve, how far behind a trial may be; nothing while there is too little to tell from.

    At each point a weighted straight line predicts, from how much worse a candidate ends, how far behind it is there.
    The allowance is the upper end of the prediction interval (Student's t) for one that ends as good as the champion,
    exceeded with probability `pruning.risk` over all points together. It never grows from one point to the next.

    Args:
      finished: the candidates so far.
      pruning: the risk, and the points that are looked at.
      luck: by how much the run of the champion that is compared with was better than the mean of its runs.
    """
    worse_N = np.array([one.worse for one in finished])
    if len(finished) < pruning.least_finished or not worse_N.any():
        return {}
    usual = float(np.quantile(np.abs(worse_N[worse_N != 0]), _NEAR))
    weights_N = 1 / (1 + (worse_N / usual) ** 2)
    points = range(pruning.first_point, pruning.last_point + 1)
    from scipy.special import stdtrit  # takes 0.2 s, which a run without pruning need not wait for

    factor = -float(stdtrit(len(finished) - 2, pruning.risk / len(points)))
    allowances: dict[int, float] = {}
    largest = 0.0
    for point in reversed(points):
        behind_N = np.array([one.behind[point - 1] for one in finished])
        largest = max(largest, _bound(worse_N, behind_N, weights_N, at=max(0.0, luck), factor=factor))
        allowances[point] = largest
    return dict(sorted(allowances.items()))


def _bound(x_N: Floats, y_N: Floats, weights_N: Floats, *, at: float, factor: float) -> float:
    """Upper end of the prediction interval of a weighted straight line, `factor` standard deviations above it.

    The variance of each ordinate is inverse to its weight, which is 1 at the scatter that is predicted.
    """
    total = float(weights_N.sum())
    x_mean, y_mean = float(weights_N @ x_N) / total, float(weights_N @ y_N) / total
    spread = float(weights_N @ (x_N - x_mean) ** 2)
    slope = float(weights_N @ ((x_N - x_mean) * (y_N - y_mean))) / spread if spread else 0.0
    residual_N = y_N - y_mean - slope * (x_N - x_mean)
    squares_N = weights_N * residual_N**2  # of equal size all over, if they scatter as the weights say
    near_N = weights_N >= np.median(weights_N)  # and if those nearer scatter more than that, it is they that count
    largest = max(float(squares_N.mean()), float(squares_N[near_N].sum() / weights_N[near_N].sum()))
    variance = largest * len(x_N) / (len(x_N) - 2)
    leverage = 1 / total + ((at - x_mean) ** 2 / spread if spread else 0.0)
    return y_mean + slope * (at - x_mean) + factor * math.sqrt(variance * (1 + leverage))
