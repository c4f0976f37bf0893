"""The noise of scores: replicates, seeds, test items, and what proposers see of a score."""

import math
import random
import statistics

import numpy as np
import pytest

from autoresearch_jax.decide.noise import (
    correlation_of_seeds,
    item_variance,
    mean_of,
    next_paired_seed,
    robust_means,
    round_to_noise,
    sigma_of_replicates,
)


def rows(*groups: list[float]) -> np.ndarray:
    width = max(map(len, groups))
    return np.array([group + [math.nan] * (width - len(group)) for group in groups])


def test_sigma_of_many_replicates_is_their_standard_deviation():
    draw = random.Random(0)
    groups = [[5 * row + draw.gauss(0, 0.2) for _ in range(2 + row % 3)] for row in range(3000)]
    assert sigma_of_replicates(rows(*groups), guess=0.1, degrees_of_guess=0.5) == pytest.approx(0.2, rel=0.03)


def test_two_replicates_move_a_first_guess_that_is_too_small():
    few = sigma_of_replicates(rows([1.0, 1.4]), guess=0.01, degrees_of_guess=0.5)
    many = sigma_of_replicates(rows(*[[1.0, 1.4]] * 50), guess=0.01, degrees_of_guess=0.5)
    assert 0.5 * many < few < many == pytest.approx(0.4 / math.sqrt(2), rel=0.02)
    assert sigma_of_replicates(rows([1.0]), guess=0.01, degrees_of_guess=0.5) == pytest.approx(0.01)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1.2345])
@pytest.mark.parametrize("num_runs", [2, 3, 6, 7, 10])
def test_equal_runs_have_no_noise_at_all(value, num_runs):
    runs = rows([value] * num_runs, [value / 7] * 3, [0.2])
    assert sigma_of_replicates(runs, guess=0.002 * value, degrees_of_guess=0.5) == 0.0


def test_a_wild_run_moves_a_program_less_than_it_moves_the_mean():
    runs = [0.1, -0.1] * 4
    wild = [*runs[1:], 5.0]
    (usual, moved), worth, weights = robust_means(rows(runs, wild), sigma=0.1)
    assert usual == pytest.approx(0.0, abs=0.01)
    assert abs(moved) < 0.3 * statistics.fmean(wild)
    assert worth[1] < worth[0] <= 8
    assert weights[1].argmin() == 7


def pairs(rho: float, num: int, seed: int, sigma: float = 1.0) -> list[tuple[int, float, float]]:
    """The first runs of candidates beside those of a champion with equal seeds; a third are far worse."""
    draw = random.Random(seed)
    champion = [draw.gauss(0, sigma) for _ in range(12)]
    found = []
    for candidate in range(num):
        its_run = champion[candidate % 12]
        run = rho * its_run + math.sqrt(1 - rho**2) * draw.gauss(0, sigma)
        found.append((0, its_run, run - draw.choice([0, 0, 100]) * sigma))
    return found


def test_a_correlation_of_seeds_shows_in_first_runs_and_is_rather_underestimated():
    found = [correlation_of_seeds(pairs(0.8, 100, seed), 1.0) for seed in range(100)]
    assert 0.2 < statistics.fmean(found) < 0.8


def test_few_pairs_or_one_seed_show_no_correlation_and_perfect_pairs_stay_below_certainty():
    perfect = [(0, float(number % 5), float(number % 5)) for number in range(20)]
    assert correlation_of_seeds(perfect[:6], 1.0) == 0
    assert correlation_of_seeds([], 1.0) == 0
    assert correlation_of_seeds([(0, 1.0, 5.0 + number) for number in range(20)], 1.0) == 0, "one seed"
    assert correlation_of_seeds([(number, 1.0, 1.0) for number in range(20)], 1.0) == 0, "each of another champion"
    assert 0.5 < correlation_of_seeds(perfect, 1.0) < 1


@pytest.mark.parametrize("kind", ["hits", "losses"])
def test_item_variance_is_that_of_a_paired_bootstrap(kind):
    draw = np.random.default_rng(0)
    if kind == "hits":
        champion = (draw.random(400) < 0.8).astype(float)
        candidate = np.where(draw.random(400) < 0.1, 1 - champion, champion)
    else:
        champion = draw.normal(2.0, 1.0, 400)
        candidate = champion + draw.normal(0.1, 0.2, 400)
    resamples = draw.integers(0, 400, (4000, 400))
    differences = (candidate - champion)[resamples].mean(axis=1)
    assert item_variance(list(candidate), list(champion)) == pytest.approx(differences.var(), rel=0.07)
    assert item_variance(list(champion), list(candidate)) == pytest.approx(item_variance(candidate, champion))


def test_item_variance_of_equal_shifted_or_no_items_is_zero_and_of_other_items_refused():
    assert item_variance([1.0, 0.0, 1.0], [1.0, 0.0, 1.0]) == 0
    assert item_variance([1.5, 0.5, 1.5], [1.0, 0.0, 1.0]) == 0, "better by the same on each item"
    assert item_variance([], []) == 0
    with pytest.raises(ValueError, match="3 items"):
        item_variance([1.0, 0.0, 1.0], [1.0, 0.0])


def test_candidates_take_the_champions_seeds_in_turn_and_each_once():
    seeds = [11, 22, 33]
    assert [next_paired_seed(seeds, [], start) for start in range(4)] == [11, 22, 33, 11]
    assert next_paired_seed(seeds, [33], 2) == 11
    assert next_paired_seed([*seeds, 44], [33], 2) == 44, "the champion got another run meanwhile"
    assert next_paired_seed(seeds, [33, 11, 22], 2) is None
    assert next_paired_seed([], [], 0) is None


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1.2345])
def test_the_mean_of_equal_values_is_their_value(value):
    assert all(mean_of([value] * count) == value for count in range(1, 12))
    assert mean_of([1.0, 2.0, 6.0]) == 3.0


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
