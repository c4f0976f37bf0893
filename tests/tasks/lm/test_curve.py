"""The loss curve of a training, and the ceilings that it is held against as it grows."""

import pytest

from autoresearch_jax.tasks.lm.curve import Curve
from autoresearch_jax.types import CURVE_POINTS, Ceiling, read_curve, write_curve


def test_a_point_is_the_mean_of_the_steps_that_ended_in_its_twentieth():
    curve = Curve()
    steps = 50
    for step in range(1, steps + 1):
        curve.add(step * CURVE_POINTS / steps, float(step))
    assert curve.points[:4] == (1.5, 4.0, 6.5, 9.0), "steps 1 2 | 3 4 5 | 6 7 | 8 9 10"
    assert len(curve.points) == CURVE_POINTS


def test_a_point_counts_once_no_further_step_can_belong_to_it():
    curve = Curve([Ceiling(1, 1.0)])
    assert not curve.add(0.5, 5.0), "more may follow in this twentieth"
    assert curve.points == ()
    assert curve.add(1.2, 0.0), "which is of the next"
    assert Curve([Ceiling(1, 1.0)]).add(1.0, 5.0), "this one is its last"


def test_a_mean_that_is_no_higher_than_the_ceiling_passes():
    assert not Curve([Ceiling(1, 1.0)]).add(1.0, 1.0)
    assert Curve([Ceiling(1, 1.0)]).add(1.0, 1.0001)
    assert not Curve([Ceiling(2, 1.0)]).add(1.0, 9.0), "no other point is looked at"


def test_a_point_without_a_step_ends_the_curve_and_is_held_against_nothing():
    curve = Curve([Ceiling(2, 0.0), Ceiling(3, 0.0)])
    curve.add(1.0, 5.0)
    assert not curve.add(3.5, 5.0), "no step ended in the second and the third twentieth"
    assert curve.points == (5.0,)


def test_a_program_with_steps_longer_than_a_twentieth_is_not_stopped():
    """Most of its twentieths have no step, so there is no curve to say where it was stopped."""
    curve = Curve([Ceiling(point, 0.0) for point in range(2, CURVE_POINTS + 1)])
    assert not any(curve.add(1.3 * step, 5.0) for step in range(1, 16))
    assert curve.points == ()
    stalled = Curve([Ceiling(point, 0.0) for point in range(2, CURVE_POINTS + 1)])
    assert not any(stalled.add(spent, 5.0) for spent in (0.5, 3.5, *(4 + step / 4 for step in range(60))))
    assert stalled.points == (5.0,)


def test_the_last_step_may_end_after_the_budget():
    curve = Curve()
    for step in range(1, CURVE_POINTS):
        curve.add(step, 2.0)
    curve.add(CURVE_POINTS + 3.0, 1.0)
    assert curve.points == (2.0,) * (CURVE_POINTS - 1) + (1.0,)


@pytest.mark.parametrize("text", [None, "", "1.5 nan", "1.5 x", True])
def test_what_is_no_curve_has_no_points(text):
    assert read_curve(text) == ()


def test_a_curve_is_read_as_it_was_written():
    assert read_curve(write_curve((2.5, 1.23456789e-3))) == (2.5, 0.00123457)
