"""The loss curve of a training: the mean loss of each twentieth of its budget, held against ceilings as it grows."""

import math
from collections.abc import Sequence

from autoresearch_jax.types import CURVE_POINTS, Ceiling


class Curve:
    """The curve of one training so far."""

    def __init__(self, stop_above: Sequence[Ceiling] = ()) -> None:
        """Starts with no step.

        Args:
          stop_above: what the curve must not be above.
        """
        self._ceilings = {ceiling.point: ceiling.loss for ceiling in stop_above}
        self._points: list[float] = []
        self._losses: list[float] = []  # of the steps that ended in the twentieth at hand
        self._num_over = 0  # twentieths that no further step belongs to
        self._is_broken = False

    def add(self, spent: float, loss: float) -> bool:
        """Adds a step.

        Args:
          spent: points of the budget, 0 to CURVE_POINTS, that are spent when it ends; the last step may end later.
          loss: of the step.

        Returns:
          True if the curve has become too high.
        """
        own = min(CURVE_POINTS, max(1, math.ceil(spent)))
        too_high = False
        while self._num_over < own - 1:
            too_high = self._end_twentieth() or too_high
        self._losses.append(loss)
        if math.floor(spent) >= own > self._num_over:
            too_high = self._end_twentieth() or too_high
        return too_high

    @property
    def points(self) -> tuple[float, ...]:
        """The mean loss of each twentieth that is over, up to the first in which no step ended."""
        return tuple(self._points)

    def _end_twentieth(self) -> bool:
        """True if its mean loss is too high; what comes after one without a step is held against nothing."""
        losses, self._losses = self._losses, []
        self._num_over += 1
        self._is_broken = self._is_broken or not losses
        if self._is_broken:
            return False
        self._points.append(math.fsum(losses) / len(losses))
        return self._points[-1] > self._ceilings.get(self._num_over, math.inf)
