"""What is known of the constants: the trials of a history, settings as numbers, and a Gaussian process over them.

Scores are standardised and lower is better; settings are numbers as `Axis` writes them.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

from autoresearch_jax.proposers.base import Constants, PastExperiment, moves_constants_alone
from autoresearch_jax.proposers.space import Choices, Constant, IntRange, Value, same
from autoresearch_jax.types import Metric, Status

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

HALF_BAD = 0.75  # of the losses that are known, as many are below that of a trial that was stopped early
NEWEST, BEST = 120, 60  # experiments that count of a longer history; the time of a proposal grows with their number
UNKNOWN = -1.0  # place of a choice that is not in the table
FURTHEST = 1.0  # how far outside of its range a value may lie, in widths of the range; the human has narrowed it
SIGNIFICANT_DIGITS = 3  # finer steps drown in the noise of a trial, and 0.028 reads better than 0.0279834
# Priors are log-normal: mean and standard deviation of the logarithm. Length scales are in widths of a range and grow
# with the root of their number, as in arXiv 2402.02229, or a model of many constants would expect nothing of any.
LENGTH_MEAN, LENGTH_SPREAD = -0.6, 0.6
VARIANCE_MEAN, VARIANCE_SPREAD = 0.0, 1.0
# Of the noise's variance. It is small on purpose: told how noisy scores are, searches of noisy problems came out worse,
# because a model that smooths more sees promise everywhere.
NOISE_MEAN, NOISE_SPREAD = math.log(1e-4), 2.0
FIT_ITERATIONS = 40  # of L-BFGS; more change the fit in the third digit
JITTER = 1e-6  # keeps settings that are nearly equal from making the matrix singular
FAR_TAIL = -5.0  # standard deviations below which 1 - 1 of floats would be what is left of an improvement


@dataclass(frozen=True)
class TriedSetting:
    """A setting of the constants."""

    experiment: int  # its number
    constants: Constants  # all of the source's
    # its score as the champion's structure would have it, turned so that lower is better; None if it failed
    loss: float | None
    # it has none because it was stopped early: surely no better than the champion, but it trains
    is_pruned: bool = False


def find_trials(history: Sequence[PastExperiment], metric: Metric) -> list[TriedSetting]:
    """The latest and the best trials, the oldest first.

    An experiment that may have changed more than constants says nothing of them. If it was kept, what it gained is
    taken off the scores before it: the constants are assumed to matter as much as they did.
    """
    sign = 1.0 if metric.direction == "minimize" else -1.0
    trials: list[TriedSetting] = []
    level: float | None = None  # the champion's loss at that time
    gained = 0.0  # by changes of structure so far
    for outcome in history:
        loss = None if outcome.score is None else sign * outcome.score + outcome.price
        is_structure = level is not None and not moves_constants_alone(outcome)
        kept = outcome.kept and loss is not None
        if is_structure and kept:
            assert loss is not None
            assert level is not None
            gained += level - loss
        if kept or not is_structure:
            is_pruned = loss is None and outcome.status in (Status.PRUNED, Status.DUPLICATE)  # or a twin of such
            level_loss = None if loss is None else loss + gained
            trials.append(TriedSetting(outcome.experiment, outcome.constants, level_loss, is_pruned))
        if kept:
            level = loss
    at_present = [trial if trial.loss is None else replace(trial, loss=trial.loss - gained) for trial in trials]
    return _most_telling(at_present)


def standardise(trials: Sequence[TriedSetting]) -> NDArray[np.float64]:
    """Losses with mean 0 and deviation 1 for a model that is to be exact about good settings only.

    Losses above the median are drawn closer, failures are as bad as the worst, and what was stopped early is as bad as
    the middle one of the worse half.
    """
    known = np.array([trial.loss for trial in trials if trial.loss is not None])
    best, worst = float(known.min()), float(known.max())
    unknown = {True: float(np.quantile(known, HALF_BAD)), False: worst}  # by whether it was stopped early
    losses_N = np.array([unknown[trial.is_pruned] if trial.loss is None else trial.loss for trial in trials])
    unit = float(np.median(losses_N)) - best or worst - best or 1.0
    losses_N = (losses_N - best) / unit
    losses_N = np.where(losses_N > 1, 1 + np.log(np.maximum(losses_N, 1)), losses_N)
    return (losses_N - losses_N.mean()) / (float(losses_N.std()) or 1.0)


def _most_telling(trials: Sequence[TriedSetting]) -> list[TriedSetting]:
    if len(trials) <= NEWEST + BEST:
        return list(trials)
    older, newest = trials[:-NEWEST], trials[-NEWEST:]
    scored = [(trial.loss, -trial.experiment, trial) for trial in older if trial.loss is not None]
    best = [trial for _, _, trial in heapq.nsmallest(BEST, scored, key=lambda entry: entry[:2])]
    return [*sorted(best, key=lambda trial: trial.experiment), *newest]


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


@dataclass(frozen=True)
class Model:
    """Matern 5/2 with a length scale for each constant."""

    settings_NxD: Array  # what was measured
    is_choice_D: Mask  # constants without an order: two different values are at distance 1
    rates_D: Array  # inverse squares of the length scales
    variance: float  # of the function
    noise_variance: float  # of a run
    factor_NxN: Array  # lower Cholesky factor of the settings' covariance with noise
    weights_N: Array  # the covariance's inverse times the scores

    def predict(self, settings_MxD: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, float64[M] each, of the score without the noise of a run."""
        k_MxN = self._covariance(settings_MxD, self.settings_NxD)
        half_NxM = solve_triangular(self.factor_NxN, k_MxN.T, lower=True)
        variances_M = self.variance - np.square(half_NxM).sum(0)
        return k_MxN @ self.weights_N, np.sqrt(np.maximum(variances_M, JITTER * self.variance))

    def believing(self, settings_KxD: Array) -> "Model":
        """The model as if these had been measured, too, each with the mean that it predicts.

        Means stay as they are everywhere, so the new weights are 0; deviations get smaller near these settings.
        """
        settings_NxD = np.concatenate([self.settings_NxD, settings_KxD])
        k_NxN = self._covariance(settings_NxD, settings_NxD)
        factor_NxN = cholesky(k_NxN + (self.noise_variance + JITTER) * np.eye(len(settings_NxD)), lower=True)
        weights_N = np.concatenate([self.weights_N, np.zeros(len(settings_KxD))])
        return replace(self, settings_NxD=settings_NxD, factor_NxN=factor_NxN, weights_N=weights_N)

    def _covariance(self, a_MxD: Array, b_NxD: Array) -> Array:
        squares_DxMxN = _squares(a_MxD, b_NxD, self.is_choice_D)
        return self.variance * _matern(np.tensordot(self.rates_D, squares_DxMxN, 1))


def fit_model(settings_NxD: Array, scores_N: Array, is_choice_D: Mask) -> Model:
    """The most probable model."""
    squares_DxNxN = _squares(settings_NxD, settings_NxD, is_choice_D)
    identity_NxN = np.eye(len(scores_N))
    num_constants = len(is_choice_D)
    length_mean = LENGTH_MEAN + 0.5 * np.log(num_constants)
    # p: logarithms of the length scales, of the variance, and of the noise's variance
    mean_P = np.array([*[length_mean] * num_constants, VARIANCE_MEAN, NOISE_MEAN])
    spread_P = np.array([*[LENGTH_SPREAD] * num_constants, VARIANCE_SPREAD, NOISE_SPREAD])

    def loss_and_gradient(p: Array) -> tuple[float, Array]:
        rates_D, variance, noise_variance = np.exp(-2 * p[:-2]), np.exp(p[-2]), np.exp(p[-1])
        squares_NxN = np.tensordot(rates_D, squares_DxNxN, 1)
        k_NxN = variance * _matern(squares_NxN)
        factor = cho_factor(k_NxN + (noise_variance + JITTER) * identity_NxN, lower=True)
        weights_N = cho_solve(factor, scores_N)
        z_P = (p - mean_P) / spread_P
        loss = 0.5 * scores_N @ weights_N + np.log(np.diag(factor[0])).sum() + 0.5 * z_P @ z_P
        slope_NxN = 0.5 * (cho_solve(factor, identity_NxN) - np.outer(weights_N, weights_N))  # d loss / d covariance
        root_NxN = np.sqrt(5 * squares_NxN)
        by_square_NxN = slope_NxN * variance * (-5 / 6) * (1 + root_NxN) * np.exp(-root_NxN)
        gradient_P = z_P / spread_P
        gradient_P[:-2] += -2 * rates_D * np.tensordot(squares_DxNxN, by_square_NxN, 2)
        gradient_P[-2] += np.sum(slope_NxN * k_NxN)
        gradient_P[-1] += np.trace(slope_NxN) * noise_variance
        return float(loss), gradient_P

    bounds = np.stack([mean_P - 3 * spread_P, mean_P + 3 * spread_P], axis=1)
    try:
        p = minimize(
            loss_and_gradient, mean_P, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": FIT_ITERATIONS}
        ).x
    except LinAlgError:  # a step to where the matrix is singular in floats
        p = mean_P
    rates_D, variance, noise_variance = np.exp(-2 * p[:-2]), float(np.exp(p[-2])), float(np.exp(p[-1]))
    k_NxN = variance * _matern(np.tensordot(rates_D, squares_DxNxN, 1))
    factor_NxN = cholesky(k_NxN + (noise_variance + JITTER) * identity_NxN, lower=True)
    weights_N = cho_solve((factor_NxN, True), scores_N)
    return Model(settings_NxD, is_choice_D, rates_D, variance, noise_variance, factor_NxN, weights_N)


def log_expected_improvement(mean_M: Array, deviation_M: Array, than: float) -> Array:
    """Logarithm of how far below `than` a score is expected to fall, scores above it counted as no fall."""
    z_M = (than - mean_M) / deviation_M
    near_M = np.maximum(z_M, FAR_TAIL)
    density_M = np.exp(-0.5 * near_M**2) / np.sqrt(2 * np.pi)
    tail_M = np.minimum(z_M, FAR_TAIL)
    far_M = -0.5 * tail_M**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(-tail_M)  # the leading term
    return np.log(deviation_M) + np.where(z_M > FAR_TAIL, np.log(near_M * ndtr(near_M) + density_M), far_M)


def _squares(a_MxD: Array, b_NxD: Array, is_choice_D: Mask) -> Array:
    """Squared distances along each constant: float64[D, M, N]."""
    steps_DxMxN = a_MxD.T[:, :, None] - b_NxD.T[:, None, :]
    return np.where(is_choice_D[:, None, None], steps_DxMxN != 0, np.square(steps_DxMxN))


def _matern(squares: Array) -> Array:
    root = np.sqrt(5 * squares)
    return (1 + root + root**2 / 3) * np.exp(-root)
