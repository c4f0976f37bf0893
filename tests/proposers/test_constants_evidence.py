"""What of a history says something about the constants."""

from dataclasses import replace

import numpy as np
import pytest

from autoresearch_jax.proposers.base import Outcome
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.proposers.constants_model import BEST, NEWEST, TriedSetting, find_trials, standardise
from autoresearch_jax.types import Metric, Status

LOSS, ACCURACY = Metric("loss"), Metric("accuracy", "maximize")


def outcome(
    number: int,
    score: float | None,
    kept: bool = False,
    category: str = "constants",
    proposer: str = ConstantsProposer.name,
) -> Outcome:
    status = Status.CRASH if score is None else Status.OK
    return Outcome(number, proposer, "", category, {"LR": number}, status, score, kept, "")


def losses(*history: Outcome, metric: Metric = LOSS) -> dict[int, float | None]:
    return {trial.experiment: trial.loss for trial in find_trials(history, metric)}


def test_lower_is_better_whatever_the_metric():
    history = (outcome(0, 0.5, True, ""), outcome(1, 0.7, True), outcome(2, None))
    assert losses(*history) == {0: 0.5, 1: 0.7, 2: None}
    assert losses(*history, metric=ACCURACY) == {0: -0.5, 1: -0.7, 2: None}


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


def trials(*values: float | None) -> list[TriedSetting]:
    return [TriedSetting(n, {}, value) for n, value in enumerate(values)]


def test_good_scores_keep_their_distances_and_bad_ones_are_drawn_closer():
    scaled = standardise(trials(1.0, 1.1, 1.2, 9.0, 1e6))
    assert scaled.mean() == pytest.approx(0)
    assert scaled.std() == pytest.approx(1)
    assert list(np.argsort(scaled)) == [0, 1, 2, 3, 4]
    assert scaled[2] - scaled[1] == pytest.approx(scaled[1] - scaled[0])
    assert scaled[4] - scaled[2] < 20 * (scaled[2] - scaled[0])


def test_a_failure_is_as_bad_as_the_worst():
    scaled = standardise(trials(1.0, None, 3.0, 2.0))
    assert scaled[1] == scaled[2] > scaled[3]


@pytest.mark.parametrize("values", [(1.0,), (1.0, 1.0, 1.0), (1.0, None), (1.0, 1.0, 1.0, 1.0, 0.5)])
def test_scores_that_hardly_differ(values):
    assert np.isfinite(standardise(trials(*values))).all()


def test_what_was_stopped_early_is_bad_but_not_as_bad_as_a_crash():
    known = [outcome(n, float(n), n == 1) for n in range(1, 9)]
    stopped = replace(outcome(9, None), status=Status.PRUNED)
    twin = replace(outcome(10, None), status=Status.DUPLICATE)
    losses_N = standardise(find_trials([*known, stopped, twin, outcome(11, None)], LOSS))
    assert losses_N[6 - 1] < losses_N[8] == losses_N[9] < losses_N[7 - 1] < losses_N[10] == losses_N[8 - 1]
