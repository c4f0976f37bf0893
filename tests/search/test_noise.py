"""The noise floor, what a seed explains of it, and what is done with it."""

import random
import statistics

import pytest

from autoresearch_jax.search.noise import NoiseError, estimate_noise, next_paired_seed, round_to_noise


def test_the_noise_of_many_normal_runs_is_their_standard_deviation():
    draw = random.Random(0)
    champions = [[5 + draw.gauss(0, 0.2) for _ in range(6)] for _ in range(2000)]
    noise = estimate_noise(champions)
    assert noise.sigma == pytest.approx(0.2, rel=0.01)
    assert noise.degrees == 2000 * 5
    assert noise.cautious_sigma == pytest.approx(noise.sigma, rel=1e-3)


def test_champions_of_different_scores_are_pooled_by_their_own_means():
    runs = [1.0, 1.5, 1.25, 0.75]
    better = [value - 0.5 for value in runs]
    assert estimate_noise([runs, better]).sigma == pytest.approx(estimate_noise([runs]).sigma)
    assert estimate_noise([runs, better]).degrees == 6
    assert estimate_noise([runs, [0.25]]) == estimate_noise([runs]), "a single run shows no noise"


def test_few_runs_are_taken_for_noisier_than_they_look():
    few, many = estimate_noise([[1.0, 2.0]]), estimate_noise([[1.0, 2.0]] * 50)
    assert few.sigma == pytest.approx(many.sigma)
    assert few.cautious_sigma > 1.2 * few.sigma
    assert many.cautious_sigma < 1.01 * many.sigma


def test_an_outlier_moves_the_noise_less_than_it_moves_the_standard_deviation():
    runs = [0.1, -0.1] * 8
    wild = [*runs[1:], 5.0]
    grown = estimate_noise([wild]).sigma / estimate_noise([runs]).sigma
    assert grown < 0.7 * statistics.stdev(wild) / statistics.stdev(runs)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1.2345])
@pytest.mark.parametrize("num_runs", [2, 6, 7, 10])
def test_equal_runs_have_no_noise_at_all(value, num_runs):
    assert estimate_noise([[value] * num_runs]).sigma == 0.0


@pytest.mark.parametrize("champions", [[], [[1.0]], [[1.0], [2.0]]])
def test_a_single_run_is_not_enough(champions):
    with pytest.raises(NoiseError, match="--baseline_runs"):
        estimate_noise(champions)


def first_runs(rho: float, num: int, seed: int) -> tuple[list[float], list[tuple[float, float]]]:
    """Twelve runs of a champion, and the first of `num` candidates, a third of which are far worse."""
    draw = random.Random(seed)
    champion = [draw.gauss(0, 1) for _ in range(12)]
    pairs = []
    for candidate in range(num):
        value = champion[candidate % 12]
        noise = rho * value + (1 - rho**2) ** 0.5 * draw.gauss(0, 1)
        pairs.append((value, noise + draw.choice([0, 0, 100])))
    return champion, pairs


def correlation(rho: float, num: int, seed: int) -> float:
    champion, pairs = first_runs(rho, num, seed)
    return estimate_noise([champion], [pairs]).seed_correlation


def test_a_correlation_of_seeds_shows_in_the_first_runs_and_is_rather_underestimated():
    found = [correlation(0.8, 100, seed) for seed in range(100)]
    assert 0.2 < statistics.fmean(found) < 0.8


def test_where_seeds_explain_nothing_next_to_nothing_is_found():
    assert statistics.fmean(correlation(0.0, 100, seed) for seed in range(200)) < 0.06


def test_few_candidates_show_no_correlation():
    pairs = [(float(number % 5), float(number % 5)) for number in range(9)]
    assert estimate_noise([[1.0, 2.0]], [pairs]).seed_correlation == 0, "7 degrees of freedom"
    assert estimate_noise([[1.0, 2.0]], [[*pairs, (1.0, 1.0)]]).seed_correlation == 0.9
    assert estimate_noise([[1.0, 2.0]], [[(1.0, 5.0)] * 9]).seed_correlation == 0, "one seed shows nothing"


def test_perfect_pairs_stay_below_certainty():
    pairs = [(float(i % 5), float(i % 5)) for i in range(20)]
    assert estimate_noise([[0.0, 1.0, 2.0, 3.0, 4.0]], [pairs]).seed_correlation == 0.9


def test_candidates_take_the_champions_seeds_in_turn_and_each_once():
    seeds = [11, 22, 33]
    assert [next_paired_seed(seeds, [], start) for start in range(4)] == [11, 22, 33, 11]
    assert next_paired_seed(seeds, [33], 2) == 11
    assert next_paired_seed([*seeds, 44], [33], 2) == 44, "the champion got another run meanwhile"
    assert next_paired_seed(seeds, [33, 11, 22], 2) is None


@pytest.mark.parametrize(
    ("score", "sigma", "shown"),
    [
        (1.234567, 0.0021, 1.235),
        (1.234567, 0.002, 1.234),
        (1.234567, 0.00007, 1.2346),
        (-1.234567, 0.03, -1.25),
        (1234.0, 70.0, 1200.0),
        (0.123456, 0.0, 0.123456),
    ],
)
def test_proposers_see_scores_to_the_noise_floor(score, sigma, shown):
    assert round_to_noise(score, sigma) == shown


def test_a_shown_score_is_within_a_step_of_the_true_one_and_most_differences_below_the_noise_are_hidden():
    draw = random.Random(0)
    for _ in range(1000):
        score, sigma = draw.uniform(-2, 2), 10 ** draw.uniform(-5, 0)
        assert abs(round_to_noise(score, sigma) - score) <= 1.25 * sigma + 1e-12
    assert len({round_to_noise(1.2 + 0.0001 * i, 0.01) for i in range(100)}) <= 3
