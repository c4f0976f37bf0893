"""The posterior of programs' scores, of the gains of kept edits and of a candidate's gain, and its inference.

Sigma and the prior of gains are learnt first. The posterior is then exact linear algebra; factors that are not normal
are matched by normal ones (expectation propagation, Minka 2001).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoresearch_jax.decide.gains import (
    CELLS_G,
    FIRST_PRIOR,
    GRID,
    Floats,
    Gain,
    GainPrior,
    gain_within_cells,
    learn,
    mixture_moments,
    normal_on_grid,
    normalised,
)
from autoresearch_jax.decide.noise import (
    FAULTY,
    correlation_of_seeds,
    plausible_sigma,
    robust_means,
    run_density,
    sigma_of_replicates,
)
from autoresearch_jax.decide.observations import Observations, Program

# Variance of a score, over what follows from the learnt prior and sigma as if they were known (Morris 1983).
_LEARNT_TOO = 1.4
_NODES_P, _NODE_WEIGHTS_P = np.polynomial.hermite_e.hermegauss(5)
_NODE_WEIGHTS_P = _NODE_WEIGHTS_P / _NODE_WEIGHTS_P.sum()
# The edits of one champion may together be better or worse than the prior says by about this, in sigma, so what they
# say of the champion is no better known than that.
_SIBLINGS_SIGMA = 0.7
_ROUNDS = 2  # of expectation propagation, and of learning
_FIRST_DEGREES = 0.5  # of freedom: weight of the first guess of sigma
_LEAST_PRECISION, _MOST_PRECISION = 1e-3, 1e3  # of a normal factor, per sigma squared
_LEAST_VARIANCE = 1e-4  # of a gain, in sigma squared
_FLAT = 1e-9  # precision of the baseline's score before it is measured
# All scores may drift in one direction over the night: by so much in 100 runs, a standard deviation, in sigma.
_DRIFT_SIGMA = 0.3


@dataclass(frozen=True)
class Estimate:
    """Mean and standard deviation of a normal posterior, in the metric's unit."""

    mean: float
    error: float


NO_GAIN = Estimate(0.0, 0.0)


@dataclass(frozen=True)
class Learnt:
    """What all scores of a night have in common."""

    # unit of the model: the standard deviation of a run, wild ones left out. Where seeds change nothing, the standard
    # error that is due to the test items; 0 where there is no noise at all.
    sigma: float
    seed_share: float  # variance between runs of one program, in sigma squared: 1, or 0 where seeds change nothing
    correlation: float  # of the runs of two programs with one seed
    prior: GainPrior  # of gains


@dataclass(frozen=True)
class Posterior:
    """What the runs of a lineage say. Arrays are in sigma, scores less `origin`; more is better."""

    learnt: Learnt  # sigma, the correlation of seeds and the prior of gains
    origin: float  # in the metric's unit, times the sign
    # numbers of the experiments whose gains are unknown, in the order of the columns between first and last
    edits: Sequence[int]
    design_RxK: Floats  # programs that others are compared with, as sums of unknowns, see `Observations`
    variances_R: Floats  # of their scores
    mean_K: Floats  # of the unknowns
    covariance_KxK: Floats  # of the unknowns
    cavity: tuple[Floats, Floats]  # mean and precision of each kept edit's gain without its prior
    likelihood_NxG: Floats  # of the runs of each edit, discarded ones and then kept ones, for each gain of the grid
    discarded_N: tuple[Floats, Floats]  # means and variances of the scores of discarded programs

    @property
    def sigma(self) -> float:
        """Standard deviation of a run in the metric's unit; 0 where equal programs have equal scores."""
        return self.learnt.sigma

    @property
    def _unit(self) -> float:
        return self.sigma or 1.0

    def score(self, contents: Collection[int]) -> Estimate:
        """A program's true score, times the sign."""
        mean, variance = self._moments(contents, with_baseline=True)
        return Estimate(self.origin + self._unit * mean, self._unit * math.sqrt(_LEARNT_TOO * variance))

    def variance(self, contents: Collection[int]) -> float:
        """Of a program's true score, in sigma squared."""
        return self._moments(contents, with_baseline=True)[1]

    def gain_of(self, edits: Collection[int]) -> Estimate:
        """What kept edits gain together."""
        mean, variance = self._moments(edits, with_baseline=False)
        return Estimate(self._unit * mean, self._unit * math.sqrt(variance))

    def _moments(self, edits: Collection[int], *, with_baseline: bool) -> tuple[float, float]:
        """Mean and variance of the sum of some gains, and of the baseline's score."""
        x_K = np.zeros(len(self.mean_K))
        x_K[0] = with_baseline
        x_K[[self._column[number] for number in edits]] = 1
        return float(x_K @ self.mean_K), max(float(x_K @ self.covariance_KxK @ x_K), 0.0)

    @cached_property
    def _column(self) -> dict[int, int]:
        """Of each kept edit's gain among the unknowns."""
        return {number: column for column, number in enumerate(self.edits, start=1)}

    @cached_property
    def gains(self) -> dict[int, Gain]:
        """The gain of each kept edit by itself, from all runs and the prior."""
        mean_K, precision_K = self.cavity
        weights_KxG = normalised(self.learnt.prior.gains_G * normal_on_grid(mean_K, precision_K))
        found = zip(weights_KxG, *gain_within_cells(mean_K, 1 / precision_K), strict=True)
        return {number: Gain(*gain, self._unit) for number, gain in zip(self.edits, found, strict=True)}

    def _of_bases(self, program: Program) -> tuple[Floats, float, Floats]:
        """What is known of the scores of the programs that an edit was made from.

        Returns:
          mean_S: for each run, of the program that the edit was made from then.
          shared: the part of their variance that all runs share; with one such program all of it.
          own_S: for each run, the rest of the variance. It is taken as independent between runs, although runs upon
            one of several programs share it.
        """
        bases = list(dict.fromkeys(program.bases))
        x_BxK = np.zeros((len(bases), len(self.mean_K)))
        x_BxK[:, 0] = 1
        for row, base in enumerate(bases):
            x_BxK[row, [self._column[number] for number in base]] = 1
        covariance_BxB = x_BxK @ self.covariance_KxK @ x_BxK.T
        shared = max(float(np.min(covariance_BxB)), 0.0)
        row_S = [bases.index(base) for base in program.bases]
        return (x_BxK @ self.mean_K)[row_S], shared, np.maximum(np.diag(covariance_BxB) - shared, 0.0)[row_S]

    def gain_of_candidate(self, program: Program) -> Gain:
        """The gain of an open program with a new edit, by its runs, its parent's score and the prior.

        Each run is compared with what the edit was made from then.
        """
        bases_S, variance, of_bases_S = self._of_bases(program)
        parent = float(bases_S[0])
        parents_P = parent + math.sqrt(variance) * _NODES_P
        distance_S = (np.array(program.runs) - self.origin) / self._unit - bases_S
        clipped_S = np.clip(distance_S, GRID[0], GRID[-1])
        runs_S, beyond = parent + clipped_S, float(np.median(distance_S - clipped_S))
        of_runs_S = np.ones(len(runs_S))
        if self.learnt.correlation:
            luck_S = (np.array(program.partners) - self.origin) / self._unit - bases_S
            paired_S = ~np.isnan(luck_S)
            runs_S = runs_S - self.learnt.correlation * np.where(paired_S, luck_S, 0.0)
            of_runs_S = 1 - self.learnt.correlation**2 * paired_S
        of_runs_S = of_runs_S + of_bases_S
        if program.item_variance:
            of_mean = self.learnt.seed_share / len(runs_S) + program.item_variance / self._unit**2 + of_bases_S.mean()
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
        return Gain(weights_G / weights_G.sum(), means_G + beyond, variances_G, self._unit)


def learn_from(data: Observations) -> Learnt:
    """What all scores have in common, by steps of expectation maximisation."""
    sigma = sigma_of_replicates(data.runs_AxS, data.guess, _FIRST_DEGREES)
    if sigma == 0:
        of_items = math.sqrt(float(np.median(data.items))) if data.items else 0.0
        learnt = Learnt(of_items, 0.0, 0.0, FIRST_PRIOR)
        if of_items == 0:
            return learnt
    else:
        learnt = Learnt(sigma, 1.0, correlation_of_seeds(data.first_runs, sigma), FIRST_PRIOR)
    for _ in range(_ROUNDS):
        found = infer(data, learnt)
        prior = learn(learnt.prior, found.likelihood_NxG)
        sigma = _sigma_again(data, found) if learnt.seed_share else learnt.sigma
        learnt = Learnt(sigma, learnt.seed_share, learnt.correlation, prior)
    return learnt


def _sigma_again(data: Observations, found: Posterior) -> float:
    """Sigma from how far runs are from what the posterior says of their programs, over programs with several."""
    sigma, programs = found.learnt.sigma, data.num_programs
    is_one_of_several = (data.count_A > 1)[data.program_F]
    rows, weight_AxS = data.row_F[is_one_of_several], data.means(sigma).weight_AxS
    weight_F = weight_AxS[data.program_F, data.slot_F][is_one_of_several]
    distance_F = (data.run_F[is_one_of_several] - found.origin) / sigma - (found.design_RxK @ found.mean_K)[rows]
    squares = float((weight_F * (distance_F**2 + found.variances_R[rows])).sum())
    degrees = float((weight_F > 0).sum())
    several = np.flatnonzero(data.count_A[programs:] > 1)
    if several.size:
        mean_N, variance_N = (found_N[several, None] for found_N in found.discarded_N)
        weight_NxS = weight_AxS[programs:][several]
        runs_NxS = (data.runs_AxS[programs:][several] - found.origin) / sigma
        distance_NxS = np.where(weight_NxS > 0, runs_NxS - mean_N, 0.0)
        squares += float((weight_NxS * (distance_NxS**2 + variance_N)).sum())
        degrees += float((weight_NxS > 0).sum())
    squares *= sigma**2
    if squares == 0:
        return sigma
    if data.guess > 0:
        squares += _FIRST_DEGREES * min(data.guess, plausible_sigma(squares, degrees)) ** 2
        degrees += _FIRST_DEGREES
    return math.sqrt(squares / degrees)


def infer(data: Observations, learnt: Learnt) -> Posterior:
    """The posterior for a sigma and a prior."""
    return _exact(data, learnt) if learnt.sigma == 0 else _Inference(data, learnt).run()


def _exact(data: Observations, learnt: Learnt) -> Posterior:
    """Without noise a program's score is that of any of its runs."""
    design_RxK = data.design_RxK.copy()
    design_RxK[:, -1] = 0  # what does not scatter does not drift
    scores_R = np.full(len(design_RxK), np.nan)
    scores_R[data.row_F] = data.run_F
    measured_R = ~np.isnan(scores_R)
    origin = float(scores_R[0])
    mean_K = np.linalg.lstsq(design_RxK[measured_R], scores_R[measured_R] - origin, rcond=None)[0]
    num_unknowns = design_RxK.shape[1]
    nothing_K = np.full(num_unknowns - 2, 1 / _LEAST_VARIANCE)
    # any gain is as certain as one of several sigma, and a difference of rounding is none
    clear_K = 4.0 * np.sign(np.where(np.isclose(mean_K[1:-1], 0, atol=1e-12), 0.0, mean_K[1:-1]))
    return Posterior(
        learnt=learnt,
        origin=origin,
        edits=data.edits,
        design_RxK=design_RxK,
        variances_R=np.zeros(len(design_RxK)),
        mean_K=mean_K,
        covariance_KxK=np.zeros((num_unknowns, num_unknowns)),
        cavity=(clear_K, nothing_K),
        likelihood_NxG=np.zeros((0, len(GRID))),
        discarded_N=(np.zeros(0), np.zeros(0)),
    )


class _Inference:
    """Expectation propagation: normal factors in place of the prior of each gain, until they change no more."""

    def __init__(self, data: Observations, learnt: Learnt) -> None:
        self._data, self._learnt = data, learnt
        sigma, seeds = learnt.sigma, learnt.seed_share
        programs, means = data.num_programs, data.means(sigma)
        self._origin = float(means.mean_A[0])
        self._means_R = (means.mean_R - self._origin) / sigma
        self._means_N = (means.mean_A[programs:] - self._origin) / sigma
        with np.errstate(divide="ignore"):
            self._precisions_R = 1 / (seeds / means.worth_R + data.items_R / sigma**2)
            self._variances_N = seeds / means.worth_A[programs:] + data.items_N / sigma**2
        self._precisions_R[~np.isfinite(self._precisions_R)] = 1e12  # of a baseline whose score has no noise
        self._precisions_R[means.worth_R == 0] = 0.0
        if learnt.correlation and len(data.parent_N):
            parent_N = means.mean_A[data.program_R[data.parent_N]]
            luck_NxS = (data.partners_NxS - parent_N[:, None]) / sigma
            count_N = data.count_A[programs:]
            paired_N = (~np.isnan(luck_NxS)).sum(axis=1) / count_N
            self._means_N -= learnt.correlation * np.nansum(luck_NxS, axis=1) / count_N
            self._variances_N *= 1 - learnt.correlation**2 * paired_N
        mean, variance = learnt.prior.moments
        self._gain_precision_K = np.full(len(data.edits), 1 / variance)  # of the factors; shifts are precision x mean
        self._gain_shift_K = max(0.0, mean) * self._gain_precision_K
        self._from_edits_R = np.zeros((2, len(data.design_RxK)))  # precisions and shifts that discarded edits add

    def run(self) -> Posterior:
        """The posterior after the last round."""
        self._solve()
        for _ in range(_ROUNDS):
            self._match_discarded()
            self._match_kept()
            self._solve()
        mean_K, precision_K = self._cavity
        kept_KxG = normal_on_grid(mean_K, precision_K)
        return Posterior(
            learnt=self._learnt,
            origin=self._origin,
            edits=self._data.edits,
            design_RxK=self._data.design_RxK,
            variances_R=self._variances_R,
            mean_K=self._mean_K,
            covariance_KxK=self._covariance_KxK,
            cavity=self._cavity,
            likelihood_NxG=np.vstack([self._likelihood_NxG, kept_KxG]),
            discarded_N=self._discarded(),
        )

    def _solve(self) -> None:
        """The normal posterior for the factors as they are, and the likelihood of each edit's gain by it."""
        design_RxK = self._data.design_RxK
        precision_R, shift_R = self._from_edits_R + np.array([self._precisions_R, self._precisions_R * self._means_R])
        precision_KxK = (design_RxK * precision_R[:, None]).T @ design_RxK
        gains = slice(1, len(precision_KxK) - 1)
        prior_K = np.concatenate([[_FLAT], self._gain_precision_K, [1 / _DRIFT_SIGMA**2]])
        precision_KxK[np.diag_indices_from(precision_KxK)] += prior_K
        shift_K = design_RxK.T @ shift_R
        shift_K[gains] += self._gain_shift_K
        self._covariance_KxK = np.linalg.inv(precision_KxK)
        self._mean_K = self._covariance_KxK @ shift_K
        self._variances_R = np.einsum("rk,rk->r", design_RxK @ self._covariance_KxK, design_RxK)
        gain_variance_K = np.diag(self._covariance_KxK)[gains]
        precision_K = np.maximum(1 / gain_variance_K - self._gain_precision_K, _LEAST_PRECISION)
        self._cavity = (self._mean_K[gains] / gain_variance_K - self._gain_shift_K) / precision_K, precision_K
        scores_R = design_RxK @ self._mean_K
        self._parent_N = scores_R[self._data.parent_N], self._variances_R[self._data.parent_N]
        self._total_N = self._variances_N + self._parent_N[1]
        distance_N = np.clip(self._means_N - self._parent_N[0], GRID[0], GRID[-1])
        self._distance_N = distance_N
        self._likelihood_NxG = run_density(distance_N[:, None] - GRID, self._total_N[:, None] + CELLS_G)

    def _match_discarded(self) -> None:
        """What each discarded edit says of its parent's score, as a normal factor."""
        weights_NxG = normalised(self._likelihood_NxG * self._learnt.prior.gains_G)
        gain_N, gain_variance_N = mixture_moments(weights_NxG, GRID, CELLS_G)
        mean_N, variance_N = self._parent_N
        share_N = variance_N / self._total_N
        matched_N = mean_N + share_N * (self._distance_N - gain_N)
        matched_variance_N = variance_N * (1 - share_N) + share_N**2 * gain_variance_N
        within_N = (self._distance_N > GRID[0]) & (self._distance_N < GRID[-1])  # a crash says nothing of its parent
        precision_N = np.where(within_N, np.maximum(1 / matched_variance_N - 1 / variance_N, 0.0), 0.0)
        shift_N = np.where(precision_N > 0, matched_N / matched_variance_N - mean_N / variance_N, 0.0)
        parent_N, program_R = self._data.parent_N, self._data.program_R
        rows = len(program_R)
        precision_R = np.bincount(parent_N, precision_N, rows)
        trust_R = (1 / (1 + _SIBLINGS_SIGMA**2 * np.bincount(program_R, precision_R)))[program_R]
        self._from_edits_R = np.array([precision_R * trust_R, np.bincount(parent_N, shift_N, rows) * trust_R])

    def _match_kept(self) -> None:
        """The prior of each kept edit's gain, as a normal factor."""
        mean_K, precision_K = self._cavity
        weights_KxG = normalised(self._learnt.prior.gains_G * normal_on_grid(mean_K, precision_K))
        matched_K, variance_K = mixture_moments(weights_KxG, *gain_within_cells(mean_K, 1 / precision_K))
        variance_K = np.maximum(variance_K, _LEAST_VARIANCE)
        # Beyond the grid the prior says nothing: a gain is what its runs say.
        beyond_K = (mean_K < GRID[0]) | (mean_K > GRID[-1])
        factor_K = np.clip(1 / variance_K - precision_K, _LEAST_PRECISION, _MOST_PRECISION)
        self._gain_precision_K = np.where(beyond_K, _LEAST_PRECISION, factor_K)
        shift_K = matched_K / variance_K - precision_K * mean_K
        self._gain_shift_K = np.where(beyond_K, _LEAST_PRECISION * mean_K, shift_K)

    def _discarded(self) -> tuple[Floats, Floats]:
        """Means and variances of the scores of discarded programs."""
        mean_N, variance_N = self._parent_N
        weights_NxG = normalised(self._likelihood_NxG * self._learnt.prior.gains_G)
        beyond_N = self._means_N - mean_N - self._distance_N  # of what lies beyond the grid
        centre_NxG = (mean_N + beyond_N)[:, None] + GRID
        share_N = variance_N / self._total_N  # of the distance that is the parent's error
        score_NxG = centre_NxG + share_N[:, None] * (self._means_N[:, None] - centre_NxG)
        score_N = (weights_NxG * score_NxG).sum(axis=1)
        spread_N = (weights_NxG * score_NxG**2).sum(axis=1) - score_N**2
        return score_N, spread_N + variance_N * (1 - share_N)
