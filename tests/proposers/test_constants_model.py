"""What is known of the constants: trials of a history, settings as numbers, the Gaussian process over them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from autoresearch_jax.proposers.base import PastExperiment
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.proposers.constants_model import (
    BEST,
    FURTHEST,
    NEWEST,
    UNKNOWN,
    Axis,
    TriedSetting,
    find_trials,
    fit_model,
    log_expected_improvement,
    standardise,
)
from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, IntRange
from autoresearch_jax.types import Metric, Status

RNG = np.random.default_rng(0)
LOG = Constant("LR", FloatRange(0.01, 1.0, log=True))
RANGES = [
    LOG,
    Constant("DECAY", FloatRange(0.0, 0.4)),
    Constant("TEMPERATURE", FloatRange(-2.0, 2.0)),
    Constant("NARROW", FloatRange(0.999, 0.9999)),
    Constant("POINT", FloatRange(0.5, 0.5)),
    Constant("DEPTH", IntRange(2, 8)),
    Constant("BATCH", IntRange(1, 1000, log=True)),
    Constant("PATTERN", Choices(("SL", True, 1, 1.0))),
]


@pytest.mark.parametrize("constant", RANGES, ids=lambda constant: constant.name)
def test_every_place_that_is_drawn_is_a_value_of_the_table(constant):
    axis = Axis(constant)
    drawn_N = axis.draw(RNG, 200)
    for place in [*drawn_N, *axis.near(drawn_N, RNG.normal(size=200)), *axis.near(drawn_N, np.full(200, 9.0))]:
        value = axis.decode(place)
        assert constant.values.contains(value)
        assert type(value) in (int, float, str, bool), "not one of NumPy's, which no source can spell"
        assert constant.name == "POINT" or axis.encode(value) == pytest.approx(place, abs=0.006)


def test_choices_are_told_apart_as_a_program_does():
    axis = Axis(RANGES[-1])
    assert [axis.encode(value) for value in ("SL", True, 1, 1.0, "L")] == [0, 1, 2, 3, UNKNOWN]
    assert list(axis.near(np.array([1.0, 2.0]), np.array([0.3, 0.3]))) == [1, 2]


def test_values_from_before_the_table_changed():
    axis = Axis(LOG)
    assert axis.encode(2.0) == pytest.approx(1.15, abs=0.01)
    assert axis.encode(1e9) == 1 + FURTHEST
    assert [axis.encode(value) for value in (0.0, -1, "fast", True, (0.1, 0.2), None)] == [None] * 6


# What of a history says something about the constants.

LOSS, ACCURACY = Metric("loss"), Metric("accuracy", "maximize")


def outcome(
    number: int,
    score: float | None,
    kept: bool = False,
    category: str = "constants",
    proposer: str = ConstantsProposer.name,
) -> PastExperiment:
    status = Status.CRASH if score is None else Status.OK
    return PastExperiment(number, proposer, "", category, {"LR": number}, status, score, kept, "")


def losses(*history: PastExperiment, metric: Metric = LOSS) -> dict[int, float | None]:
    return {trial.experiment: trial.loss for trial in find_trials(history, metric)}


def test_lower_is_better_whatever_the_metric():
    history = (outcome(0, 0.5, True, ""), outcome(1, 0.7, True), outcome(2, None))
    assert losses(*history) == {0: 0.5, 1: 0.7, 2: None}
    assert losses(*history, metric=ACCURACY) == {0: -0.5, 1: -0.7, 2: None}


def test_what_was_not_worth_its_price_is_as_much_worse():
    dear = replace(outcome(1, 0.4), price=0.3)
    assert losses(outcome(0, 0.5, True, ""), dear) == pytest.approx({0: 0.5, 1: 0.7})
    assert losses(outcome(0, 0.5, True, ""), dear, metric=ACCURACY) == pytest.approx({0: -0.5, 1: -0.1})


def test_other_structures_say_nothing_and_what_one_gained_is_taken_off_before():
    history = (
        outcome(0, 2.0, True, ""),
        outcome(1, 2.3),
        outcome(2, 1.2, False, "attention"),  # a simplification, say, that was refused
        outcome(3, 1.9, True),
        outcome(4, 1.5, True, "optimizer"),
        outcome(5, 1.6),
        outcome(6, None, False, "attention"),
        outcome(7, 1.4, True, "schedule"),
        outcome(8, 1.45),
    )
    found = losses(*history)
    assert found == pytest.approx({0: 1.5, 1: 1.8, 3: 1.4, 4: 1.4, 5: 1.5, 7: 1.4, 8: 1.45})
    assert list(found) == sorted(found)
    upside_down = [outcome(o.experiment, None if o.score is None else -o.score, o.kept, o.category) for o in history]
    assert losses(*upside_down, metric=ACCURACY) == pytest.approx(found)


def test_an_agents_change_is_of_structure_whatever_it_is_called():
    history = (
        outcome(0, 2.0, True, ""),
        outcome(1, 2.3),
        outcome(2, 1.5, True, "constants", "command"),
        outcome(3, 1.4, False, "constants", "command"),
    )
    assert losses(*history) == pytest.approx({0: 1.5, 1: 1.8, 2: 1.5})


def test_of_a_long_history_the_newest_and_the_best_count():
    count = 3 * (NEWEST + BEST)
    early = range(5, 5 + BEST)
    history = [outcome(n, 1.0 if n in early else 2.0 + n, n == 0) for n in range(count)]
    assert list(losses(*history)) == [*early, *range(count - NEWEST, count)]


def tried(*values: float | None) -> list[TriedSetting]:
    return [TriedSetting(n, {}, value) for n, value in enumerate(values)]


def test_good_scores_keep_their_distances_and_bad_ones_are_drawn_closer():
    scaled = standardise(tried(1.0, 1.1, 1.2, 9.0, 1e6))
    assert scaled.mean() == pytest.approx(0)
    assert scaled.std() == pytest.approx(1)
    assert list(np.argsort(scaled)) == [0, 1, 2, 3, 4]
    assert scaled[2] - scaled[1] == pytest.approx(scaled[1] - scaled[0])
    assert scaled[4] - scaled[2] < 20 * (scaled[2] - scaled[0])


def test_what_was_stopped_early_is_bad_but_not_as_bad_as_a_crash():
    known = [outcome(n, float(n), n == 1) for n in range(1, 9)]
    stopped = replace(outcome(9, None), status=Status.PRUNED)
    twin = replace(outcome(10, None), status=Status.DUPLICATE)
    losses_N = standardise(find_trials([*known, stopped, twin, outcome(11, None)], LOSS))
    assert losses_N[6 - 1] < losses_N[8] == losses_N[9] < losses_N[7 - 1] < losses_N[10] == losses_N[8 - 1]


# The Gaussian process.

MODEL_RNG = np.random.default_rng(0)
SETTINGS_NxD = np.column_stack([MODEL_RNG.random((40, 3)), MODEL_RNG.integers(0, 3, 40)])
IS_CHOICE_D = np.array([False, False, False, True])


def truth(settings_MxD):
    """The second number and the choice matter, the others do not."""
    return np.sin(5 * settings_MxD[:, 1]) + (settings_MxD[:, 3] == 1)


@pytest.fixture(scope="module")
def model():
    return fit_model(SETTINGS_NxD, truth(SETTINGS_NxD), IS_CHOICE_D)


def test_it_predicts_what_it_has_not_seen(model):
    new_MxD = np.column_stack([MODEL_RNG.random((200, 3)), MODEL_RNG.integers(0, 3, 200)])
    mean_M, deviation_M = model.predict(new_MxD)
    errors_M = mean_M - truth(new_MxD)
    assert np.std(errors_M) < 0.2 * np.std(truth(new_MxD))
    assert np.mean(np.abs(errors_M) < 3 * deviation_M) > 0.9


def test_it_knows_what_it_has_measured_and_that_it_knows_little_elsewhere(model):
    mean_N, deviation_N = model.predict(SETTINGS_NxD)
    np.testing.assert_allclose(mean_N, truth(SETTINGS_NxD), atol=0.1)
    _, far_1 = model.predict(np.array([[0.5, 3.0, 0.5, 0.0]]))
    assert far_1[0] > 5 * deviation_N.max()


def test_to_believe_its_own_means_changes_none_and_leaves_less_doubt(model):
    new_MxD = np.column_stack([MODEL_RNG.random((50, 3)), MODEL_RNG.integers(0, 3, 50)])
    mean_M, deviation_M = model.predict(new_MxD)
    after_M, left_M = model.believing(new_MxD[:5]).predict(new_MxD)
    np.testing.assert_allclose(after_M, mean_M)
    assert (left_M < deviation_M + 1e-9).all()
    assert left_M[:5].max() < 0.1 * deviation_M.max()


@pytest.mark.parametrize("z", [-30.0, -5.1, -4.9, 3.0])
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
