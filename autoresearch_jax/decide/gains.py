"""The prior of gains: how likely an edit helps, does nothing or harms, and by how much, learnt from a run's own edits.

A mixture of half normals on either side of zero and a spike at zero, as in adaptive shrinkage (Stephens 2017), on a
fixed grid of gains. Its unit is sigma, the standard deviation of a run; a gain is positive where the score is better.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Finer where most gains are; what lies beyond the ends counts as the ends, so a crash of -100 sigma is one of -35.
_STEPS = np.arange(0.5, 3.01, 0.5)
_FAR = [3.5, 4.0, 4.5, 5.25, 6.0, 7.0, 8.5, 10.0]
_FARTHER = [13.0, 18.0, 25.0, 35.0]
GRID = np.array([-x for x in reversed([*_STEPS, *_FAR, *_FARTHER])] + [0.0] + [*_STEPS, *_FAR, *_FARTHER])
ZERO = int(np.flatnonzero(GRID == 0.0)[0])
# Each gain of the grid stands for a normal with the variance of a uniform distribution over its cell, zero for itself.
CELLS_G = np.where(GRID == 0.0, 0.0, np.gradient(GRID) ** 2 / 12)
# No effect counts as a very small one where it is compared with a price: normal, with this standard deviation.
_SPIKE_SIGMA = 0.25
_TINY = 1e-12
_LEAST_REAL = 0.7  # a smaller gain is not told from none when an edit is certified


def _half_normal(scale: float, sign: int) -> Floats:
    density = np.where(sign * GRID > 0, np.exp(-0.5 * (GRID / scale) ** 2) * np.gradient(GRID), 0.0)
    return np.asarray(density / density.sum())


# Scales in sigma. The weights are the belief before a run has told: one edit in six helps, two in five do nothing.
_PARTS = (
    (0.38, np.eye(1, len(GRID), ZERO)[0]),
    *((weight, _half_normal(scale, 1)) for scale, weight in ((1.0, 0.08), (2.0, 0.06), (4.0, 0.02), (12.0, 0.01))),
    *((weight, _half_normal(scale, -1)) for scale, weight in ((1.0, 0.1), (2.0, 0.15), (4.0, 0.12), (12.0, 0.08))),
)
PARTS_CxG = np.array([part for _, part in _PARTS])
FIRST_WEIGHTS_C = np.array([weight for weight, _ in _PARTS])
FIRST_EDITS = 40.0  # weight of the first belief, in edits
_LEARNING_STEPS = 8


@dataclass(frozen=True)
class GainPrior:
    """Weights of the mixture's parts, and of the grid's gains that follow from them; each sums to 1."""

    parts_C: Floats
    gains_G: Floats

    @classmethod
    def of(cls, parts_C: Floats) -> "GainPrior":
        """The prior with these weights of its parts."""
        return cls(parts_C, parts_C @ PARTS_CxG)

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and variance."""
        mean = float(self.gains_G @ GRID)
        return mean, float(self.gains_G @ GRID**2) - mean**2


FIRST_PRIOR = GainPrior.of(FIRST_WEIGHTS_C / FIRST_WEIGHTS_C.sum())


def learn(prior: GainPrior, likelihood_NxG: Floats) -> GainPrior:
    """A prior after some steps of expectation maximisation, held near the first one while edits are few.

    Args:
      prior: the initial one.
      likelihood_NxG: of each edit's runs, for each gain of the grid.
    """
    likelihood_NxC = likelihood_NxG @ PARTS_CxG.T
    parts_C = prior.parts_C
    for _ in range(_LEARNING_STEPS):
        shares_N = 1 / (likelihood_NxC @ parts_C)
        parts_C = FIRST_EDITS * FIRST_PRIOR.parts_C + parts_C * (shares_N @ likelihood_NxC)
        parts_C = parts_C / parts_C.sum()
    return GainPrior.of(parts_C)


@dataclass(frozen=True)
class Gain:
    """The posterior of one edit's gain, a mixture of normals."""

    weights_G: Floats  # of each gain of the grid; they sum to 1
    means_G: Floats  # of the gain in each cell of the grid, in sigma
    variances_G: Floats  # likewise, in sigma squared
    sigma: float  # in the metric's unit

    @property
    def mean(self) -> float:
        """In sigma."""
        return float(self.weights_G @ self.means_G)

    @property
    def variance(self) -> float:
        """In sigma squared."""
        return max(float(self.weights_G @ (self.variances_G + self.means_G**2)) - self.mean**2, 0.0)

    @cached_property
    def real(self) -> float:
        """Probability that the edit is an improvement; one too small to be told from no effect is none."""
        return min(1.0, float(self.weights_G @ self._above(_LEAST_REAL, self.variances_G)))

    def above(self, price: float, spread: float = 0.0) -> float:
        """Probability that the gain is above a price; no effect counts as one of a quarter sigma, of either sign.

        Args:
          price: in sigma.
          spread: standard deviation of the price.
        """
        variances_G = self.variances_G + spread**2
        variances_G[ZERO] += _SPIKE_SIGMA**2
        return float(self.weights_G @ self._above(price, variances_G))

    def _above(self, price: float, variances_G: Floats) -> Floats:
        z_G = (price - self.means_G) / np.sqrt(2 * np.maximum(variances_G, _TINY))
        return np.array([0.5 * math.erfc(z) for z in z_G])


def gain_within_cells(seen_N: Floats, variance_N: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of the gain in each cell of the grid, where runs show `seen_N` with `variance_N`.

    What they show beyond the grid's end is added to the means: it weighs as the end does, and is as large as it is.
    """
    share_NxG = CELLS_G / (CELLS_G + variance_N[:, None])
    seen_Nx1 = np.clip(seen_N, GRID[0], GRID[-1])[:, None]
    beyond_Nx1 = seen_N[:, None] - seen_Nx1
    return GRID + share_NxG * (seen_Nx1 - GRID) + beyond_Nx1, CELLS_G * (1 - share_NxG)


def normalised(weights_NxG: Floats) -> Floats:
    """Weights of each row divided by their sum."""
    return np.asarray(weights_NxG / weights_NxG.sum(axis=1, keepdims=True))


def normal_on_grid(mean_N: Floats, precision_N: Floats) -> Floats:
    """Density of normal variables at the cells of the grid, up to a factor; a mean beyond the grid is at its end."""
    clipped_N = np.clip(mean_N, GRID[0], GRID[-1])
    variance_NxG = 1 / precision_N[:, None] + CELLS_G
    return np.asarray(np.exp(-0.5 * (clipped_N[:, None] - GRID) ** 2 / variance_NxG) / np.sqrt(variance_NxG))


def mixture_moments(weights_NxG: Floats, means_NxG: Floats, variances_NxG: Floats) -> tuple[Floats, Floats]:
    """Means and variances of mixtures."""
    mean_N = (weights_NxG * means_NxG).sum(axis=1)
    return mean_N, (weights_NxG * (variances_NxG + means_NxG**2)).sum(axis=1) - mean_N**2
