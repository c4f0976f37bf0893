"""Simulates nights of 100 ideas without effect under each rule of decision; called by bench_decisions.sh.

Noise has standard deviation 1 and is normal or, with suffix `_t4`, Student's t with 4 degrees of freedom. At random
times of the night an idea with a true gain is tried, too; what it does to the night is undone. Each figure is the last
lines' `key: value`, of the sequential rule with its defaults:
  false_keeps_per_100_nulls  ideas without effect that were kept
  runs_per_null              runs per idea without effect; the baseline's and the champions' are in it
  power_2_sigma              probability to keep a true gain of 2 standard deviations, at a random time of the night
  power_3_sigma              the same for 3
  champion_bias_sigma        the champion's reported score less its true one, after the night
"""

import argparse
import functools
import itertools
import math
import platform
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from statistics import fmean

from autoresearch_jax.measurement import Metric
from autoresearch_jax.search.decision import Evidence, GreedyDecision, Score, Step
from autoresearch_jax.search.noise import Noise, estimate_noise, next_paired_seed
from autoresearch_jax.search.sequential import SequentialDecision, SequentialSettings

METRIC = Metric("score")
IDEAS = 100
PROBES = 8  # ideas with each true gain, a night
GAINS = (1.0, 2.0, 3.0)


@dataclass
class Machine:
    """Measures programs whose true score is known.

    Attributes:
      random: where all noise comes from.
      heavy: draw from Student's t with 4 degrees of freedom.
      correlation: of the runs of two programs with one seed.
    """

    random: random.Random
    heavy: bool
    correlation: float = 0.0
    num_runs: int = 0
    shared: dict[int, float] = field(default_factory=dict)

    def run(self, truth: float, seed: int | None = None) -> Score:
        """One run; with the seed of an earlier one, if given."""
        self.num_runs += 1
        if seed is None:
            seed = len(self.shared)
            self.shared[seed] = self._draw()
            return Score(seed, truth + self.shared[seed])
        share = self.correlation
        return Score(seed, truth + share * self.shared[seed] + math.sqrt(1 - share**2) * self._draw())

    def _draw(self) -> float:
        normal = self.random.gauss(0, 1)
        if not self.heavy:
            return normal
        return normal / math.sqrt(self.random.gammavariate(2, 2) / 4) / math.sqrt(2)  # t4 has variance 2


class Greedy:
    """One run; whatever is lower is kept."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.truth = 0.0
        self._champion = [machine.run(0.0)]

    def judge(self, truth: float, for_real: bool) -> bool:
        """Tries an idea; if it is kept for real, it is the champion then."""
        runs = [self._machine.run(truth)]
        kept = GreedyDecision(METRIC).decide(Evidence(self._champion, runs)).step is Step.KEEP
        if kept and for_real:
            self.truth, self._champion = truth, runs
        return kept

    @property
    def reported(self) -> float:
        """The champion's score as it is shown."""
        return self._champion[0].value


class Bootstrap:
    """Three runs of each; kept if 95 % of all resamples say that it is better, and with the runs it was kept for."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.truth = 0.0
        self._champion = self._measure(0.0)

    def _measure(self, truth: float) -> list[float]:
        return [self._machine.run(truth).value for _ in range(3)]

    def judge(self, truth: float, for_real: bool) -> bool:
        """See `Greedy.judge`."""
        runs = self._measure(truth)
        old, new = _resampled_sums(self._champion), _resampled_sums(runs)
        kept = sum(len(new) - bisect_right(old, value) for value in new) >= 0.95 * len(old) * len(new)
        if kept and for_real:
            self.truth, self._champion = truth, runs
        return kept

    @property
    def reported(self) -> float:
        """See `Greedy.reported`."""
        return fmean(self._champion)


def _resampled_sums(values: Sequence[float]) -> list[float]:
    return sorted(sum(sample) for sample in itertools.product(values, repeat=len(values)))


class Sequential:
    """The rule of search/sequential.py, and what a loop has to do for it."""

    def __init__(self, machine: Machine, paired: bool = True) -> None:
        self._machine = machine
        self._paired = paired
        self._rule = SequentialDecision(METRIC)
        self._former: list[list[float]] = []
        self._first_runs: list[list[tuple[float, float]]] = []
        self._num_ideas = 0
        self._anchor: list[Score] = []
        self._crown(0.0)

    def _crown(self, truth: float) -> None:
        self.truth = truth
        self._champion = [self._machine.run(truth) for _ in range(self._rule.baseline_runs)]
        self._first_runs.append([])

    def judge(self, truth: float, for_real: bool, nodes_saved: int = 0) -> bool:
        """See `Greedy.judge`."""
        champion = self._champion if for_real else list(self._champion)
        noise = self._noise(champion)
        runs: list[Score] = []
        step = Step.MEASURE_CANDIDATE
        while step in (Step.MEASURE_CANDIDATE, Step.MEASURE_CHAMPION):
            if step is Step.MEASURE_CHAMPION:
                champion.append(self._machine.run(self.truth))
                noise = self._noise(champion)
            else:
                seed = None
                if self._paired:
                    used = [run.seed for run in runs]
                    seed = next_paired_seed([run.seed for run in champion], used, self._num_ideas)
                runs.append(self._machine.run(truth, seed))
            step = self._rule.decide(Evidence(champion, runs, noise, nodes_saved, self._anchor)).step
        if for_real:
            self._num_ideas += 1
            pair = [(run.value, runs[0].value) for run in champion if run.seed == runs[0].seed]
            self._first_runs[-1] += pair
            if step.keeps:
                self._anchor = (self._anchor or champion) if step is Step.KEEP_SIMPLER else []
                self._former.append([run.value for run in champion])
                self._crown(truth)
        return step.keeps

    def _noise(self, champion: Sequence[Score]) -> Noise:
        return estimate_noise([*self._former, [run.value for run in champion]], self._first_runs)

    @property
    def reported(self) -> float:
        """See `Greedy.reported`."""
        return fmean(run.value for run in self._champion)


Rule = Greedy | Bootstrap | Sequential
RULES: dict[str, Callable[[Machine], Rule]] = {
    "greedy": Greedy,
    "bootstrap over 3 runs": Bootstrap,
    "sequential": Sequential,
    "sequential, own seeds": functools.partial(Sequential, paired=False),
}


@dataclass(frozen=True)
class Night:
    """What came of a night, or the mean of many."""

    false_keeps: float
    runs_per_null: float
    bias: float
    first: tuple[float, ...]
    power: tuple[float, ...]


def simulate(make: Callable[[Machine], Rule], machine: Machine) -> Night:
    """One night of ideas without effect, with probes of true gains in between."""
    rule = make(machine)
    num_runs, keeps = machine.num_runs, 0
    first = tuple(float(rule.judge(-gain, for_real=False)) for gain in GAINS)
    probes = [machine.random.randrange(IDEAS) for _ in range(PROBES)]
    hits = [0] * len(GAINS)
    for idea in range(IDEAS):
        for _ in range(probes.count(idea)):
            hits = [hit + rule.judge(-gain, for_real=False) for hit, gain in zip(hits, GAINS, strict=True)]
        before = machine.num_runs
        keeps += rule.judge(0.0, for_real=True)
        num_runs += machine.num_runs - before
    return Night(keeps, num_runs / IDEAS, rule.reported, first, tuple(hit / PROBES for hit in hits))


def average(nights: Sequence[Night]) -> Night:
    """The mean of many nights."""

    def mean(values: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
        return tuple(map(fmean, zip(*values, strict=True)))

    return Night(
        fmean(night.false_keeps for night in nights),
        fmean(night.runs_per_null for night in nights),
        fmean(night.bias for night in nights),
        mean([night.first for night in nights]),
        mean([night.power for night in nights]),
    )


def simulate_one(rule: str, correlation: float, heavy: bool, seed: str) -> Night:
    """One night, from names that another process can be told."""
    return simulate(RULES[rule], Machine(random.Random(seed), heavy, correlation))


def print_table(pool: Executor, nights: int, seed: int) -> dict[str, Night]:
    """Prints what each rule does; returns the figures of the sequential one by suffix."""
    print("power: of the first idea of a night/of one at a random time of it")
    print(f"{'rule':<32}{'noise':<8}false keeps  runs   bias    " + "".join(f"power {g:g} sigma  " for g in GAINS))
    rows = [("greedy", 0.0), ("bootstrap over 3 runs", 0.0), ("sequential", 0.0)]
    rows += [("sequential, own seeds", 0.5), ("sequential", 0.5)]
    figures = {}
    for (rule, correlation), heavy in itertools.product(rows, (False, True)):
        seeds = [f"{seed} {night}" for night in range(nights)]
        one = functools.partial(simulate_one, rule, correlation, heavy)
        mean = average(list(pool.map(one, seeds, chunksize=10)))
        powers = "".join(f"{first:.3f}/{later:.3f}    " for first, later in zip(mean.first, mean.power, strict=True))
        name = f"{rule}, rho {correlation:g}" if correlation else rule
        print(
            f"{name:<32}{'t4' if heavy else 'normal':<8}{mean.false_keeps:<13.3f}{mean.runs_per_null:<7.3f}"
            f"{mean.bias:<+8.3f}{powers}",
            flush=True,
        )
        if (rule, correlation) == ("sequential", 0.0):
            figures["_t4" if heavy else ""] = mean
    return figures


def print_curve(nights: int, seed: int) -> None:
    """Prints what becomes of the first idea of a night, by its true gain, and how many runs that takes."""
    print("the first idea of a night: kept with normal noise, with t4, and runs until decided with normal noise")
    for gain in (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0):
        kept, runs = [], []
        for heavy in (False, True):
            machines = [Machine(random.Random(f"{seed} curve {gain} {night}"), heavy) for night in range(nights)]
            rules = [Sequential(machine) for machine in machines]
            before = fmean(machine.num_runs for machine in machines)
            kept.append(fmean(rule.judge(-gain, for_real=False) for rule in rules))
            runs.append(fmean(machine.num_runs for machine in machines) - before)
        print(f"  gain {gain:<6g}{kept[0]:<8.3f}{kept[1]:<8.3f}{runs[0]:.1f}")


def print_mixed_nights(nights: int, seed: int) -> None:
    """Prints what is found, and what is claimed, where one idea in ten is good by 2 sigma, and half are bad by 2."""
    print("nights of 10 gains of 2 sigma, 40 ideas without effect, 50 losses of 2 sigma; in sigma, normal noise:")
    for name in ("greedy", "bootstrap over 3 runs", "sequential"):
        found, claimed, runs = [], [], []
        for night in range(nights):
            machine = Machine(random.Random(f"{seed} mixed {night}"), heavy=False)
            rule = RULES[name](machine)
            effects = [-2.0] * 10 + [0.0] * 40 + [2.0] * 50
            machine.random.shuffle(effects)
            for effect in effects:
                rule.judge(rule.truth + effect, for_real=True)
            found.append(-rule.truth)
            claimed.append(-rule.reported)
            runs.append(machine.num_runs)
        print(f"  {name:<24}gained {fmean(found):<8.2f}reported {fmean(claimed):<8.2f}runs {fmean(runs):.0f}")


def print_simplifications(nights: int, seed: int) -> None:
    """Prints what becomes of shorter sources that are worse, and how far a chain of them can lead."""
    kept = []
    for loss in (0.0, 0.5, 1.0, 2.0, 3.0):
        machines = [Machine(random.Random(f"{seed} {loss} {night}"), heavy=False) for night in range(nights)]
        share = fmean(Sequential(machine).judge(loss, True, nodes_saved=1) for machine in machines)
        kept.append(f"{loss:g}: {share:.3f}")
    print(f"shorter sources, normal noise: kept, by true loss in sigma   {'   '.join(kept)}")
    for loss in (0.5, 1.0):
        ends = []
        for night in range(nights // 10):
            rule = Sequential(Machine(random.Random(f"{seed} chain {loss} {night}"), heavy=False))
            for _ in range(30):
                rule.judge(rule.truth + loss, True, nodes_saved=1)
            ends.append(rule.truth)
        print(f"  30 in a row, each {loss:g} worse than its champion: {fmean(ends):.2f} lost, at most {max(ends):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=1000, help="simulated for each row of the table")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.monotonic()
    print(f"machine: {platform.platform()}, Python {platform.python_version()}")
    print(f"{args.nights} nights a row, seed {args.seed}, {SequentialSettings()}")
    with ProcessPoolExecutor(2) as pool:
        figures = print_table(pool, args.nights, args.seed)
    print_curve(args.nights, args.seed)
    print_mixed_nights(args.nights // 10, args.seed)
    print_simplifications(args.nights, args.seed)
    print(f"seconds: {time.monotonic() - start:.0f}")
    for suffix, mean in figures.items():
        print(f"false_keeps_per_100_nulls{suffix}: {mean.false_keeps:.3f}")
        print(f"runs_per_null{suffix}: {mean.runs_per_null:.3f}")
        print(f"power_2_sigma{suffix}: {mean.power[1]:.3f}")
        print(f"power_3_sigma{suffix}: {mean.power[2]:.3f}")
        print(f"champion_bias_sigma{suffix}: {mean.bias:+.3f}")


if __name__ == "__main__":
    main()
