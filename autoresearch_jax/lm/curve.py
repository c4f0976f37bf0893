"""The loss curve of a training: the mean loss of each twentieth of its budget, held against ceilings as it grows."""

import math
from collections.abc import Sequence

from autoresearch_jax.measurement import CURVE_POINTS, Ceiling


class Curve:
    """The curve of one training so far."""

    def __init__(self, stop_above: Sequence[Ceiling] = ()) -> None:
        """Starts with no step.

        Args:
          stop_above: what the curve must not be above.
        """
        self._ceilings = {ceiling.point: ceiling.loss for ceiling in stop_above}
        self._losses: list[list[float]] = [[] for _ in range(CURVE_POINTS)]
        self._num_points = 0  # that no further step belongs to

    def add(self, spent: float, loss: float) -> bool:
        """Adds a step.

        Args:
          spent: points of the budget, 0 to CURVE_POINTS, that are spent when it ends; the last step may end later.
          loss: of the step.

        Returns:
          True if the curve has become too high.
        """
        before = self._num_points
        self._num_points = max(before, min(CURVE_POINTS, math.floor(spent)))
        self._losses[min(CURVE_POINTS, max(1, math.ceil(spent))) - 1].append(loss)
        return any(
            mean > self._ceilings.get(point, math.inf)
            for point in range(before + 1, self._num_points + 1)
            if (mean := self._mean(point)) is not None
        )

    @property
    def points(self) -> tuple[float, ...]:
        """The mean loss of each point that is over, up to the first in which no step ended."""
        means = [self._mean(point) for point in range(1, self._num_points + 1)]
        return tuple(mean for mean in means[: means.index(None) if None in means else None] if mean is not None)

    def _mean(self, point: int) -> float | None:
        losses = self._losses[point - 1]
        return math.fsum(losses) / len(losses) if losses else None
