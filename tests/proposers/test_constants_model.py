"""The Gaussian process over settings, and what it makes of a prediction."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from autoresearch_jax.proposers.constants_model import fit_model, log_expected_improvement

RNG = np.random.default_rng(0)
SETTINGS_NxD = np.column_stack([RNG.random((40, 3)), RNG.integers(0, 3, 40)])
IS_CHOICE_D = np.array([False, False, False, True])


def truth(settings_MxD):
    """The second number and the choice matter, the others do not."""
    return np.sin(5 * settings_MxD[:, 1]) + (settings_MxD[:, 3] == 1)


@pytest.fixture(scope="module")
def model():
    return fit_model(SETTINGS_NxD, truth(SETTINGS_NxD), IS_CHOICE_D)


def test_it_predicts_what_it_has_not_seen(model):
    new_MxD = np.column_stack([RNG.random((200, 3)), RNG.integers(0, 3, 200)])
    mean_M, deviation_M = model.predict(new_MxD)
    errors_M = mean_M - truth(new_MxD)
    assert np.std(errors_M) < 0.2 * np.std(truth(new_MxD))
    assert np.mean(np.abs(errors_M) < 3 * deviation_M) > 0.9


def test_it_knows_what_it_has_measured_and_that_it_knows_little_elsewhere(model):
    mean_N, deviation_N = model.predict(SETTINGS_NxD)
    np.testing.assert_allclose(mean_N, truth(SETTINGS_NxD), atol=0.1)
    _, far_1 = model.predict(np.array([[0.5, 3.0, 0.5, 0.0]]))
    assert far_1[0] > 5 * deviation_N.max()


def test_it_finds_out_which_constants_matter(model):
    assert model.rates_D[1] > 3 * max(model.rates_D[0], model.rates_D[2])


def test_choices_have_no_order():
    choices_Nx1 = np.array([[0.0], [1.0], [2.0]] * 4)
    model = fit_model(choices_Nx1, np.array([1.0, -2.0, 1.0] * 4), np.array([True]))
    mean_3, deviation_3 = model.predict(np.array([[0.0], [2.0], [7.0]]))
    assert mean_3[0] == pytest.approx(mean_3[1])
    assert deviation_3[2] > deviation_3[0], "one that was never seen is as far from each"


def test_equal_settings_with_different_scores_are_noise():
    model = fit_model(np.full((6, 1), 0.3), np.array([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]), np.array([False]))
    mean_1, _ = model.predict(np.array([[0.3]]))
    assert mean_1[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("z", [-30.0, -8.0, -5.1, -4.9, 0.0, 3.0])
def test_the_expected_improvement_is_the_integral(z):
    deviation, than = 0.2, 0.7
    mean = than - z * deviation
    low = than if z < 0 else than + 0.0
    # of e**shift times the integrand, or there would be nothing left of it in the tail
    shift = 0.5 * min(z, 0) ** 2
    integral, _ = quad(
        lambda t: t * np.exp(norm.logpdf(low - t, mean, deviation) + shift), 0, 40 * deviation, points=[0.01, 0.1, 1.0]
    )
    value = log_expected_improvement(np.array([mean]), np.array([deviation]), than)[0]
    assert value == pytest.approx(np.log(integral) - shift, abs=0.12 if z < -5 else 1e-6)
