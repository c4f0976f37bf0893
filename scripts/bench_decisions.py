"""Simulates nights of 300 runs under each rule of decision; called by bench_decisions.sh.

The decisions are the engine's own: `decide.rule` after each run, `decide.certification` after each keep and at the end.
A night's ideas have true gains drawn from a mix, in units of sigma, the standard deviation of a run:
  A         10 % +2, 40 % 0, 50 % -2
  B         15 % +1, 35 % 0, 50 % -2
  C         3 % +3, 47 % 0, 50 % -3
  D         normal, mean -1, standard deviation 1.2
  recorded  what the settings of scripts/curves gained over the start, with the noise of the recording in it
Noise is normal; with suffix `_t4` Student's t with 4 degrees of freedom; with `_drift` normal, and all scores move by
1 sigma in one direction over the night. All runs count, also those of baseline, champion and certification.

The last lines are `key: value`, for each SETTING (a --confidence, or greedy) and MIX:
  gain_SETTING_MIX                  true gain of the last champion over the baseline, in sigma
  bias_SETTING_MIX                  how much better the champion's reported score is than its true one, in sigma
  coverage_SETTING_MIX              share of nights in which the true score is in the reported 90 % interval
  certified_null_share_SETTING_MIX  of all certified edits, the share whose true effect is 0
  certification_cost_SETTING_MIX    with normal noise: share of the gain of the same nights without certification that
                                    is lost
  null_keeps_per_100_SETTING_MIX    edits kept, of 100 whose true effect is 0
and certified_losses: edits with a true loss of 2 sigma or more among all that were certified.

With drift, true scores are those at the end of the night.
"""

import argparse
import functools
import itertools
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.decide.certification import (
    CertificationSettings,
    MeasureChampion,
    certified,
    decide_revert,
    is_due,
    next_step,
    wanted_runs,
)
from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.rule import (
    CONFIDENCE,
    Action,
    Complexity,
    DecisionRule,
    GreedyRule,
    LineageRule,
    LineageSettings,
)
from autoresearch_jax.types import Metric

METRIC = Metric("loss")
RUNS = 300  # of a night
BASELINE = 100.0  # true score of the baseline, in sigma: the first guess of sigma is a fifth of it then
LEARN_AGAIN = 1.4  # see `Lineage`
GREEDY = "greedy"
Z_90 = 1.645
MIXES: dict[str, Sequence[tuple[float, float]]] = {
    "A": ((0.10, 2.0), (0.40, 0.0), (0.50, -2.0)),
    "B": ((0.15, 1.0), (0.35, 0.0), (0.50, -2.0)),
    "C": ((0.03, 3.0), (0.47, 0.0), (0.50, -3.0)),
}
NOISES = ("", "_t4", "_drift")
CURVES = Path(__file__).parent / "curves"


@dataclass(frozen=True)
class Result:
    """What came of a night, in sigma.

    Attributes:
      gain: true, of the last champion.
      bias: reported less true.
      covered: whether the 90 % interval holds the truth.
      certified: true gains of the certified edits.
      kept: true gains of the edits that the champion holds.
      nulls: ideas without effect, and how many of them were kept.
      ideas: all of them.
    """

    gain: float
    bias: float
    covered: bool
    certified: Sequence[float]
    kept: Sequence[float]
    nulls: tuple[int, int]
    ideas: int


class Night:
    """One night of a rule."""

    def __init__(
        self,
        rule: DecisionRule,
        certification: CertificationSettings | None,
        draw: Callable[[], float],
        run: "Machine",
        runs: int = RUNS,
    ) -> None:
        self._rule, self._certification = rule, certification
        self._draw, self._machine = draw, run
        self._lineage = Lineage(-1, LEARN_AGAIN)
        self._gains: dict[int, float] = {}  # of the edits that were kept, by number
        self._number = 0
        self._champion = 0  # number of the program that is champion
        self._looked_at: set[int] = set()
        self._keeps = self._certification_runs = 0
        self._runs = runs
        self._is_ending = False
        self.ideas = self._nulls = self._kept_nulls = 0

    def result(self) -> Result:
        """Runs the night."""
        self.begin()
        while self.step():
            pass
        return self._report()

    def begin(self) -> None:
        """Measures the baseline."""
        self._lineage.begin(0)
        self._observe(0, 0.0, self._rule.baseline_runs)
        self._lineage.conclude(0, kept=True)

    def step(self) -> bool:
        """Tries one more idea, and certifies; false if the night is over."""
        self._is_ending = self._is_ending or self._lineage.num_runs >= self._runs - self._reserve()
        if self._is_ending:
            return self._certify(at_end=True)
        gain = self._draw()
        kept = self._try(gain)
        self.ideas += 1
        self._nulls, self._kept_nulls = self._nulls + (gain == 0), self._kept_nulls + (kept and gain == 0)
        if self._certification is not None and is_due(self._keeps, self._certification):
            self._certify(at_end=False)
        return True

    @property
    def _truth(self) -> float:
        return math.fsum(gain for number, gain in self._gains.items() if number in self._lineage.champion)

    def _reserve(self) -> int:
        if self._certification is None:
            return 0
        return wanted_runs(self._lineage, self._looked_at, self._certification_runs, self._certification)

    def _observe(self, number: int, truth: float, runs: int = 1) -> None:
        for _ in range(min(runs, self._runs - self._lineage.num_runs)):
            self._lineage.observe(number, BASELINE - truth + self._machine.noise(self._lineage.num_runs))

    def _try(self, gain: float) -> bool:
        """Tries an idea; true if it is kept."""
        self._number += 1
        number, truth = self._number, self._truth
        self._lineage.begin(number)
        self._observe(number, truth + gain)
        action = self._rule.decide(self._lineage, number, Complexity()).action
        while self._lineage.num_runs < self._runs and action in (Action.MEASURE_CANDIDATE, Action.MEASURE_CHAMPION):
            if action is Action.MEASURE_CANDIDATE:
                self._observe(number, truth + gain)
            else:
                self._observe(self._champion, truth)
            action = self._rule.decide(self._lineage, number, Complexity()).action
        if action.keeps:
            self._gains[number] = gain
            self._crown(number)
            self._keeps += 1
        else:
            self._lineage.conclude(number, kept=False)
        return action.keeps

    def _crown(self, number: int) -> None:
        self._lineage.conclude(number, kept=True)
        self._champion = number
        self._observe(number, self._truth, self._rule.fresh_runs)

    def _certify(self, *, at_end: bool) -> bool:
        """Takes one step of certification; false if there is none."""
        if self._certification is None or self._lineage.num_runs >= self._runs:
            return False
        step = next_step(self._lineage, self._looked_at, self._certification_runs, self._certification, at_end=at_end)
        if step is None:
            return False
        before = self._lineage.num_runs
        if isinstance(step, MeasureChampion):
            self._observe(self._champion, self._truth)
        else:
            self._revert(step.edits)
        self._certification_runs += self._lineage.num_runs - before
        return True

    def _revert(self, edits: Sequence[int]) -> None:
        self._number += 1
        self._looked_at |= set(edits)
        self._keeps = 0
        self._lineage.begin(self._number, without=edits)
        truth = self._truth - math.fsum(self._gains[edit] for edit in edits)
        action = Action.MEASURE_CANDIDATE
        while action is Action.MEASURE_CANDIDATE and self._lineage.num_runs < self._runs:
            self._observe(self._number, truth)
            action = decide_revert(self._lineage, self._number, METRIC).action
        if action.keeps:
            self._crown(self._number)
        else:
            self._lineage.conclude(self._number, kept=False)

    def _report(self) -> Result:
        nulls = self._nulls, self._kept_nulls
        truth = self._truth - self._machine.drift_at(self._runs)
        kept = [self._gains[number] for number in self._lineage.champion]
        if isinstance(self._rule, GreedyRule):
            reported = self._lineage.runs_of(self._lineage.champion)[0] + BASELINE
            return Result(self._truth, reported - truth, False, (), kept, nulls, self.ideas)
        self._lineage.learn()
        score = self._lineage.posterior.score(self._lineage.champion)
        bias = score.mean + BASELINE - truth
        sure = [self._gains[number] for number in certified(self._lineage)]
        return Result(self._truth, bias, abs(bias) <= Z_90 * score.error, sure, kept, nulls, self.ideas)


class Machine:
    """Where the noise comes from."""

    def __init__(self, rng: random.Random, noise: str) -> None:
        self._rng, self._noise = rng, noise
        self._direction = rng.choice((-1, 1)) if noise == "_drift" else 0

    def noise(self, run: int) -> float:
        """Of a run, by its number in the night."""
        normal = self._rng.gauss(0, 1)
        if self._noise == "_t4":  # which has variance 2
            normal /= math.sqrt(self._rng.gammavariate(2, 2) / 4) * math.sqrt(2)
        return normal + self.drift_at(run)

    def drift_at(self, run: int) -> float:
        """How much worse all scores are by then."""
        return self._direction * run / RUNS


@functools.cache
def recorded_gains() -> tuple[float, ...]:
    """Gains over the start of each recording, in standard deviations of its start's runs."""
    gains: list[float] = []
    for path in sorted(CURVES.glob("*.jsonl")):
        curves = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        start = [curve["final"] for curve in curves if curve["origin"] == "start"]
        mean, sigma = statistics.fmean(start), statistics.stdev(start)
        gains += [
            (mean - curve["final"]) / sigma
            for curve in curves
            if curve["origin"] != "start" and curve["final"] is not None
        ]
    return tuple(gains)


def draw_gain(mix: str, rng: random.Random) -> float:
    """The true gain of an idea."""
    if mix == "D":
        return rng.gauss(-1, 1.2)
    if mix == "recorded":
        return rng.choice(recorded_gains())
    shares, gains = zip(*MIXES[mix], strict=True)
    found: float = rng.choices(gains, shares)[0]
    return found


def simulate(setting: str, mix: str, noise: str, certifies: bool, seed: str) -> Result:
    """One night, from names that another process can be told."""
    rule: DecisionRule = GreedyRule(METRIC)
    if setting != GREEDY:
        rule = LineageRule(METRIC, LineageSettings(**CONFIDENCE[setting]))
    ideas, runs = random.Random(f"{seed} {mix} ideas"), random.Random(f"{seed} {mix} runs")
    certification = CertificationSettings() if certifies and setting != GREEDY else None
    return Night(rule, certification, lambda: draw_gain(mix, ideas), Machine(runs, noise)).result()


def figures(name: str, nights: Sequence[Result], without: Sequence[Result]) -> Iterator[tuple[str, float]]:
    """Figures of one setting and mix; `without` certification, empty where that was not run."""
    gain = statistics.fmean(night.gain for night in nights)
    yield f"gain_{name}", gain
    yield f"bias_{name}", statistics.fmean(night.bias for night in nights)
    nulls, kept_nulls = (sum(night.nulls[place] for night in nights) for place in (0, 1))
    if not name.startswith(GREEDY):
        yield f"coverage_{name}", statistics.fmean(night.covered for night in nights)
        certified_gains = [gain for night in nights for gain in night.certified]
        yield f"certified_null_share_{name}", certified_gains.count(0.0) / max(1, len(certified_gains))
    if without:
        yield f"certification_cost_{name}", 1 - gain / statistics.fmean(night.gain for night in without)
    yield f"null_keeps_per_100_{name}", 100 * kept_nulls / max(1, nulls)


def line(name: str, nights: Sequence[Result]) -> str:
    """A row of the table."""
    error = statistics.stdev(night.gain for night in nights) / math.sqrt(len(nights))
    return (
        f"{name:<20}{statistics.fmean(night.gain for night in nights):8.2f} +- {error:4.2f}"
        f"{statistics.fmean(night.bias for night in nights):+8.2f}"
        f"{statistics.fmean(night.covered for night in nights):8.2f}"
        f"{statistics.fmean(len(night.kept) for night in nights):8.1f}"
        f"{statistics.fmean(len(night.certified) for night in nights):8.1f}"
        f"{sum(gain <= -2 for night in nights for gain in night.kept) / len(nights):8.3f}"
        f"{statistics.fmean(night.ideas for night in nights):8.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=200, help="of each row of the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", default=",".join((*CONFIDENCE, GREEDY)))
    parser.add_argument("--mixes", default=",".join((*MIXES, "D", "recorded")))
    parser.add_argument("--noises", default=",".join(noise.strip("_") or "normal" for noise in NOISES))
    args = parser.parse_args()
    noises = [noise for noise in NOISES if (noise.strip("_") or "normal") in args.noises.split(",")]
    start = time.monotonic()
    print(f"machine: {platform.platform()}, Python {platform.python_version()}")
    print(f"{args.nights} nights of {RUNS} runs a row, seed {args.seed}; in sigma")
    print(f"{'':20}    gain            bias covered    kept  certif.  losses  ideas")
    found: dict[str, float] = {}
    losses = 0
    with ProcessPoolExecutor(2) as pool:
        for noise, mix, setting in itertools.product(noises, args.mixes.split(","), args.settings.split(",")):
            seeds = [f"{args.seed} {night}" for night in range(args.nights)]
            one = functools.partial(simulate, setting, mix, noise)
            nights = list(pool.map(functools.partial(one, True), seeds, chunksize=10))
            without = []
            if setting != GREEDY and not noise:
                without = list(pool.map(functools.partial(one, False), seeds, chunksize=10))
            name = f"{setting}_{mix}{noise}"
            print(line(name, nights), flush=True)
            found |= dict(figures(name, nights, without))
            losses += sum(gain <= -2 for night in nights for gain in night.certified)
    print(f"seconds: {time.monotonic() - start:.0f}")
    for key, value in found.items():
        print(f"{key}: {value:.3f}")
    print(f"certified_losses: {losses}")


if __name__ == "__main__":
    main()
