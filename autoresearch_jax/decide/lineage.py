"""The model of a run's scores: a program's true score is the baseline's plus the gains of the edits that it holds.

Unknown are the baseline's true score and the gain of each edit that was kept; runs are observations with noise. All
gains have one prior, see gains.py, learnt together with the standard deviation of a run from the same runs. A discarded
edit says what its parent's score is, too, as far as the prior knows its gain. The posterior is exact linear algebra on
these unknowns; factors that are not normal are matched by normal ones (expectation propagation, Minka 2001).
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from autoresearch_jax.decide.gains import CELLS_G, FIRST_PRIOR, GRID, Floats, Gain, GainPrior, gain_within_cells, learn
from autoresearch_jax.decide.noise import (
    FAULTY,
    WILD,
    WILD_VARIANCE,
    correlation_of_seeds,
    plausible_sigma,
    robust_means,
    sigma_of_replicates,
)

# The edits of one champion may together be better or worse than the prior says by about this, in sigma, so what they
# say of the champion is no better known than that.
_SIBLINGS_SIGMA = 0.7
_ROUNDS = 2  # of expectation propagation, and of learning
# Weights of the belief in the first guess of sigma, in degrees of freedom.
_FIRST_DEGREES = 0.5
_FIRST_SIGMA = 0.002  # that guess, as a share of the baseline's score
_NODES_P, _NODE_WEIGHTS_P = np.polynomial.hermite_e.hermegauss(5)
_NODE_WEIGHTS_P = _NODE_WEIGHTS_P / _NODE_WEIGHTS_P.sum()
_LEAST_PRECISION, _MOST_PRECISION = 1e-3, 1e3  # of a normal factor, per sigma squared
_LEAST_VARIANCE = 1e-4  # of a gain, in sigma squared
_FLAT = 1e-9  # precision of the baseline's score before it is measured


@dataclass(frozen=True)
class Estimate:
    """Mean and standard deviation of a normal posterior, in the metric's unit."""

    mean: float
    error: float


NO_GAIN = Estimate(0.0, 0.0)


@dataclass
class Program:
    """A program of the run.

    Attributes:
      contents: numbers of the experiments whose edits it holds.
      parent: contents of the program it was made from; None for the baseline.
      is_new: False for one that only takes edits out, and for the baseline.
      runs: its scores times the lineage's sign, so that more is better.
      partners: for each run, the parent's run with the same seed; NaN where there is none.
      kept: None while it is open.
      item_variance: squared standard error of its difference from its parent that is due to the test items, which
        further runs do not lessen; see `noise.item_variance`.
    """

    contents: frozenset[int]
    parent: frozenset[int] | None
    is_new: bool
    runs: list[float] = field(default_factory=list)
    partners: list[float] = field(default_factory=list)
    kept: bool | None = None
    item_variance: float = 0.0


class Lineage:
    """Programs and runs in the order in which they were entered; the posterior is a function of what was entered."""

    def __init__(self, sign: int, learn_again: float = 1.0) -> None:
        """An empty lineage.

        Args:
          sign: 1 where a higher score is better, -1 where a lower one is.
          learn_again: sigma and the prior are learnt again, and discarded edits enter the posterior, once the number of
            edits has grown by this factor. A simulation sets it above 1 to save time.
        """
        self.sign = sign
        self.programs: dict[int, Program] = {}
        self.champion = frozenset[int]()
        self.num_runs = 0
        self._learn_again = learn_again
        self._by_seed: dict[frozenset[int], dict[int, float]] = {}
        self._posterior: Posterior | None = None
        self._learnt: tuple[int, _Learnt] | None = None
        self._discarded = 0  # edits, and how many of them the posterior has
        self._discarded_in_posterior = 0

    def copy(self) -> "Lineage":
        """A lineage to which more can be entered; the programs that are concluded are shared."""
        other = Lineage(self.sign, self._learn_again)
        other.programs, other.champion, other.num_runs = dict(self.programs), self.champion, self.num_runs
        other._by_seed = {contents: dict(runs) for contents, runs in self._by_seed.items()}
        other._posterior, other._learnt = self._posterior, self._learnt
        other._discarded, other._discarded_in_posterior = self._discarded, self._discarded_in_posterior
        return other

    def begin(self, number: int, *, without: Collection[int] = ()) -> None:
        """Enters a program that is about to be measured: the champion with a new edit, or without some of its edits.

        The first one is the baseline.
        """
        if not self.programs:
            self.programs[number] = Program(frozenset(), None, is_new=False)
        elif without:
            self.programs[number] = Program(self.champion - set(without), self.champion, is_new=False)
        else:
            self.programs[number] = Program(self.champion | {number}, self.champion, is_new=True)

    def observe(self, number: int, value: float, seed: int | None = None, item_variance: float = 0.0) -> None:
        """Enters the score of a run.

        Args:
          number: of the program.
          value: the metric.
          seed: of the run; runs of parent and child with equal seeds are pairs. None for one that no other has.
          item_variance: see `Program`.
        """
        program = self.programs[number]
        program.runs.append(self.sign * value)
        program.item_variance = max(program.item_variance, item_variance)
        self.num_runs += 1
        partner = math.nan
        if seed is not None:
            partner = self._by_seed.get(program.parent or frozenset(), {}).get(seed, math.nan)
            self._by_seed.setdefault(program.contents, {})[seed] = self.sign * value
        program.partners.append(partner)
        # The runs of an open edit are no part of the posterior yet; its items may be the only noise that there is.
        if not program.is_new or program.kept or item_variance > 0:
            self._posterior = None

    def conclude(self, number: int, *, kept: bool) -> None:
        """Enters what became of a program; one that was kept is the champion."""
        program = self.programs[number]
        program.kept = kept
        self._discarded += not kept
        if kept:
            self.champion = program.contents
        if kept or self._discarded >= self._learn_again * self._discarded_in_posterior:
            self._posterior = None

    def learn(self) -> None:
        """Discards the cached posterior: the next one uses everything entered, regardless of `learn_again`."""
        self._posterior = self._learnt = None

    def parent_of(self, number: int) -> frozenset[int]:
        """Contents of the program that one was made from."""
        parent = self.programs[number].parent
        assert parent is not None, "the baseline has no parent"
        return parent

    @property
    def champion_runs(self) -> list[float]:
        """The runs of the champion's program, times the sign."""
        return self.runs_of(self.champion)

    def runs_of(self, contents: frozenset[int]) -> list[float]:
        """The runs of a program, times the sign."""
        return [run for found in self.programs.values() if found.contents == contents for run in found.runs]

    @property
    def posterior(self) -> "Posterior":
        """What the runs so far say; the baseline must have one."""
        if self._posterior is None:
            data = _Data(self)
            edits = len(data.parent_N) + len(data.edits)
            if self._learnt is None or edits >= self._learn_again * self._learnt[0]:
                self._learnt = edits, _learn(data)
            self._posterior = _infer(data, self._learnt[1])
            self._discarded_in_posterior = self._discarded
        return self._posterior

    def gain_of_candidate(self, number: int) -> Gain:
        """The gain of an open program with a new edit, by its runs, its parent's score and the prior."""
        return self.posterior.gain_of_candidate(self.programs[number])

    def variance_of_run(self, number: int) -> float:
        """What a further run of an open program scatters by, in sigma squared; 0 if equal programs score equally."""
        return self.posterior.learnt.seed_share


@dataclass(frozen=True)
class _Learnt:
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


class _Data:
    """A lineage as arrays.

    R programs that are compared with: baseline, champions, champions without some edits. N discarded edits. K unknowns:
    the baseline's score and the gains of kept edits. S most runs of a program, with NaN where one has fewer.
    """

    def __init__(self, lineage: Lineage) -> None:
        self.rows: dict[frozenset[int], int] = {}
        self.edits: list[int] = []
        row_runs: list[list[float]] = []
        row_items: list[float] = []
        discarded: list[Program] = []
        first_runs: list[tuple[int, float, float]] = []  # of edits: the parent's row, the parent's run, the edit's run
        for number, program in lineage.programs.items():
            if program.is_new and program.runs and program.kept is not None:
                assert program.parent is not None
                first_runs.append((self.rows[program.parent], program.partners[0], program.runs[0]))
            if program.is_new and not program.kept:
                if program.kept is False and program.runs:
                    discarded.append(program)
                continue
            if program.is_new:
                self.edits.append(number)
            row = self.rows.setdefault(program.contents, len(self.rows))
            if row == len(row_runs):
                row_runs.append([])
                row_items.append(program.item_variance)
            row_runs[row].extend(program.runs)
        column = {number: place for place, number in enumerate(self.edits, start=1)}
        self.design_RxK = np.zeros((len(self.rows), 1 + len(self.edits)))  # the first column is the baseline's score
        self.design_RxK[:, 0] = 1
        for contents, row in self.rows.items():
            self.design_RxK[row, [column[number] for number in contents]] = 1
        self.runs_RxS = _padded(row_runs)
        self.items_R = np.array(row_items)
        self.runs_NxS = _padded([program.runs for program in discarded])
        self.items_N = np.array([program.item_variance for program in discarded])
        self.items = [found.item_variance for found in lineage.programs.values() if found.item_variance > 0]
        self.parent_N = np.array([self.rows[program.parent or frozenset()] for program in discarded], dtype=np.int64)
        self.partners_NxS = _padded([program.partners for program in discarded])
        self.first_runs = [found for found in first_runs if not math.isnan(found[1])]

    @property
    def guess(self) -> float:
        """A first guess of sigma, from the size of the baseline's score."""
        return _FIRST_SIGMA * abs(float(self.runs_RxS[0, 0]))


def _padded(groups: Sequence[Sequence[float]]) -> Floats:
    padded = np.full((len(groups), max(map(len, groups), default=1)), np.nan)
    for row, group in enumerate(groups):
        padded[row, : len(group)] = group
    return padded


def _learn(data: _Data) -> _Learnt:
    """Sigma, the correlation of seeds and the prior of gains, by steps of expectation maximisation."""
    sigma = sigma_of_replicates((data.runs_RxS, data.runs_NxS), data.guess, _FIRST_DEGREES)
    if sigma == 0:
        of_items = math.sqrt(float(np.median(data.items))) if data.items else 0.0
        learnt = _Learnt(of_items, 0.0, 0.0, FIRST_PRIOR)
        if of_items == 0:
            return learnt
    else:
        learnt = _Learnt(sigma, 1.0, correlation_of_seeds(data.first_runs, sigma), FIRST_PRIOR)
    for _ in range(_ROUNDS):
        found = _infer(data, learnt)
        prior = learn(learnt.prior, found.likelihood_NxG)
        sigma = _sigma_again(data, found) if learnt.seed_share else learnt.sigma
        learnt = _Learnt(sigma, learnt.seed_share, learnt.correlation, prior)
    return learnt


def _sigma_again(data: _Data, found: "Posterior") -> float:
    """Sigma from how far runs are from what the posterior says of their programs, over programs with several."""
    sigma, squares, degrees = found.learnt.sigma, 0.0, 0.0
    rows_R = found.design_RxK @ found.mean_K, found.variances_R
    for runs, (means, variances) in ((data.runs_RxS, rows_R), (data.runs_NxS, found.discarded_N)):
        several = (~np.isnan(runs)).sum(axis=1) > 1
        if several.any():
            _, _, weights = robust_means(runs[several], sigma)
            centre = found.origin + sigma * means[several, None]
            distances = np.where(weights > 0, runs[several] - centre, 0.0)
            squares += float((weights * (distances**2 + sigma**2 * variances[several, None])).sum())
            degrees += float((weights > 0).sum())
    if squares == 0:
        return sigma
    if data.guess > 0:
        squares += _FIRST_DEGREES * min(data.guess, plausible_sigma(squares, degrees)) ** 2
        degrees += _FIRST_DEGREES
    return math.sqrt(squares / degrees)


@dataclass(frozen=True)
class Posterior:
    """What the runs of a lineage say. Arrays are in sigma, scores less `origin`; more is better.

    Attributes:
      learnt: see there.
      origin: in the metric's unit, times the sign.
      edits: numbers of the experiments whose gains are unknown, in the order of the columns after the first.
      design_RxK: programs that others are compared with, as sums of unknowns.
      variances_R: of their scores.
      mean_K: of the unknowns: the baseline's score, then gains.
      covariance_KxK: likewise.
      cavity: mean and precision of each kept edit's gain without its prior.
      likelihood_NxG: of the runs of each edit, discarded ones and then kept ones, for each gain of the grid.
      discarded_N: means and variances of the scores of discarded programs.
    """

    learnt: _Learnt
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
        return Estimate(self.origin + self._unit * mean, self._unit * math.sqrt(variance))

    def variance(self, contents: Collection[int]) -> float:
        """Of a program's true score, in sigma squared."""
        return self._moments(self._sum_of(contents, with_baseline=True))[1]

    def gain_of(self, edits: Collection[int]) -> Estimate:
        """What kept edits gain together."""
        mean, variance = self._moments(self._sum_of(edits, with_baseline=False))
        return Estimate(self._unit * mean, self._unit * math.sqrt(variance))

    def _sum_of(self, edits: Iterable[int], *, with_baseline: bool) -> Floats:
        x_K = np.zeros(1 + len(self.edits))
        x_K[0] = with_baseline
        x_K[[1 + self.edits.index(number) for number in edits]] = 1
        return x_K

    def _moments(self, x_K: Floats) -> tuple[float, float]:
        return float(x_K @ self.mean_K), max(float(x_K @ self.covariance_KxK @ x_K), 0.0)

    @cached_property
    def gains(self) -> dict[int, Gain]:
        """The gain of each kept edit by itself, from all runs and the prior."""
        mean_K, precision_K = self.cavity
        weights_KxG = _normalised(self.learnt.prior.gains_G * _normal(mean_K, precision_K))
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
            log_PxG = log_PxG + np.log(_density(run - centre_PxG, float(of_run)) + FAULTY)
        weights_G = np.exp(log_PxG - np.max(log_PxG)).sum(axis=0)
        return Gain(weights_G / weights_G.sum(), means_G, variances_G, self._unit)


def _normalised(weights_NxG: Floats) -> Floats:
    found: Floats = weights_NxG / weights_NxG.sum(axis=1, keepdims=True)
    return found


def _normal(mean_N: Floats, precision_N: Floats) -> Floats:
    """Density of normal variables at the cells of the grid, up to a factor; a mean beyond the grid is at its end."""
    clipped_N = np.clip(mean_N, GRID[0], GRID[-1])
    variance_NxG = 1 / precision_N[:, None] + CELLS_G
    found: Floats = np.exp(-0.5 * (clipped_N[:, None] - GRID) ** 2 / variance_NxG) / np.sqrt(variance_NxG)
    return found


def _moments(weights_NxG: Floats, means_NxG: Floats, variances_NxG: Floats) -> tuple[Floats, Floats]:
    """Means and variances of mixtures."""
    mean_N = (weights_NxG * means_NxG).sum(axis=1)
    return mean_N, (weights_NxG * (variances_NxG + means_NxG**2)).sum(axis=1) - mean_N**2


def _density(distance: Floats, variance: Floats | float) -> Floats:
    """Density of the mean of runs at a distance from the truth, up to a factor, in sigma; wild runs scatter more."""
    wide = variance + WILD_VARIANCE - 1
    usual = (1 - WILD) * np.exp(-0.5 * distance**2 / variance) / np.sqrt(variance)
    found: Floats = usual + WILD * np.exp(-0.5 * distance**2 / wide) / np.sqrt(wide)
    return found


def _infer(data: _Data, learnt: _Learnt) -> Posterior:
    """The posterior for a sigma and a prior."""
    if learnt.sigma == 0:
        return _exact(data, learnt)
    return _Inference(data, learnt).run()


def _exact(data: _Data, learnt: _Learnt) -> Posterior:
    """Without noise a program's score is that of any of its runs."""
    design_RxK = data.design_RxK
    scores_R = np.nan_to_num(data.runs_RxS[:, 0])
    measured_R = ~np.isnan(data.runs_RxS[:, 0])
    origin = float(scores_R[0])
    mean_K = np.linalg.lstsq(design_RxK[measured_R], scores_R[measured_R] - origin, rcond=None)[0]
    num_unknowns = design_RxK.shape[1]
    nothing_K = np.full(num_unknowns - 1, 1 / _LEAST_VARIANCE)
    # any gain is as certain as one of several sigma, and a difference of rounding is none
    clear_K = 4.0 * np.sign(np.where(np.isclose(mean_K[1:], 0, atol=1e-12), 0.0, mean_K[1:]))
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

    def __init__(self, data: _Data, learnt: _Learnt) -> None:
        self._data, self._learnt = data, learnt
        sigma, seeds = learnt.sigma, learnt.seed_share
        means_R, runs_R, _ = robust_means(data.runs_RxS, sigma)
        means_N, runs_N, _ = robust_means(data.runs_NxS, sigma)
        self._origin = float(means_R[0])
        self._means_R = (means_R - self._origin) / sigma
        self._means_N = (means_N - self._origin) / sigma
        with np.errstate(divide="ignore"):
            self._precisions_R = 1 / (seeds / runs_R + data.items_R / sigma**2) if runs_R.size else runs_R
            self._variances_N = seeds / runs_N + data.items_N / sigma**2
        self._precisions_R[~np.isfinite(self._precisions_R)] = 1e12  # of a baseline whose score has no noise
        self._means_R[runs_R == 0], self._precisions_R[runs_R == 0] = 0.0, 0.0
        if learnt.correlation and len(data.parent_N):
            luck_NxS = (data.partners_NxS - self._origin) / sigma - self._means_R[data.parent_N, None]
            paired_N = (~np.isnan(luck_NxS)).sum(axis=1) / (~np.isnan(data.runs_NxS)).sum(axis=1)
            self._means_N -= learnt.correlation * np.nansum(luck_NxS, axis=1) / (~np.isnan(data.runs_NxS)).sum(axis=1)
            self._variances_N *= 1 - learnt.correlation**2 * paired_N
        mean, variance = learnt.prior.moments
        self._gain_precision_K = np.full(len(data.edits), 1 / variance)  # of the factors; shifts are precision x mean
        self._gain_shift_K = max(0.0, mean) * self._gain_precision_K
        self._from_edits_R = np.zeros((2, len(data.rows)))  # precisions and shifts that discarded edits add

    def run(self) -> Posterior:
        """The posterior after the last round."""
        self._solve()
        for _ in range(_ROUNDS):
            self._match_discarded()
            self._match_kept()
            self._solve()
        mean_K, precision_K = self._cavity
        kept_KxG = _normal(mean_K, precision_K)
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
        diagonal = np.arange(1, len(precision_KxK))
        precision_KxK[0, 0] += _FLAT
        precision_KxK[diagonal, diagonal] += self._gain_precision_K
        shift_K = design_RxK.T @ shift_R
        shift_K[1:] += self._gain_shift_K
        self._covariance_KxK = np.linalg.inv(precision_KxK)
        self._mean_K = self._covariance_KxK @ shift_K
        self._variances_R = np.einsum("rk,rk->r", design_RxK @ self._covariance_KxK, design_RxK)
        gain_variance_K = np.diag(self._covariance_KxK)[1:]
        precision_K = np.maximum(1 / gain_variance_K - self._gain_precision_K, _LEAST_PRECISION)
        self._cavity = (self._mean_K[1:] / gain_variance_K - self._gain_shift_K) / precision_K, precision_K
        scores_R = design_RxK @ self._mean_K
        self._parent_N = scores_R[self._data.parent_N], self._variances_R[self._data.parent_N]
        self._total_N = self._variances_N + self._parent_N[1]
        distance_N = np.clip(self._means_N - self._parent_N[0], GRID[0], GRID[-1])
        self._distance_N = distance_N
        self._likelihood_NxG = _density(distance_N[:, None] - GRID, self._total_N[:, None] + CELLS_G)

    def _match_discarded(self) -> None:
        """What each discarded edit says of its parent's score, as a normal factor."""
        weights_NxG = _normalised(self._likelihood_NxG * self._learnt.prior.gains_G)
        gain_N, gain_variance_N = _moments(weights_NxG, GRID, CELLS_G)
        mean_N, variance_N = self._parent_N
        share_N = variance_N / self._total_N
        matched_N = mean_N + share_N * (self._distance_N - gain_N)
        matched_variance_N = variance_N * (1 - share_N) + share_N**2 * gain_variance_N
        within_N = (self._distance_N > GRID[0]) & (self._distance_N < GRID[-1])  # a crash says nothing of its parent
        precision_N = np.where(within_N, np.maximum(1 / matched_variance_N - 1 / variance_N, 0.0), 0.0)
        shift_N = np.where(precision_N > 0, matched_N / matched_variance_N - mean_N / variance_N, 0.0)
        rows, parent_N = len(self._data.rows), self._data.parent_N
        precision_R = np.bincount(parent_N, precision_N, rows)
        trust_R = 1 / (1 + _SIBLINGS_SIGMA**2 * precision_R)
        self._from_edits_R = np.array([precision_R * trust_R, np.bincount(parent_N, shift_N, rows) * trust_R])

    def _match_kept(self) -> None:
        """The prior of each kept edit's gain, as a normal factor."""
        mean_K, precision_K = self._cavity
        weights_KxG = _normalised(self._learnt.prior.gains_G * _normal(mean_K, precision_K))
        matched_K, variance_K = _moments(weights_KxG, *gain_within_cells(mean_K, 1 / precision_K))
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
        weights_NxG = _normalised(self._likelihood_NxG * self._learnt.prior.gains_G)
        beyond_N = self._means_N - mean_N - self._distance_N  # of what lies beyond the grid
        centre_NxG = (mean_N + beyond_N)[:, None] + GRID
        share_N = variance_N / self._total_N  # of the distance that is the parent's error
        score_NxG = centre_NxG + share_N[:, None] * (self._means_N[:, None] - centre_NxG)
        score_N = (weights_NxG * score_NxG).sum(axis=1)
        spread_N = (weights_NxG * score_NxG**2).sum(axis=1) - score_N**2
        return score_N, spread_N + variance_N * (1 - share_N)
