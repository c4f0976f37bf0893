"""The noise of a score, from recorded runs: how far runs of one program scatter, and what of it a seed explains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from autoresearch_jax.errors import UserError

# E|x - mean| of normal noise is sigma * sqrt(2 / pi).
_SIGMA_OVER_MEAN_DEVIATION = math.sqrt(math.pi / 2)
# A sigma of few runs is itself uncertain: its square is taken larger by this share of itself per degree of freedom.
_CAUTION = 0.5
# Candidates may be worse by any amount; beyond this many sigma their distance says nothing more of their seed.
_FAR = 3.0
_MAX_SEED_CORRELATION = 0.9
# Of a slope that is believed: of three or four pairs each fourth shows a correlation that is not there.
_MIN_CORRELATION_DEGREES = 8


class NoiseError(UserError):
    """There is too little to tell noise from."""


@dataclass(frozen=True)
class Noise:
    """The noise floor.

    Attributes:
      sigma: standard deviation of one run, in the metric's unit; 0 if equal runs give equal scores.
      degrees: degrees of freedom of `sigma`: runs less programs.
      seed_correlation: correlation, from 0 to below 1, that two programs' runs with one seed surely have.
    """

    sigma: float
    degrees: int
    seed_correlation: float = 0.0

    @property
    def cautious_sigma(self) -> float:
        """Sigma with an allowance for how few runs it stands on."""
        return self.sigma * math.sqrt(1 + _CAUTION / self.degrees)


def estimate_noise(
    champions: Sequence[Sequence[float]], first_runs: Sequence[Sequence[tuple[float, float]]] = ()
) -> Noise:
    """The noise floor of a run so far, pooled over its champions.

    From the mean absolute deviation (Geary 1935), which an outlier moves less than it moves the standard deviation.
    Only runs that no decision hung on may enter: the baseline's, and those of a champion since it was kept. A candidate
    gets a second run because its first was lucky, so its replicates scatter too far.

    Args:
      champions: the runs of each champion so far.
      first_runs: for each champion, the first run of each of its candidates as (the champion's value with that seed,
        the candidate's value).

    Raises:
      NoiseError: no champion has two runs.
    """
    groups = [runs for runs in champions if len(runs) > 1]
    if not groups:
        raise NoiseError("noise shows in two runs of one program at least: set --baseline_runs to 2 or more")
    deviation = sum(abs(value - mean) for runs in groups for mean in [mean_of(runs)] for value in runs)
    expected = sum(math.sqrt(len(runs) * (len(runs) - 1)) for runs in groups)
    sigma = _SIGMA_OVER_MEAN_DEVIATION * deviation / expected
    degrees = sum(len(runs) - 1 for runs in groups)
    return Noise(sigma, degrees, _seed_correlation(first_runs, sigma))


def mean_of(values: Sequence[float]) -> float:
    """The mean, which of equal values is exactly their value."""
    return values[0] if min(values) == max(values) else fmean(values)


def _seed_correlation(first_runs: Sequence[Sequence[tuple[float, float]]], sigma: float) -> float:
    """Slope of candidates' first runs over the champion's runs with the same seeds, less its standard error.

    First runs only: whether there is a second one hangs on the first. The lower end of what the data allow, because too
    small a correlation only wastes runs, and one that is not there would forge evidence.
    """
    groups = [pairs for pairs in first_runs if len(pairs) > 1]
    xs: list[float] = []
    ys: list[float] = []
    for pairs in groups:
        middle = median(value for _, value in pairs)
        near = [max(-_FAR * sigma, min(_FAR * sigma, value - middle)) for _, value in pairs]
        xs += _centred([champion for champion, _ in pairs])
        ys += _centred(near)
    spread = sum(x * x for x in xs)
    degrees = len(xs) - len(groups) - 1
    if spread == 0 or degrees < _MIN_CORRELATION_DEGREES:
        return 0.0
    slope = sum(x * y for x, y in zip(xs, ys, strict=True)) / spread
    residual = sum((y - slope * x) ** 2 for x, y in zip(xs, ys, strict=True)) / degrees
    return max(0.0, min(_MAX_SEED_CORRELATION, slope - math.sqrt(residual / spread)))


def _centred(values: Sequence[float]) -> list[float]:
    mean = fmean(values)
    return [value - mean for value in values]


def next_paired_seed(champion: Sequence[int], used: Sequence[int], start: int) -> int | None:
    """The seed of the champion's that a candidate runs with next, or None if it has used them all.

    Candidates begin at different ones, in turn: with one and the same, all would share its luck.

    Args:
      champion: seeds of the champion's runs.
      used: seeds of the candidate's runs so far.
      start: a number that goes up by one for each candidate.
    """
    ahead = (champion[(start + step) % len(champion)] for step in range(len(champion)))
    return next((seed for seed in ahead if seed not in used), None)


def round_to_noise(score: float, sigma: float) -> float:
    """A score as proposers see it: to the nearest step of the noise floor.

    Digits below the noise tell a proposer nothing of its idea, and each time something of the validation text; without
    them that set stays fresh for far more questions ("The Ladder", Blum and Hardt 2015). The step is sigma rounded up
    to 1, 2 or 5 times a power of ten, so that the number is short, too.
    """
    if sigma <= 0:
        return score
    digits = math.floor(math.log10(sigma))
    factor = next(factor for factor in (1, 2, 5, 10, 20) if factor * 10.0**digits >= sigma)
    step = factor * 10.0**digits
    return round(round(score / step) * step, max(0, -digits))
