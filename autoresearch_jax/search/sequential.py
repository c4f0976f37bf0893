"""The sequential rule: keep, discard, or measure once more, from recorded scores and the noise they scatter by.

A sequential probability-ratio test (Wald 1945) of "better by the smallest effect" against "no better". What it does to
ideas of each size is measured by scripts/bench_decisions.sh and explained in docs/decisions.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from autoresearch_jax.errors import UsageError
from autoresearch_jax.measurement import Metric, Scalar
from autoresearch_jax.search.decision import Evidence, PeakMemory, Ruling, Score, Step, mean_score
from autoresearch_jax.search.noise import Noise, NoiseError

# A run counts as no further than this many sigma from the middle between "gain" and "no gain" (Huber 1965): noise with
# heavy tails has runs so lucky that one of them would decide.
_MAX_SURPRISE = 1.2
_MIN_RUNS = 2
# Runs of the champion for each of a candidate that is still in question; they serve all candidates after it, too.
_CHAMPION_RUNS_PER_RUN = 3
# Where each run of a candidate is better by so many smallest effects, the champion's own error cannot be what is seen.
_FAR = 1.5


def _best_log_odds(effect: float, num_runs: int, num_champion_runs: int) -> float:
    """The most that so many runs can say for a gain, however large it is: each counts up to `_MAX_SURPRISE` only."""
    return effect * _MAX_SURPRISE / (1 / num_runs + 1 / num_champion_runs)


@dataclass(frozen=True)
class SequentialSettings:
    """What the rule is asked to find, and at what risk.

    Attributes:
      alpha: largest probability to keep an idea without effect.
      power: smallest probability to keep a gain of `smallest_effect`, but for `max_runs`. Both are bounds that a test
        may not cross wherever it stops; what the rule reaches is better than either, see docs/decisions.md.
      smallest_effect: smallest gain worth finding, in standard deviations of one run.
      max_runs: most runs of one candidate, and of one champion.
      baseline_runs: runs of the baseline, and of each new champion, before anything is compared with it.
      memory_percent: extra peak memory that is free, and what each further `smallest_effect` of gain buys of it.

    Raises:
      UsageError: a value that makes no sense.
    """

    alpha: float = 0.005
    power: float = 0.6
    smallest_effect: float = 2.0
    max_runs: int = 16
    baseline_runs: int = 6
    memory_percent: float = 20.0

    def __post_init__(self) -> None:
        if self.baseline_runs < 2:
            raise UsageError(
                f"--baseline_runs={self.baseline_runs}: noise shows in two runs at least; "
                "set 2 or more (6 is a good number), or take --decision=greedy"
            )
        if not 0 < self.alpha < 1:
            raise UsageError(f"--alpha={self.alpha:g}: a probability between 0 and 1, such as 0.005")
        if not 0 < self.power < 1:
            raise UsageError(f"--power={self.power:g}: a probability between 0 and 1, such as 0.6")
        if not 0 < self.smallest_effect < math.inf:
            raise UsageError(f"--smallest_effect={self.smallest_effect:g}: a number of standard deviations above 0")
        if self.max_runs < max(2, self.baseline_runs):
            raise UsageError(f"--max_runs={self.max_runs}: at least 2, and no fewer than --baseline_runs")
        if _best_log_odds(self.smallest_effect, self.max_runs, self.max_runs) < math.log(1 / self.alpha):
            fewest = math.ceil(2 * math.log(1 / self.alpha) / (self.smallest_effect * _MAX_SURPRISE))
            raise UsageError(
                f"--max_runs={self.max_runs}: nothing could ever be kept with --alpha={self.alpha:g} and "
                f"--smallest_effect={self.smallest_effect:g}; set {fewest} or more"
            )
        if not 0 < self.memory_percent < math.inf:
            raise UsageError(f"--memory_percent={self.memory_percent:g}: a percentage above 0")


@dataclass(frozen=True)
class SequentialDecision:
    """Keeps what is better beyond its noise, or no worse and shorter."""

    metric: Metric
    risk: SequentialSettings = SequentialSettings()

    @property
    def baseline_runs(self) -> int:
        """See `DecisionRule.baseline_runs`."""
        return self.risk.baseline_runs

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """See `DecisionRule.settings`."""
        return {"decision": "sequential", **asdict(self.risk)}

    def decide(self, evidence: Evidence) -> Ruling:
        """See `DecisionRule.decide`.

        Raises:
          NoiseError: the evidence has no noise floor.
        """
        if evidence.noise is None:
            raise NoiseError("the sequential rule needs a noise floor: two runs of one program at least")
        noise = evidence.noise
        step, why = self._without_noise(evidence) if noise.sigma == 0 else self._with_noise(evidence, noise)
        return Ruling(step, f"{self._comparison(evidence, noise)}: {why}")

    def _toll(self, evidence: Evidence) -> float:
        return memory_toll(evidence.memory, self.risk.memory_percent)

    def _is_simpler(self, evidence: Evidence) -> bool:
        """True if no worse is good enough: a shorter source, for no more memory."""
        return evidence.nodes_saved > 0 and self._toll(evidence) == 0

    def _without_noise(self, evidence: Evidence) -> tuple[Step, str]:
        """Equal means equal, and any difference counts at once."""
        gain = self._mean_gain(evidence)
        if gain > 0:
            return Step.KEEP, "there is no noise, so it is a gain"
        if gain == 0 and self._is_simpler(evidence):
            return Step.KEEP_SIMPLER, f"there is no noise, and {_nodes(evidence)}"
        return Step.DISCARD, "there is no noise, so it is no gain"

    def _with_noise(self, evidence: Evidence, noise: Noise) -> tuple[Step, str]:
        settings = self.risk
        num_runs, num_champion_runs = len(evidence.candidate), len(evidence.champion)
        keep_at, discard_at = math.log(1 / settings.alpha), math.log(1 - settings.power)

        effect, toll = settings.smallest_effect, self._toll(evidence) * settings.smallest_effect
        log_odds = self._log_odds(evidence.champion, evidence.candidate, noise, over=toll)
        keep = Step.KEEP
        words = f"likelier if the gain is {effect + toll:.3g} sigma than if "
        words += f"it is {toll:.3g}, the price of its memory" if toll else "there is none"
        if self._is_simpler(evidence) and log_odds < keep_at:
            keep = Step.KEEP_SIMPLER
            log_odds = self._log_odds(evidence.anchor or evidence.champion, evidence.candidate, noise, over=-effect)
            before = (
                f" than {mean_score(evidence.anchor):.6f} before the last simplification" if evidence.anchor else ""
            )
            words = f"likelier if it is no worse{before} than if it loses {effect:.3g} sigma, and {_nodes(evidence)}"
        why = f"{_times(log_odds)} {words} ({1 / settings.alpha:.3g} keeps, {1 - settings.power:.2g} discards)"

        can_decide = _best_log_odds(effect, settings.max_runs, num_champion_runs) >= keep_at
        is_known = num_champion_runs >= settings.max_runs
        is_known = is_known or (can_decide and self._is_far_better(evidence, noise, toll))
        if log_odds >= keep_at and num_runs >= _MIN_RUNS:
            if not is_known:
                return Step.MEASURE_CHAMPION, f"{why}; first the champion is measured as often as may be"
            return keep, why
        if log_odds <= discard_at:
            return Step.DISCARD, why
        if num_runs >= settings.max_runs:
            return Step.DISCARD, f"{why}; in doubt after {num_runs} runs, the most allowed"
        wanted = settings.baseline_runs + _CHAMPION_RUNS_PER_RUN * num_runs
        if num_champion_runs < wanted and not is_known:
            return Step.MEASURE_CHAMPION, f"{why}; the champion must be known better to tell"
        return Step.MEASURE_CANDIDATE, why

    def _is_far_better(self, evidence: Evidence, noise: Noise, toll: float) -> bool:
        """True if no run of the candidate leaves a doubt that more runs of the champion could clear up."""
        mean, enough = mean_score(evidence.champion), toll + _FAR * self.risk.smallest_effect
        gains = [self.metric.gain(score.value, over=mean) for score in evidence.candidate]
        return min(gains) > enough * noise.cautious_sigma

    def _log_odds(self, reference: Sequence[Score], candidate: Sequence[Score], noise: Noise, over: float) -> float:
        """Log of how much likelier the scores are with a gain of `over` + the smallest effect than with one of `over`.

        The difference of the means and its variance hold the reference's error, too, so this is the ratio for all the
        data: for normal noise of known sigma, and without the gain, it ever reaches 1 / alpha with probability alpha
        at most, however often one looks (Ville 1939). Where seeds are equal, what the reference's luck says of the
        candidate's is taken off.

        Args:
          reference: the runs to compare with.
          candidate: the candidate's runs.
          noise: the noise floor.
          over: in sigma.
        """
        sigma, correlation = noise.cautious_sigma, noise.seed_correlation
        middle = self.risk.smallest_effect / 2
        bound = _MAX_SURPRISE * math.sqrt(1 - correlation**2)
        mean = mean_score(reference)
        luck = {score.seed: self.metric.gain(score.value, over=mean) for score in reference}
        total, num_paired = 0.0, 0
        for score in candidate:
            gain = self.metric.gain(score.value, over=mean)
            if score.seed in luck:
                gain -= correlation * luck[score.seed]
                num_paired += 1
            total += max(-bound, min(bound, gain / sigma - over - middle))
        num_runs = len(candidate)
        variance = (num_runs - correlation**2 * num_paired) / num_runs**2
        variance += (1 - correlation * num_paired / num_runs) ** 2 / len(reference)
        return 2 * middle * total / num_runs / variance

    def _mean_gain(self, evidence: Evidence) -> float:
        return self.metric.gain(mean_score(evidence.candidate), over=mean_score(evidence.champion))

    def _comparison(self, evidence: Evidence, noise: Noise) -> str:
        gain, sigma = self._mean_gain(evidence), noise.sigma
        if gain == 0:
            difference = "equal"
        else:
            difference = f"{abs(gain):.3g} {'better' if gain > 0 else 'worse'}"
            if sigma > 0:
                difference += f" or {abs(gain) / sigma:.1f} sigma of {sigma:.2g}"
        return (
            f"{self.metric.name} {mean_score(evidence.candidate):.6f} in {_runs(evidence.candidate)} against the "
            f"champion's {mean_score(evidence.champion):.6f} in {_runs(evidence.champion)}, {difference}"
        )


def memory_toll(memory: PeakMemory, percent: float) -> float:
    """What a candidate's extra memory must be paid with, in smallest effects; 0 if it is free, or not known.

    Up to `percent` more than the baseline's is free, each further `percent` costs one smallest effect, and what the
    champion has paid for is paid. So small steps cost as much as one large one, and nothing is sold back.

    Args:
      memory: of candidate, champion and baseline.
      percent: see `SequentialSettings.memory_percent`.
    """
    candidate, champion, baseline = memory.candidate, memory.champion, memory.baseline
    if candidate is None or champion is None or not baseline:
        return 0.0

    def price(peak: float) -> float:
        return max(0.0, (peak / baseline - 1) * 100 / percent - 1)

    return max(0.0, price(candidate) - price(champion))


def _times(log_odds: float) -> str:
    if log_odds > math.log(1000):
        return "over 1000 times"
    odds = math.exp(log_odds)
    return f"{odds:.0f} times" if odds >= 10 else f"{odds:.2g} times"


def _nodes(evidence: Evidence) -> str:
    return f"it has {evidence.nodes_saved} syntax node{'' if evidence.nodes_saved == 1 else 's'} fewer"


def _runs(scores: Sequence[Score]) -> str:
    return f"{len(scores)} run{'' if len(scores) == 1 else 's'}"
