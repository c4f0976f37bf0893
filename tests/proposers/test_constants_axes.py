"""Constants as numbers, and back."""

import numpy as np
import pytest

from autoresearch_jax.proposers.constants_model import FURTHEST, UNKNOWN, Axis
from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, IntRange

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


def test_places_are_even_over_magnitudes():
    axis = Axis(LOG)
    assert [axis.encode(value) for value in (0.01, 0.1, 1.0)] == pytest.approx([0, 0.5, 1])
    assert axis.decode(0.25) == 0.0316, "three digits"


def test_whole_numbers_stay_whole():
    axis = Axis(Constant("DEPTH", IntRange(2, 8)))
    assert sorted(set(axis.draw(RNG, 500))) == pytest.approx([i / 6 for i in range(7)])
    assert axis.near(np.array([0.5]), np.array([0.1]))[0] == pytest.approx(4 / 6), "to the next one, 5.6 is nearer to 6"


def test_steps_are_mirrored_at_the_ends():
    axis = Axis(LOG)
    assert axis.near(np.array([0.1, 0.9]), np.array([-0.3, 0.3])) == pytest.approx([0.2, 0.8])


def test_choices_are_told_apart_as_a_program_does():
    axis = Axis(RANGES[-1])
    assert [axis.encode(value) for value in ("SL", True, 1, 1.0, "L")] == [0, 1, 2, 3, UNKNOWN]
    assert list(axis.near(np.array([1.0, 2.0]), np.array([0.3, 0.3]))) == [1, 2]


def test_values_from_before_the_table_changed():
    axis = Axis(LOG)
    assert axis.encode(2.0) == pytest.approx(1.15, abs=0.01)
    assert axis.encode(1e9) == 1 + FURTHEST
    assert [axis.encode(value) for value in (0.0, -1, "fast", True, (0.1, 0.2), None)] == [None] * 6
