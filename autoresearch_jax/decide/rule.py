"""What becomes of a candidate after each of its runs: keep, discard, or one more run of it or of the champion."""

import enum
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from autoresearch_jax.decide.gains import Gain
from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.posterior import NO_GAIN, Estimate
from autoresearch_jax.errors import UsageError
from autoresearch_jax.types import SCORE_DECIMALS, Metric, Scalar

# Of the gain per run that is expected before the run has shown its own, in sigma, and the runs that it weighs as.
_FIRST_RATE = 0.06
_FIRST_RATE_RUNS = 40
_MOST_RATE = 0.15  # one large gain early says little of what later runs will gain
_RUN_VARIANCE = 1.15  # of a run in sigma squared, wild ones included: a little above 1
_AHEAD = (1, 2, 4)  # further runs whose worth is looked at
_CERTAIN = 0.999  # probabilities are printed no closer to 0 or 1

LEAST_SHOWN = 1e-3  # sigma that a further run gains; less is shown as 0


class Action(enum.StrEnum):
    """What to do next with a candidate."""

    KEEP = "keep"
    KEEP_SIMPLER = "keep as a simplification"
    DISCARD = "discard"
    MEASURE_CANDIDATE = "measure again"
    MEASURE_CHAMPION = "measure the champion again"

    @property
    def keeps(self) -> bool:
        """True if the candidate becomes the champion."""
        return self in (Action.KEEP, Action.KEEP_SIMPLER)


@dataclass(frozen=True)
class Decision:
    """The next action and what it rests on."""

    action: Action  # what to do
    reason: str  # one line
    # of the candidate over its parent, in the metric's unit, positive where the candidate is better; None where the
    # rule estimates none
    gain: Estimate | None = None
    probability: float | None = None  # that the gain is above its price
    sigma: float | None = None  # standard deviation of a run, in the metric's unit; None where it is not known
    price: float = 0.0  # what the gain has to be above, for memory and length of the source, in the metric's unit


@dataclass(frozen=True)
class Complexity:
    """What a candidate costs beside its runs, compared with the champion."""

    nodes_added: int = 0  # of its source's tree, more than the champion's; negative if fewer
    memory: float | None = None  # its peak memory in bytes, None where it is not known
    champion_memory: float | None = None  # the champion's
    baseline_memory: float | None = None  # the baseline's, or what is little on the device if that is more
    # of the champion over the last champion that was kept for its gain, in the metric's unit: what simplifications
    # since then lost counts. 0 unless the champion is a simplification.
    anchor_gain: Estimate = NO_GAIN
    unit: str = "syntax nodes"  # what the nodes are called

    def memory_toll(self, percent: float) -> float:
        """What extra memory asks for, in sigma; 0 if it is free or not known.

        Up to `percent` more than the baseline's is free, each further `percent` costs 1 sigma, and what the champion
        paid for is paid: small steps cost as much as one large one.
        """
        baseline = self.baseline_memory
        if self.memory is None or self.champion_memory is None or not baseline:
            return 0.0

        def price(peak: float) -> float:
            return max(0.0, (peak / baseline - 1) * 100 / percent - 1)

        return max(0.0, price(self.memory) - price(self.champion_memory))


@dataclass(frozen=True)
class LineageSettings:
    """When the lineage rule keeps and when it gives up; raises UsageError for a value that makes no sense."""

    keep_probability: float = 0.62  # least probability of a gain above its price that keeps
    # a candidate is given up once a further run gains less, in units of what a run of the night gains
    run_worth: float = 1.2
    max_runs: int = 8  # most runs of a candidate
    baseline_runs: int = 3  # runs of the baseline before anything is compared with it
    memory_percent: float = 20.0  # see `Complexity.memory_toll`
    nodes_price: float = 0.1  # sigma that 100 added nodes ask for
    loss_allowance: float = 0.5  # sigma that simplifications may lose in all since the last gain

    @classmethod
    def of(cls, settings: Mapping[str, Scalar]) -> "LineageSettings":
        """The settings as a run keeps them, see `LineageRule.settings`."""
        return cls(**{name: type(default)(settings[name]) for name, default in asdict(cls()).items()})

    def __post_init__(self) -> None:
        if self.baseline_runs < 2:
            raise UsageError(
                f"--baseline_runs={self.baseline_runs}: noise shows in two runs at least; "
                "set 2 or more (3 is a good number), or take --decision=greedy"
            )
        if not 0.5 <= self.keep_probability < 1:
            raise UsageError(f"--keep_probability={self.keep_probability:g}: at least 0.5 and below 1")
        if not 0 < self.run_worth < math.inf:
            raise UsageError(f"--run_worth={self.run_worth:g}: a number above 0")
        if self.max_runs < 1:
            raise UsageError(f"--max_runs={self.max_runs}: at least 1")
        if not 0 < self.memory_percent < math.inf:
            raise UsageError(f"--memory_percent={self.memory_percent:g}: a percentage above 0")
        for name in ("nodes_price", "loss_allowance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name}={getattr(self, name):g}: a number of sigma, 0 or more")


# By the names of --confidence; what is not said is as in `LineageSettings`.
CONFIDENCE: Mapping[str, Mapping[str, Any]] = {
    "fast": {"keep_probability": 0.5, "run_worth": 1.0, "max_runs": 8},
    "balanced": {"keep_probability": 0.62, "run_worth": 1.2, "max_runs": 8},
    "strict": {"keep_probability": 0.997, "run_worth": 1.5, "max_runs": 16},
}


class DecisionRule(Protocol):
    """Decides after each run of a candidate, from what was measured so far.

    Attributes:
      baseline_runs: runs of the baseline before anything is compared with it.
      fresh_runs: runs of a new champion, on seeds that no decision depended on, before it is compared with.
      settings: the rule's name, as "decision", and all that its decisions depend on; a run keeps to them.
    """

    @property
    def baseline_runs(self) -> int: ...

    @property
    def fresh_runs(self) -> int: ...

    @property
    def settings(self) -> Mapping[str, Scalar]: ...

    def decide(self, lineage: Lineage, number: int, complexity: Complexity) -> Decision:
        """The next action for an open program that has a run, after each run of it or of the champion."""


@dataclass(frozen=True)
class GreedyRule:
    """Keeps what came out better in a single run, luck included."""

    metric: Metric
    baseline_runs: int = 1
    fresh_runs: int = 0

    @property
    def settings(self) -> Mapping[str, Scalar]:
        return {"decision": "greedy"}

    def decide(self, lineage: Lineage, number: int, complexity: Complexity) -> Decision:
        value = lineage.sign * lineage.programs[number].runs[0]
        return decide_greedily(self.metric, value, lineage.sign * lineage.runs_of(lineage.champion)[0])


def decide_greedily(metric: Metric, value: float, champion: float) -> Decision:
    """Keeps the better of two scores, one run each."""
    gain = metric.gain(value, over=champion)
    reason = f"{metric.name} {value:.6f} against the champion's {champion:.6f} ({gain:+.6f}), one run each"
    action = Action.KEEP if metric.is_better(value, than=champion) else Action.DISCARD
    return Decision(action, reason, Estimate(gain, 0.0))


@dataclass(frozen=True)
class LineageRule:
    """Keeps an edit that is probably worth its price: a bet on the posterior of all runs so far, see lineage.py."""

    metric: Metric
    with_settings: LineageSettings = LineageSettings()
    fresh_runs: int = 1

    @property
    def baseline_runs(self) -> int:
        return self.with_settings.baseline_runs

    @property
    def settings(self) -> Mapping[str, Scalar]:
        return {"decision": "lineage", **asdict(self.with_settings)}

    def decide(self, lineage: Lineage, number: int, complexity: Complexity) -> Decision:
        settings, posterior = self.with_settings, lineage.posterior
        if posterior.sigma == 0:
            return self._decide_without_noise(lineage, number, complexity)
        gain = lineage.gain_of_candidate(number)
        toll = complexity.memory_toll(settings.memory_percent)
        price = toll + settings.nodes_price * max(0, complexity.nodes_added) / 100
        probability = gain.above(price)
        action, why = self._act(lineage, number, gain, price, probability)
        if action is Action.DISCARD and complexity.nodes_added < 0 and toll == 0:
            lost = complexity.anchor_gain  # by the simplifications before it
            allowed = settings.loss_allowance + lost.mean / posterior.sigma
            simpler = gain.above(-allowed, spread=lost.error / posterior.sigma)
            if simpler >= settings.keep_probability:
                action, saved = Action.KEEP_SIMPLER, -complexity.nodes_added
                why = f"P(loses less than {settings.loss_allowance:g} sigma) {shown(simpler)}, "
                unit = complexity.unit.removesuffix("s") if saved == 1 else complexity.unit
                why += f"and it has {saved} {unit} fewer"
        found = Estimate(posterior.sigma * gain.mean, posterior.sigma * math.sqrt(gain.variance))
        reason = f"{describe(self.metric, lineage, number)}, {describe_gain(found)}: {why}"
        return Decision(action, reason, found, probability, posterior.sigma, posterior.sigma * price)

    def _act(self, lineage: Lineage, number: int, gain: Gain, price: float, probability: float) -> tuple[Action, str]:
        settings = self.with_settings
        runs, posterior = len(lineage.programs[number].runs), lineage.posterior
        asked = "better" if price == 0 else f"gains more than its price of {price:.2g} sigma"
        why = f"P({asked}) {shown(probability)}"
        if probability >= settings.keep_probability and gain.mean > price:
            return Action.KEEP, f"{why}, {settings.keep_probability:g} keeps"
        if runs >= settings.max_runs:
            return Action.DISCARD, f"{why}, {settings.keep_probability:g} keeps; no more than {settings.max_runs} runs"
        rate = settings.run_worth * _gain_per_run(lineage)
        worth = worth_of_runs(gain.mean - price, gain.variance, posterior.learnt.seed_share)
        why += f", a further run would gain {worth if worth >= LEAST_SHOWN else 0:.2g} sigma"
        if worth < rate:
            return Action.DISCARD, f"{why}, less than the {rate:.2g} asked of a run"
        parent = lineage.parent_of(number)
        of_champion, its_runs = posterior.variance(parent), max(1, len(lineage.runs_of(parent)))
        # what a run takes off the variance; of the champion's no more than if its own runs were all that is known of it
        narrows = min(of_champion**2 / (of_champion + 1), 1 / (its_runs * (its_runs + 1)))
        is_of_parent = parent in lineage.programs[number].bases  # else the champion's score says nothing of its runs
        if is_of_parent and narrows > 1 / (runs * (runs + 1)):
            return Action.MEASURE_CHAMPION, f"{why}; the champion's error is the larger part of the doubt"
        return Action.MEASURE_CANDIDATE, why

    def _decide_without_noise(self, lineage: Lineage, number: int, complexity: Complexity) -> Decision:
        """Any difference counts, and equal means equal."""
        program, parent = lineage.programs[number], lineage.parent_of(number)
        runs = [run for run, base in zip(program.runs, program.bases, strict=True) if base == parent]
        gain = (runs or program.runs)[0] - lineage.posterior.score(parent if runs else program.bases[0]).mean
        if math.isclose(gain, 0.0, abs_tol=1e-12):
            gain = 0.0
        if not runs:  # it was moved, and may be worth something else upon another champion
            return Decision(Action.MEASURE_CANDIDATE, "not measured upon this champion yet", Estimate(gain, 0.0))
        action, why = Action.DISCARD, "no gain"
        toll = complexity.memory_toll(self.with_settings.memory_percent)
        if gain > 0:
            action, why = Action.KEEP, "a gain"
        elif gain == 0 and complexity.nodes_added < 0 and toll == 0:
            action, why = Action.KEEP_SIMPLER, f"and it has {-complexity.nodes_added} {complexity.unit} fewer"
        found = Estimate(gain, 0.0)
        reason = f"{describe(self.metric, lineage, number)}, {describe_gain(found)}: there is no noise, so it is {why}"
        return Decision(action, reason, found, float(gain > 0), 0.0)


def worth_of_runs(mean: float, variance: float, of_run: float) -> float:
    """Expected gain per run from measuring on before deciding, in sigma: the knowledge gradient (Frazier 2008).

    The alternative is to discard, which gains nothing.

    Args:
      mean: of the gain, less its price.
      variance: of the gain.
      of_run: variance of a further run, in sigma squared; 0 if further runs show nothing new.
    """
    if of_run <= 0 or variance <= 0:
        return 0.0
    worth = 0.0
    for runs in _AHEAD:
        spread = variance / math.sqrt(variance + of_run * _RUN_VARIANCE / runs)
        z = mean / spread
        expected = spread * math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) + mean * 0.5 * math.erfc(-z / math.sqrt(2))
        worth = max(worth, expected / runs)
    return worth


def _gain_per_run(lineage: Lineage) -> float:
    """What a run of the night gained so far, in sigma, drawn towards a first guess."""
    posterior = lineage.posterior
    total = posterior.score(lineage.champion).mean - posterior.score(frozenset()).mean
    in_sigma = max(0.0, total / posterior.sigma) if posterior.sigma > 0 else 0.0
    rate = (in_sigma + _FIRST_RATE * _FIRST_RATE_RUNS) / (lineage.num_runs + _FIRST_RATE_RUNS)
    return min(rate, _MOST_RATE)


def shown(probability: float) -> str:
    """A probability as people see it."""
    if probability > _CERTAIN:
        return f"> {_CERTAIN:g}"
    if probability < 1 - _CERTAIN:
        return f"< {1 - _CERTAIN:.3g}"
    return f"{probability:.3f}" if probability > 0.99 else f"{probability:.2g}"


def plus_minus(estimate: Estimate, decimals: int = SCORE_DECIMALS) -> str:
    """An estimate with its standard deviation, such as "1.5706 +- 0.0041": two digits of the error."""
    digits = decimals_of(estimate.error, decimals)
    mean = f"{estimate.mean:.{digits}f}"
    return f"{mean} +- {estimate.error:.{digits}f}" if 0 < estimate.error < math.inf else mean


def decimals_of(error: float, most: int = SCORE_DECIMALS) -> int:
    """Decimals of two digits of a standard deviation; `most` where there is none."""
    return min(max(1 - math.floor(math.log10(error)), 0), most) if 0 < error < math.inf else most


def describe(metric: Metric, lineage: Lineage, number: int) -> str:
    """The runs of an open program and its parent's score, in words."""
    runs = lineage.programs[number].runs
    score = lineage.posterior.score(lineage.parent_of(number))
    parent = Estimate(lineage.sign * score.mean, score.error)
    mean = lineage.sign * sum(runs) / len(runs)
    many = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{metric.name} {mean:.{SCORE_DECIMALS}f} in {many}, the champion's {plus_minus(parent)}"


def describe_gain(gain: Estimate) -> str:
    """A gain in words."""
    size = Estimate(abs(gain.mean), gain.error)
    return "equal" if gain.mean == 0 else f"{plus_minus(size)} {'better' if gain.mean > 0 else 'worse'}"
