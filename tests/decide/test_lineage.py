"""What the runs of a night say together: scores, gains and noise, with their errors."""

import math
import random
import statistics

import numpy as np
import pytest
from lineages import SIGMA, begun, enter

from autoresearch_jax.decide.gains import GRID
from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.noise import robust_means
from autoresearch_jax.decide.posterior import Estimate

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # of numpy: a division by zero, a NaN


def several(seed: int, *, order: int = 0, shift: float = 0.0, scale: float = 1.0) -> Lineage:
    """Two keeps and twelve discards, half of them with two runs; `order` shuffles discards of equal parents."""
    draw = random.Random(seed)

    def run(gain: float) -> float:
        return shift + scale * (10 - SIGMA * (gain + draw.gauss(0, 1)))

    lineage = begun([run(0) for _ in range(3)])
    total = 0.0
    for batch in range(2):
        tries = [[run(total - 1.5 + 0.4 * place) for _ in range(1 + place % 2)] for place in range(6)]
        numbered = [(10 * batch + place + 1, runs) for place, runs in enumerate(tries)]
        random.Random(order).shuffle(numbered)
        for number, runs in numbered:
            enter(lineage, number, runs, kept=False)
        total += 2
        enter(lineage, 10 * batch + 9, [run(total) for _ in range(3)], kept=True)
    return lineage


def numbers(lineage: Lineage) -> list[float]:
    """All that a posterior says, scores counted from the baseline's and in the metric's unit."""
    posterior = lineage.posterior
    champion, baseline = posterior.score(lineage.champion), posterior.score(())
    found = [posterior.sigma, champion.mean - baseline.mean, champion.error, baseline.error]
    for number, gain in posterior.gains.items():
        found += [gain.mean * gain.sigma, math.sqrt(gain.variance) * gain.sigma, posterior.gain_of([number]).mean]
    return found


def test_the_posterior_does_not_depend_on_the_order_in_which_discarded_edits_were_entered():
    first = several(0)
    for order in range(1, 3):
        other = several(0, order=order)
        assert list(other.programs) != list(first.programs)
        assert numbers(other) == pytest.approx(numbers(first), rel=0.003), "but for a drift"


def test_what_it_says_depends_on_what_was_entered_and_not_on_when_it_was_asked():
    draw, asked, entered = random.Random(1), begun(), begun()
    computed = {}  # by identity
    for number in range(1, 301):
        runs = [10 - SIGMA * draw.gauss(-1.5, 1.5)]
        for lineage in (asked, entered):
            enter(lineage, number, runs, kept=number == 150)
        computed[id(asked.posterior)] = asked.posterior
    assert numbers(asked) == numbers(entered)
    assert 125 < len(computed) < 250, "past 100 edits not each of them is worth it"


def test_it_is_the_same_for_both_directions_of_the_metric():
    falling, rising = several(3), Lineage(1)
    for number, program in falling.programs.items():
        rising.begin(number)
        for run in program.runs:
            rising.observe(number, run)  # a falling score times its sign: it rises, by the same
        rising.conclude(number, kept=bool(program.kept))
    assert numbers(rising) == pytest.approx(numbers(falling))


def test_it_follows_the_unit_of_the_scores():
    scale = 1e-4
    assert numbers(several(1, scale=scale)) == pytest.approx([scale * value for value in numbers(several(1))])


def test_two_baseline_runs_and_some_replicates_tell_sigma():
    found = []
    for seed in range(12):
        draw = random.Random(seed)
        lineage = begun([draw.gauss(10, SIGMA) for _ in range(2)])
        for number in range(1, 9):
            enter(lineage, number, [draw.gauss(10.2, SIGMA) for _ in range(2)], kept=False)
        found.append(lineage.posterior.sigma / SIGMA)
    assert all(0.45 < factor < 2.2 for factor in found), found
    assert 0.8 < statistics.median(found) < 1.25


@pytest.mark.parametrize(("gain", "runs"), [(-100.0, 2), (-1e4, 1)])
def test_a_crash_says_hardly_anything_of_other_edits(gain, runs):
    usual, crashed = several(2), several(2)
    enter(crashed, 50, [10 - SIGMA * gain + 0.1 * run for run in range(runs)], kept=False)
    for with_it, without in zip(numbers(crashed), numbers(usual), strict=True):
        assert with_it == pytest.approx(without, rel=0.1, abs=0.1 * SIGMA)


@pytest.mark.parametrize("gain", [15, 1e5])
def test_a_gain_beyond_all_others_is_what_its_runs_say(gain):
    lineage = begun()
    enter(lineage, 1, [10 - SIGMA * gain, 10.05 - SIGMA * gain], kept=True)
    posterior = lineage.posterior
    assert posterior.gain_of([1]).mean == pytest.approx(SIGMA * gain, abs=SIGMA)
    assert posterior.score(lineage.champion).mean == pytest.approx(-10.025 + SIGMA * gain, abs=0.6 * SIGMA)
    assert posterior.score(()).mean == pytest.approx(-10, abs=0.6 * SIGMA)
    assert 0.5 * SIGMA < posterior.sigma < 2 * SIGMA
    assert posterior.gains[1].real > 0.99


def test_later_runs_of_descendants_sharpen_an_edit():
    lineage = begun()
    enter(lineage, 1, [9.8, 9.85], kept=True)
    errors = [lineage.posterior.gain_of([1]).error]
    enter(lineage, 2, [9.6, 9.65], kept=True)
    for batch in range(3):
        for run in (9.6, 9.7, 9.5, 9.65):
            lineage.observe(2, run + 0.01 * batch)
        errors.append(lineage.posterior.gain_of([1, 2]).error)
    assert errors[0] > errors[-1]
    assert errors[1] > errors[2] > errors[3]


def test_the_champions_further_runs_correct_a_lucky_keep():
    lineage = begun()
    enter(lineage, 1, [9.7], kept=True)
    lucky, real = lineage.posterior.gain_of([1]), lineage.posterior.gains[1].real
    for run in (10.0, 9.95, 10.1, 10.0):
        lineage.observe(1, run)
    corrected = lineage.posterior.gain_of([1])
    assert corrected.mean < 0.5 * lucky.mean
    assert corrected.error < lucky.error
    assert lineage.posterior.gains[1].real < min(real, 0.5)


def test_its_discarded_children_correct_it_too():
    """Two keeps look alike; the children of the second say that it was luck: they score as the baseline does."""
    gains = []
    for score_of_children in (9.8, 10.0):
        lineage = begun([10.0, 10.1, 9.9, 10.0, 10.1, 9.9])
        enter(lineage, 1, [9.8], kept=True)
        draw = random.Random(0)
        for number in range(2, 14):
            enter(lineage, number, [draw.gauss(score_of_children, SIGMA)], kept=False)
        gains.append(lineage.posterior.gain_of([1]).mean)
    assert gains[1] < gains[0] - 0.3 * SIGMA


def test_a_champion_without_its_edits_is_the_baseline_again():
    lineage = begun()
    enter(lineage, 1, [9.8], kept=True)
    enter(lineage, 2, [9.7], kept=True)
    lineage.begin(3, without=(1, 2))
    for run in (9.95, 10.0, 10.0):
        lineage.observe(3, run)
    open_baseline = lineage.posterior.score(())
    lineage.conclude(3, kept=True)
    assert lineage.champion == frozenset()
    assert sorted(lineage.runs_of(lineage.champion)) == sorted([-10.0, -10.1, -9.9, -9.95, -10.0, -10.0])
    assert lineage.posterior.score(lineage.champion) == lineage.posterior.score(()) == open_baseline
    enter(lineage, 4, [9.5, 9.5], kept=True)
    lineage.begin(5, without=(4,))
    lineage.observe(5, 10.0)
    lineage.conclude(5, kept=True)
    assert len(lineage.runs_of(lineage.champion)) == 7
    assert lineage.posterior.score(()).mean == pytest.approx(-10, abs=SIGMA)
    assert set(lineage.posterior.gains) == {1, 2, 4}, "also of edits that were taken out"


def paired(seed: int, rho: float, *, with_seeds: bool) -> tuple[float, float]:
    """Mean and standard deviation of an open edit of true gain 1.5, after 40 discards, in sigma."""
    draw = random.Random(seed)
    luck = [draw.gauss(0, 1) for _ in range(8)]
    lineage = Lineage(1)

    def observe(number: int, gain: float, place: int, share: float) -> None:
        noise = share * luck[place] + math.sqrt(1 - share**2) * draw.gauss(0, 1)
        lineage.observe(number, 10 + SIGMA * (gain + noise), 100 + place if with_seeds else None)

    lineage.begin(0)
    for place in range(8):
        observe(0, 0.0, place, 1.0)
    lineage.conclude(0, kept=True)
    for number in range(1, 41):
        lineage.begin(number)
        observe(number, draw.choice([0, -1]), number % 8, rho)
        lineage.conclude(number, kept=False)
    lineage.begin(41)
    for place in range(3):
        observe(41, 1.5, place, rho)
    gain = lineage.gain_of_candidate(41)
    return gain.mean, math.sqrt(gain.variance)


def test_seeds_that_explain_the_noise_make_a_gain_better_known():
    with_seeds = [paired(seed, 0.8, with_seeds=True) for seed in range(8)]
    without = [paired(seed, 0.8, with_seeds=False) for seed in range(8)]
    assert statistics.fmean(error for _, error in with_seeds) < 0.92 * statistics.fmean(error for _, error in without)
    off = [statistics.fmean(abs(mean - 1.5) for mean, _ in found) for found in (with_seeds, without)]
    assert off[0] < off[1]


def test_without_noise_scores_are_exact():
    lineage = begun([1.5, 1.5])
    enter(lineage, 1, [1.25], kept=True)
    enter(lineage, 2, [1.375], kept=False)
    enter(lineage, 3, [1.125], kept=True)
    posterior = lineage.posterior
    assert posterior.sigma == 0
    assert posterior.score(lineage.champion) == Estimate(pytest.approx(-1.125), 0.0)
    assert posterior.gain_of([1]) == Estimate(pytest.approx(0.25), 0.0)
    assert all(gain.real > 0.99 for gain in posterior.gains.values())


def test_where_only_test_items_scatter_their_error_is_the_noise():
    lineage = begun([0.9] * 3, sign=1)
    lineage.begin(1)
    lineage.observe(1, 0.905, item_variance=0.011**2)
    assert lineage.posterior.sigma == pytest.approx(0.011)
    assert 0.3 < lineage.gain_of_candidate(1).above(0) < 0.65
    assert lineage.posterior.learnt.seed_share == 0, "a further run tells nothing"
    lineage.conclude(1, kept=False)
    assert lineage.posterior.score(()).mean == pytest.approx(0.9)
    enter(lineage, 2, [0.9], kept=False)  # equal on each item
    lineage.begin(3)
    lineage.observe(3, 0.95, item_variance=0.011**2)
    lineage.conclude(3, kept=True)
    champion = lineage.posterior.score(lineage.champion)
    assert 0.92 < champion.mean < 0.951
    assert 0.005 < champion.error < 0.015
    lineage.begin(4, without=(3,))
    assert lineage.posterior.score(lineage.champion).mean == pytest.approx(champion.mean)


def test_the_error_of_test_items_stays_however_often_a_program_is_run():
    errors = []
    for variance in (0.0, 0.1**2):
        lineage = begun([10.0, 10.1, 9.9] * 4)
        lineage.begin(1)
        for run in (9.7, 9.8, 9.75, 9.7, 9.8, 9.75, 9.7, 9.8, 9.75):
            lineage.observe(1, run, item_variance=variance)
        errors.append(math.sqrt(lineage.gain_of_candidate(1).variance) * SIGMA)
    assert errors[1] > 1.5 * errors[0]


def aged(num_children: int = 30) -> Lineage:
    """A champion that gains 12 sigma, has its runs with seeds at the start, and children for longer than a block."""
    lineage = Lineage(-1)
    draw = random.Random(0)

    def enter_runs(number: int, mean: float, seeds: range, *, kept: bool) -> None:
        lineage.begin(number)
        for seed in seeds:
            luck = random.Random(seed).gauss(0, 0.9 * SIGMA)
            lineage.observe(number, mean + luck + draw.gauss(0, 0.44 * SIGMA), seed)
        lineage.conclude(number, kept=kept)

    enter_runs(0, 10.0, range(6), kept=True)
    enter_runs(1, 10.0 - 12 * SIGMA, range(6), kept=True)
    for child in range(2, 2 + num_children):
        enter_runs(child, 10.0 - 11 * SIGMA, range(child % 6, child % 6 + 1), kept=False)
    return lineage


def test_children_of_an_old_champion_are_compared_with_its_runs():
    lineage = aged(60)
    posterior = lineage.posterior
    assert posterior.learnt.correlation > 0.3
    near = posterior.learnt.prior.gains_G[(GRID >= -3) & (GRID <= 1)].sum()
    assert near > 0.7, "children that lose 1 sigma are no crashes"


def test_one_wild_run_long_after_the_others_moves_a_score_little():
    lineage = begun([10.0, 10.1, 9.9, 10.05, 9.95, 10.0])
    for number in range(1, 31):
        enter(lineage, number, [10.2], kept=False)
    before = lineage.posterior.score(())
    lineage.observe(0, 10.0 + 20 * SIGMA)
    moved = abs(lineage.posterior.score(()).mean - before.mean)
    assert moved < 0.9 * SIGMA


@pytest.mark.parametrize("distance", [14, 100])
def test_a_run_that_is_far_off_has_next_to_no_weight(distance):
    (mean,), _, ((*_, weight),) = robust_means(np.array([[0.1, 0.0, -0.1, 0.05, distance]]), 1.0)
    assert mean < 0.1
    assert weight < 0.02


def test_what_does_not_scatter_over_seeds_does_not_drift():
    lineage = begun([0.9] * 3, sign=1)
    for number in range(1, 200):
        lineage.begin(number)
        lineage.observe(number, 0.88, item_variance=0.01**2)
        lineage.conclude(number, kept=False)
    assert lineage.posterior.score(()).error < 0.001
