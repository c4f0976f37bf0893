"""The posterior of a run's scores: of programs, of the edits in them, and of a candidate's gain."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoresearch_jax.decide.gains import (
    CELLS_G,
    GRID,
    Floats,
    Gain,
    GainPrior,
    gain_within_cells,
    normal_on_grid,
    normalised,
)
from autoresearch_jax.decide.noise import FAULTY, robust_means, run_density
from autoresearch_jax.decide.observations import Program

# Variance of a score, over what follows from the learnt prior and sigma as if they were known (Morris 1983).
_LEARNT_TOO = 1.4
_NODES_P, _NODE_WEIGHTS_P = np.polynomial.hermite_e.hermegauss(5)
_NODE_WEIGHTS_P = _NODE_WEIGHTS_P / _NODE_WEIGHTS_P.sum()


@dataclass(frozen=True)
class Estimate:
    """Mean and standard deviation of a normal posterior, in the metric's unit."""

    mean: float
    error: float


NO_GAIN = Estimate(0.0, 0.0)


@dataclass(frozen=True)
class Learnt:
    """What all of a run's scores have in common.

    Attributes:
      sigma: unit of the model: the standard deviation of a run, wild ones left out. Where seeds change nothing, the
        standard error that is due to the test items; 0 where there is no noise at all.
      seed_share: variance between runs of one program, in sigma squared: 1, or 0 where seeds change nothing.
      correlation: of the runs of two programs with one seed.
      prior: of gains.
    """

    sigma: float
    seed_share: float
    correlation: float
    prior: GainPrior


@dataclass(frozen=True)
class Posterior:
    """What the runs of a lineage say. Arrays are in sigma, scores less `origin`; more is better.

    Attributes:
      learnt: see there.
      origin: in the metric's unit, times the sign.
      edits: numbers of the experiments whose gains are unknown, in the order of the columns between first and last.
      design_RxK: programs that others are compared with, as sums of unknowns, see `Observations`.
      variances_R: of their scores.
      mean_K: of the unknowns.
      covariance_KxK: likewise.
      cavity: mean and precision of each kept edit's gain without its prior.
      likelihood_NxG: of the runs of each edit, discarded ones and then kept ones, for each gain of the grid.
      discarded_N: means and variances of the scores of discarded programs.
    """

    learnt: Learnt
    origin: float
    edits: Sequence[int]
    design_RxK: Floats
    variances_R: Floats
    mean_K: Floats
    covariance_KxK: Floats
    cavity: tuple[Floats, Floats]
    likelihood_NxG: Floats
    discarded_N: tuple[Floats, Floats]

    @property
    def sigma(self) -> float:
        """Standard deviation of a run in the metric's unit; 0 where equal programs have equal scores."""
        return self.learnt.sigma

    @property
    def _unit(self) -> float:
        return self.sigma or 1.0

    def score(self, contents: Collection[int]) -> Estimate:
        """A program's true score, times the sign."""
        mean, variance = self._moments(self._sum_of(contents, with_baseline=True))
        return Estimate(self.origin + self._unit * mean, self._unit * math.sqrt(_LEARNT_TOO * variance))

    def variance(self, contents: Collection[int]) -> float:
        """Of a program's true score, in sigma squared."""
        return self._moments(self._sum_of(contents, with_baseline=True))[1]

    def gain_of(self, edits: Collection[int]) -> Estimate:
        """What kept edits gain together."""
        mean, variance = self._moments(self._sum_of(edits, with_baseline=False))
        return Estimate(self._unit * mean, self._unit * math.sqrt(variance))

    def _sum_of(self, edits: Iterable[int], *, with_baseline: bool) -> Floats:
        x_K = np.zeros(len(self.mean_K))
        x_K[0] = with_baseline
        x_K[[1 + self.edits.index(number) for number in edits]] = 1
        return x_K

    def _moments(self, x_K: Floats) -> tuple[float, float]:
        return float(x_K @ self.mean_K), max(float(x_K @ self.covariance_KxK @ x_K), 0.0)

    @cached_property
    def gains(self) -> dict[int, Gain]:
        """The gain of each kept edit by itself, from all runs and the prior."""
        mean_K, precision_K = self.cavity
        weights_KxG = normalised(self.learnt.prior.gains_G * normal_on_grid(mean_K, precision_K))
        found = zip(weights_KxG, *gain_within_cells(mean_K, 1 / precision_K), strict=True)
        return {number: Gain(*gain, self._unit) for number, gain in zip(self.edits, found, strict=True)}

    def gain_of_candidate(self, program: Program) -> Gain:
        """See `Lineage.gain_of_candidate`."""
        assert program.parent is not None
        parent, variance = self._moments(self._sum_of(program.parent, with_baseline=True))
        parents_P = parent + math.sqrt(variance) * _NODES_P
        distance_S = (np.array(program.runs) - self.origin) / self._unit - parent
        runs_S = parent + np.clip(distance_S, GRID[0], GRID[-1])
        of_runs_S = np.ones(len(runs_S))
        if self.learnt.correlation:
            luck_S = (np.array(program.partners) - self.origin) / self._unit - parent
            paired_S = ~np.isnan(luck_S)
            runs_S = runs_S - self.learnt.correlation * np.where(paired_S, luck_S, 0.0)
            of_runs_S = 1 - self.learnt.correlation**2 * paired_S
        if program.item_variance:
            of_mean = self.learnt.seed_share / len(runs_S) + program.item_variance / self._unit**2
            runs_S, of_runs_S = np.array([runs_S.mean()]), np.array([of_mean])
        mean, worth = runs_S[0], 1.0
        if len(runs_S) > 1:
            (mean,), (worth,), _ = robust_means(runs_S[None, :], 1.0)
        seen, of_seen = float(mean) - parent, variance + float(of_runs_S.mean() / worth)
        (means_G,), (variances_G,) = gain_within_cells(np.array([seen]), np.array([of_seen]))
        # the prior within each cell, integrated around the gain there that fits the runs best
        shape_G = np.log(of_seen / (of_seen + CELLS_G)) - CELLS_G * ((seen - GRID) / (of_seen + CELLS_G)) ** 2
        log_PxG = np.log(self.learnt.prior.gains_G) + shape_G / 2 + np.log(_NODE_WEIGHTS_P)[:, None]
        centre_PxG = parents_P[:, None] + means_G
        for run, of_run in zip(runs_S, of_runs_S, strict=True):
            log_PxG = log_PxG + np.log(run_density(run - centre_PxG, float(of_run)) + FAULTY)
        weights_G = np.exp(log_PxG - np.max(log_PxG)).sum(axis=0)
        return Gain(weights_G / weights_G.sum(), means_G, variances_G, self._unit)
