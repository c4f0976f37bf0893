"""The noise of a score: how far runs of one program scatter, and what of it a seed or the test items explain."""

import math
from collections.abc import Sequence

import numpy as np

from autoresearch_jax.decide.gains import Floats

# A run is taken to scatter three times as widely with this probability (a contaminated normal, Tukey 1960), so that one
# wild run does not decide. Sigma is the standard deviation of the others.
WILD = 0.06
WILD_VARIANCE = 9.0
_WILD_ODDS = WILD / (1 - WILD) / math.sqrt(WILD_VARIANCE)  # of a run without a deviation
# Density, where a usual run's is 1 at most, of a run that says nothing of its program at any distance.
FAULTY = 1e-5
_WILD_GROWTH = 0.5 * (1 - 1 / WILD_VARIANCE)  # of their logarithm with the square of the deviation
_MOST_SQUARES = 1000.0  # beyond them a run's weight is 0 in double precision
_ROBUST_STEPS = 4
_SIGMA_OF_MEDIAN = 1.4826  # of a normal's absolute deviations
_LEAST_FOR_MEDIAN = 6  # of programs with three runs or more
_WILDEST = 6.0  # sigma at most that a run counts as being off, in the first estimate of sigma
_USUAL = 0.95  # probability that a sum of squares is larger than where it is called unusual
# Candidates may be worse by any amount; beyond this many sigma their distance says nothing more of their seed.
_FAR = 3.0
_MAX_CORRELATION = 0.9
# Of a slope that is believed: of three or four pairs each fourth shows a correlation that is not there.
_MIN_CORRELATION_DEGREES = 8


def robust_means(runs_RxS: Floats, sigma: float) -> tuple[Floats, Floats, Floats]:
    """Means of the runs of programs, how many usual runs each is worth, and the weight of each run, 1 for a usual one.

    Args:
      runs_RxS: a row a program, NaN where it has fewer runs.
      sigma: standard deviation of a usual run.
    """
    known_RxS = ~np.isnan(runs_RxS)
    counts_R = known_RxS.sum(axis=1)
    weights_RxS = known_RxS.astype(np.float64)
    values_RxS = np.where(known_RxS, runs_RxS, 0.0)
    means_R = values_RxS.sum(axis=1) / np.maximum(counts_R, 1)
    if (many := np.flatnonzero(counts_R > 2)).size:
        sorted_RxS, half = np.sort(runs_RxS[many], axis=1), counts_R[many]  # NaN comes last
        each = np.arange(many.size)
        means_R[many] = (sorted_RxS[each, (half - 1) // 2] + sorted_RxS[each, half // 2]) / 2
    if sigma > 0 and (several := np.flatnonzero(counts_R > 1)).size:
        for _ in range(_ROBUST_STEPS):
            squares = ((values_RxS[several] - means_R[several, None]) / sigma) ** 2
            squares = np.minimum(squares, _MOST_SQUARES)
            wild = _WILD_ODDS * np.exp(_WILD_GROWTH * squares)
            faulty = FAULTY / (1 - WILD) * np.exp(0.5 * squares)
            weights = (1 + wild / WILD_VARIANCE) / (1 + wild + faulty) * known_RxS[several]
            weights_RxS[several] = weights
            means_R[several] = (weights * values_RxS[several]).sum(axis=1) / weights.sum(axis=1)
    return means_R, weights_RxS.sum(axis=1), weights_RxS


def run_density(distance: Floats, variance: Floats | float) -> Floats:
    """Density of the mean of runs at a distance from the truth, up to a factor, in sigma; wild runs scatter more."""
    wide = variance + WILD_VARIANCE - 1
    usual = (1 - WILD) * np.exp(-0.5 * distance**2 / variance) / np.sqrt(variance)
    return np.asarray(usual + WILD * np.exp(-0.5 * distance**2 / wide) / np.sqrt(wide))


def sigma_of_replicates(runs_RxS: Floats, guess: float, degrees_of_guess: float) -> float:
    """Sigma from runs of one program, before anything is known of gains; 0 if equal programs have equal scores.

    Args:
      runs_RxS: a row a program, NaN where it has fewer runs.
      guess: what sigma is believed to be, 0 for no belief.
      degrees_of_guess: what the guess weighs, in degrees of freedom.
    """
    squares = degrees = 0.0
    counts_R = (~np.isnan(runs_RxS)).sum(axis=1)
    several_RxS = runs_RxS[counts_R > 1]
    if several_RxS.size:
        # From the first run, so that equal runs have squares of exactly 0.
        from_first_RxS = _without_wild(several_RxS - several_RxS[:, :1])
        squares = float(np.nansum((from_first_RxS - np.nanmean(from_first_RxS, axis=1, keepdims=True)) ** 2))
        degrees = float((counts_R[counts_R > 1] - 1).sum())
    if degrees > 0 and squares == 0:
        return 0.0
    if guess == 0:
        return math.sqrt(squares / degrees) if degrees else 1.0  # nothing is known
    guess = min(guess, plausible_sigma(squares, degrees))
    return math.sqrt((degrees_of_guess * guess**2 + squares) / (degrees_of_guess + degrees))


def _without_wild(runs_RxS: Floats) -> Floats:
    """Runs, those far from the median of their program drawn in; unchanged where runs are few."""
    median_Rx1 = np.nanmedian(runs_RxS, axis=1, keepdims=True)
    distances = np.abs(runs_RxS - median_Rx1)[(~np.isnan(runs_RxS)).sum(axis=1) > 2]
    distances = distances[~np.isnan(distances)]
    if len(distances) < _LEAST_FOR_MEDIAN or (usual := _SIGMA_OF_MEDIAN * float(np.median(distances))) == 0:
        return runs_RxS
    return np.asarray(median_Rx1 + np.clip(runs_RxS - median_Rx1, -_WILDEST * usual, _WILDEST * usual))


def plausible_sigma(squares: float, degrees: float) -> float:
    """The largest sigma that such a sum of squared deviations is still usual for; infinite without one."""
    if degrees <= 0:
        return math.inf
    from scipy.special import chdtri  # takes 0.2 s, which a command that decides nothing need not wait for

    return math.sqrt(squares / float(chdtri(degrees, _USUAL)))


def correlation_of_seeds(first_runs: Sequence[tuple[int, float, float]], sigma: float) -> float:
    """Lower bound of the correlation of two programs' runs with one seed, from 0 to below 1.

    The slope of candidates' first runs over the champion's runs with the same seeds, less its standard error: too small
    a correlation only wastes runs, one that is not there would forge evidence. First runs only, because whether there
    is a second depends on the first.

    Args:
      first_runs: of each candidate, its champion, the champion's run and the candidate's.
      sigma: standard deviation of a run.
    """
    groups: dict[int, list[tuple[float, float]]] = {}
    for champion, its_run, run in first_runs:
        groups.setdefault(champion, []).append((its_run, run))
    several = [np.array(pairs) for pairs in groups.values() if len(pairs) > 1]
    degrees = sum(map(len, several)) - len(several) - 1
    if degrees < _MIN_CORRELATION_DEGREES:
        return 0.0
    xs = np.concatenate([pairs[:, 0] - pairs[:, 0].mean() for pairs in several])
    near = [np.clip(pairs[:, 1] - np.median(pairs[:, 1]), -_FAR * sigma, _FAR * sigma) for pairs in several]
    ys = np.concatenate([values - values.mean() for values in near])
    spread = float(xs @ xs)
    if spread == 0:
        return 0.0
    slope = float(xs @ ys) / spread
    residual = float(((ys - slope * xs) ** 2).sum()) / degrees
    return max(0.0, min(_MAX_CORRELATION, slope - math.sqrt(residual / spread)))


def item_variance(candidate: Sequence[float], champion: Sequence[float]) -> float:
    """Squared standard error of the difference of two mean scores that is due to the choice of test items.

    It is what resampling the items in pairs gives in the limit of many resamples (the ideal bootstrap, Efron 1979).

    Args:
      candidate: its score on each item.
      champion: its score on the same items, in the same order.

    Raises:
      ValueError: the numbers of items differ.
    """
    if len(candidate) != len(champion):
        raise ValueError(f"{len(candidate)} items against {len(champion)}")
    difference = np.asarray(candidate, dtype=np.float64) - np.asarray(champion, dtype=np.float64)
    return float(difference.var()) / len(difference) if len(difference) else 0.0


def next_paired_seed(champion: Sequence[int], used: Sequence[int], start: int) -> int | None:
    """The seed of the champion's that a candidate runs with next, or None if it has used them all.

    Args:
      champion: seeds of the champion's runs.
      used: seeds of the candidate's runs so far.
      start: a number that goes up by one for each candidate, so that they do not all share the luck of one seed.
    """
    ahead = (champion[(start + step) % len(champion)] for step in range(len(champion)))
    return next((seed for seed in ahead if seed not in used), None)


def mean_of(values: Sequence[float]) -> float:
    """The mean, which of equal values is exactly their value."""
    return values[0] if min(values) == max(values) else math.fsum(values) / len(values)


def round_to_noise(score: float, sigma: float | None) -> float:
    """A score as proposers see it: rounded to a multiple of `noise_step(sigma)`.

    Digits below the noise tell a proposer nothing of its idea, and each time something of the validation text ("The
    Ladder", Blum and Hardt 2015).
    """
    return round_to_step(score, noise_step(sigma))


def noise_step(sigma: float | None) -> tuple[int, int] | None:
    """Sigma rounded up to 1, 2 or 5 times a power of ten: factor and exponent; None if it is not known, or 0."""
    if sigma is None or sigma <= 0:
        return None
    digits = math.floor(math.log10(sigma))
    return next(factor for factor in (1, 2, 5, 10, 20) if factor * 10.0**digits >= sigma), digits


def round_to_step(score: float, step: tuple[int, int] | None) -> float:
    """A score rounded to a multiple of a step of `noise_step`."""
    if step is None:
        return score
    factor, digits = step
    size = factor * 10.0**digits
    return round(round(score / size) * size, max(0, -digits))
