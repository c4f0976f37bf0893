"""Values of constants as numbers that a model can work with, and back."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from autoresearch_jax.proposers.space import Choices, Constant, IntRange, Value, same

Array = NDArray[np.float64]

UNKNOWN = -1.0  # stands for a choice that is none of today's
FURTHEST = 1.0  # how far outside of its range a value may lie, in widths of the range; the human has narrowed it
SIGNIFICANT_DIGITS = 3  # finer steps drown in the noise of a trial, and 0.028 reads better than 0.0279834


class Axis:
    """One constant: the place of a value in its range, from 0 to 1, or the index of a choice."""

    def __init__(self, constant: Constant) -> None:
        self.name = constant.name
        values = constant.values
        self.choices = values.values if isinstance(values, Choices) else ()
        if isinstance(values, Choices):
            return
        self._range = values
        self._scaled: Callable[[float], float] = math.log if values.log else float
        self._low, high = self._scaled(values.low), self._scaled(values.high)
        self._width = (high - self._low) or 1.0

    def encode(self, value: object) -> float | None:
        """Where a value lies; None for one that has no place here."""
        if self.choices:
            places = [i for i, choice in enumerate(self.choices) if same(choice, value)]
            return float(places[0]) if places else UNKNOWN
        if isinstance(value, bool) or not isinstance(value, int | float) or (self._range.log and value <= 0):
            return None
        return min(max((self._scaled(value) - self._low) / self._width, -FURTHEST), 1 + FURTHEST)

    def decode(self, place: float) -> Value:
        """The value at a place, a real number rounded to a few digits."""
        if self.choices:
            return self.choices[int(place)]
        at = self._low + float(place) * self._width  # not NumPy's: a proposal is Python's numbers
        value = math.exp(at) if self._range.log else at
        if isinstance(self._range, IntRange):
            return min(max(round(value), self._range.low), self._range.high)
        return tidy(min(max(value, self._range.low), self._range.high), self._range.low, self._range.high)

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Places all over the axis."""
        if self.choices:
            return rng.integers(len(self.choices), size=count).astype(float)
        return self._on_grid(rng.random(count))

    def near(self, places_N: Array, steps_N: Array) -> Array:
        """Places a step away, mirrored at the ends; another choice is as far away as any, so that one stays."""
        if self.choices:
            return places_N
        moved_N = np.abs(np.clip(places_N, 0, 1) + steps_N)
        return self._on_grid(np.clip(np.where(moved_N > 1, 2 - moved_N, moved_N), 0, 1))

    def _on_grid(self, places_N: Array) -> Array:
        """Moved to where the next whole number lies, on an axis of whole numbers."""
        if not isinstance(self._range, IntRange):
            return places_N
        at_N = self._low + places_N * self._width
        wholes_N = np.rint(np.exp(at_N) if self._range.log else at_N)
        return ((np.log(wholes_N) if self._range.log else wholes_N) - self._low) / self._width


def tidy(value: float, low: float, high: float) -> float:
    """Rounds to a few digits, its own or its range's if that is narrow, without leaving the range."""
    if value == 0 or low == high:
        return value
    finest = min(abs(value), high - low)
    rounded = round(value, SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(finest)))
    return min(max(rounded, low), high)
