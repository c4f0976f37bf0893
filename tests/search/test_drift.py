"""Which trials ran as fast as the others."""

import pytest

from autoresearch_jax.search.drift import slowdown, speeds, steady
from autoresearch_jax.search.records import Purpose, TrialRow


def trial(number: int, steps: float | None, seconds: float = 2.0) -> TrialRow:
    metrics = {"num_steps": steps, "training_seconds": seconds}
    return TrialRow(number, 0, number, 0.0, 1.0, None, 1.0, metrics, None, None, Purpose.CANDIDATE)


def test_slow_is_more_than_a_tenth_below_the_others():
    assert slowdown(9.01, [10.0, 10.0, 30.0]) is None
    assert slowdown(8.9, [10.0, 10.0, 30.0]) == pytest.approx(0.11)
    assert slowdown(12.0, [10.0]) is None
    assert slowdown(8.9, []) is None, "nothing to compare with"
    assert slowdown(None, [10.0]) is None


def test_speeds_are_in_steps_a_second_where_they_are_known():
    trials = [trial(0, 20), trial(1, None), trial(2, 30, seconds=0.0), trial(3, 30, seconds=3.0)]
    assert speeds(trials) == [10.0, 10.0]


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([], []),
        ([10], [0]),
        ([10, 8], [0]),
        ([8, 10], [1]),
        ([7, 7.2], [0, 1]),
        ([10, 8, 8], [0, 1, 2]),
        ([10, 10, 8, 10], [0, 1, 3]),
        ([None, 10, 8], [0, 1]),
    ],
)
def test_a_trial_slower_than_its_others_is_left_out(steps, left):
    assert [found.id for found in steady([trial(number, count) for number, count in enumerate(steps)])] == left
