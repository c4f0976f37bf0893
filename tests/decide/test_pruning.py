"""How far behind a trial may be, from recorded numbers."""

import random

import pytest

from autoresearch_jax.decide.pruning import Finished, Pruning, PruningThresholds, find_allowances
from autoresearch_jax.types import CURVE_POINTS, LossLimit

PRUNING = Pruning()


def candidates(
    number: int, seed: int = 0, scatter: float = 0.02, growth: float = 0.0, worst: float = 0.5
) -> list[Finished]:
    """Candidates that are behind by twice of what they end worse by, and by chance: more so the worse they end."""
    rng = random.Random(seed)
    found = []
    for _ in range(number):
        worse = rng.uniform(-0.05, worst)
        wide = scatter * (1 + growth * abs(worse))
        found.append(Finished([2 * worse + rng.gauss(0, wide) for _ in range(CURVE_POINTS)], worse))
    return found


def test_nothing_is_stopped_before_enough_candidates_have_ended():
    assert find_allowances(candidates(PRUNING.least_finished - 1), PRUNING) == {}
    allowances = find_allowances(candidates(PRUNING.least_finished), PRUNING)
    assert list(allowances) == list(range(PRUNING.first_point, PRUNING.last_point + 1))


@pytest.mark.parametrize("growth", [10.0, 0.0])
def test_what_ends_as_good_as_the_champion_is_hardly_ever_stopped(growth):
    """No more often than was risked, whether scatter grows as it does in recorded curves, or does not."""
    rng, lost, nights = random.Random(1), 0, 200
    for night in range(nights):
        allowances = find_allowances(candidates(15, seed=night, growth=growth), PRUNING)
        lost += any(rng.gauss(0, 0.02) > by for by in allowances.values())
    assert lost / nights <= PRUNING.risk
    generous = find_allowances(candidates(15), Pruning(risk=1e-4))
    assert all(generous[point] > by for point, by in find_allowances(candidates(15), PRUNING).items())


def test_allowances_never_grow_and_are_never_below_zero():
    rng = random.Random(2)
    crossing = [
        Finished([rng.gauss(0, 0.01 * point) for point in range(CURVE_POINTS)], one.worse) for one in candidates(20)
    ]
    by_point = list(find_allowances(crossing, PRUNING).values())
    assert by_point == sorted(by_point, reverse=True)
    ahead = [Finished([-1.0 + rng.gauss(0, 0.01)] * CURVE_POINTS, one.worse) for one in candidates(20)]
    assert set(find_allowances(ahead, PRUNING).values()) == {0.0}


def test_a_champion_that_was_lucky_in_that_run_is_given_way():
    plain, lucky = (find_allowances(candidates(20), PRUNING, luck) for luck in (0.0, 0.1))
    assert [lucky[p] - plain[p] for p in plain] == pytest.approx([0.2] * len(plain), abs=0.02), "twice the luck"
    assert find_allowances(candidates(20), PRUNING, -0.1) == plain, "and what was unlucky gives nothing away"


def test_a_thresholds_lies_above_the_champion_and_says_what_was_found():
    thresholds = PruningThresholds([3.0, 2.5, 2.0, 1.5], {2: 0.5, 4: 0.25}, 0.01)
    assert thresholds.loss_limits == (LossLimit(2, 3.0), LossLimit(4, 1.75))
    assert thresholds.explain([3.0, 2.6, 2.4, 1.81]) == (
        "at 20% of the budget its loss was 0.31 above the champion's; probability of ending better below 0.01"
    )
