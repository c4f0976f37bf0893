"""A Gaussian process over settings of the constants: what score to expect of one, and how surely.

Scores are standardised and lower is better; settings are numbers as `optuna_axes` writes them.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

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
class Model:
    """Matern 5/2 with a length scale for each constant.

    Attributes:
      settings_NxD: what was measured.
      is_choice_D: constants without an order: two different values are at distance 1.
      rates_D: inverse squares of the length scales.
      variance: of the function.
      factor_NxN: lower Cholesky factor of the settings' covariance with noise.
      weights_N: the covariance's inverse times the scores.
    """

    settings_NxD: Array
    is_choice_D: Mask
    rates_D: Array
    variance: float
    factor_NxN: Array
    weights_N: Array

    def predict(self, settings_MxD: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, float64[M] each, of the score without the noise of a run."""
        squares_DxMxN = _squares(settings_MxD, self.settings_NxD, self.is_choice_D)
        k_MxN = self.variance * _matern(np.tensordot(self.rates_D, squares_DxMxN, 1))
        half_NxM = solve_triangular(self.factor_NxN, k_MxN.T, lower=True)
        variances_M = self.variance - np.square(half_NxM).sum(0)
        return k_MxN @ self.weights_N, np.sqrt(np.maximum(variances_M, JITTER * self.variance))


def fit_model(settings_NxD: Array, scores_N: Array, is_choice_D: Mask) -> Model:
    """The most probable model.

    Args:
      settings_NxD: what was measured.
      scores_N: standardised.
      is_choice_D: constants without an order.
    """
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
    rates_D, variance = np.exp(-2 * p[:-2]), float(np.exp(p[-2]))
    k_NxN = variance * _matern(np.tensordot(rates_D, squares_DxNxN, 1))
    factor_NxN = cholesky(k_NxN + (np.exp(p[-1]) + JITTER) * identity_NxN, lower=True)
    weights_N = cho_solve((factor_NxN, True), scores_N)
    return Model(settings_NxD, is_choice_D, rates_D, variance, factor_NxN, weights_N)


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
