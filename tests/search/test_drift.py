"""Which trials ran as fast as the others."""

import pytest

from autoresearch_jax.search.drift import at_present_speed, slowdown, speeds, typical_speed, without_busy_start
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
    assert typical_speed([trial(0, 10), trial(1, None), trial(2, 16)]) == 8.0, "of two the faster one"
    assert typical_speed([trial(0, None)]) is None


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([], []),
        ([8], [0]),
        ([8, 10], [1]),
        ([10, 8], [0, 1]),
        ([8, 8.2], [0, 1]),
        ([8, 10, 8, 10, 8], [1, 2, 3, 4]),
        ([None, 10], [0, 1]),
    ],
)
def test_of_a_candidate_a_slow_start_is_excused_and_no_more(steps, left):
    trials = [trial(number, count) for number, count in enumerate(steps)]
    assert [found.id for found in without_busy_start(trials)] == left


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([], []),
        ([10], [0]),
        ([10, 8], [0]),
        ([8, 10], [1]),
        ([7, 7.2], [0, 1]),
        ([10, 10, 8, 10], [0, 1, 3]),
        ([8, 8, 8, 8, 10], [0, 1, 2, 3]),
        ([8, 8, 8, 8, 8, 8, 10, 10, 10], [6, 7, 8]),
        ([10, 10, 10, 10, 10, 10, 8, 8, 8], [6, 7, 8]),
        ([None, 10, 8], [0, 1]),
    ],
)
def test_a_champion_is_what_it_is_at_the_speed_of_its_latest_runs(steps, left):
    trials = [trial(number, count) for number, count in enumerate(steps)]
    assert [found.id for found in at_present_speed(trials)] == left
