"""Simulates nights with and without early stopping on recorded curves; called by bench_prune.sh.

The curves are of real trainings (bench_prune_curves.py), in two recordings with seeds and proposals of their own. What
search/pruning.py does was tuned on the first, the figures are of the second. A night takes the candidates of a
recording in an order drawn at random and goes by the loop's own rules: three runs of the baseline, the lineage rule
with its further runs, six fresh runs of each new champion. The first run of a candidate has its recorded score and
curve; further runs scatter around that as the start's runs with other seeds do. What is known of curves is what ran to
its end in that night. Each night is simulated with pruning and without, in the same order. The last lines, of the
second recording:
  experiments_per_hour_ratio    with over without: all runs of a night count, a stopped one until it was stopped
  ratio_of_first_runs           the same if every candidate had one run only, as with --decision=greedy
  improvements_lost_share       of the candidates better than the champion of their time by more than the noise floor
                                (a run's standard deviation), the share that was stopped
  pruned_share                  of all candidates
  mean_fraction_of_pruned       of the budget, that they were trained for
  num_curves                    recorded, in both recordings
"""

import argparse
import math
import os
import platform
import random
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench_prune_curves import FOLDER, POINTS, START, Curve, read_curves, record
from bench_search_task import ROOT

from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.pruning import Finished, Pruning, find_allowances
from autoresearch_jax.decide.rule import Action, Complexity, LineageRule
from autoresearch_jax.types import CURVE_POINTS, Metric

TUNED_ON, REPORTED = 1, 2  # seeds of the recordings
TRIALS = 75  # of each, beside the start's
METRIC = Metric("val_bpb")
LEARN_AGAIN = 1.1  # see `Lineage`; it saves time
FIGURES = (
    *("experiments_per_hour_ratio", "ratio_of_first_runs", "improvements_lost_share"),
    *("pruned_share", "mean_fraction_of_pruned"),
)


@dataclass(frozen=True)
class Trial:
    """A recorded trial as the loop would see it: bits per byte at each point of the curve, and in the end."""

    losses: Sequence[float]
    final: float | None


@dataclass
class Night:
    """What a simulated night gave.

    Attributes:
      seconds: of all its runs.
      first_seconds: of the candidates' first runs.
      fractions: of the budget, at which candidates were stopped.
      improvements: candidates that were better than the champion by more than the noise floor.
      lost: those of them that were stopped.
      better: candidates that were better than the champion by anything.
      better_lost: those of them that were stopped.
    """

    seconds: float = 0.0
    first_seconds: float = 0.0
    fractions: list[float] = field(default_factory=list)
    improvements: int = 0
    lost: int = 0
    better: int = 0
    better_lost: int = 0


class Simulator:
    """Nights on the candidates of one recording."""

    def __init__(self, curves: Sequence[Curve], overhead_seconds: float, budget_seconds: float) -> None:
        of_start = [curve for curve in curves if curve.origin == START]
        self._start = as_trial(of_start[0])
        self.candidates = [as_trial(curve) for curve in curves if curve.origin != START]
        self._sigma = statistics.stdev(curve.final for curve in of_start if curve.final is not None)
        self._overhead, self._budget = overhead_seconds, budget_seconds
        self._rule = LineageRule(METRIC)

    def night(self, seed: str, pruning: Pruning | None) -> Night:
        """One night; every candidate has its turn."""
        night, rng, lineage = Night(), random.Random(seed), Lineage(-1, learn_again=LEARN_AGAIN)
        champion, finished, measured = self._start, list[Finished](), 0
        lineage.begin(measured)
        self._observe(night, lineage, measured, champion, self._rule.baseline_runs, rng)
        lineage.conclude(measured, kept=True)
        for number, candidate in enumerate(rng.sample(self.candidates, len(self.candidates)), start=1):
            worse = math.inf if candidate.final is None else candidate.final - _final(champion)
            lucky = statistics.fmean(-run for run in lineage.runs_of(lineage.champion)) - _final(champion)
            allowances = {} if pruning is None else find_allowances(finished, pruning, lucky)
            stopped = next((p for p, by in allowances.items() if _behind(candidate, champion, p) > by), None)
            self._enter(night, worse, stopped)
            if stopped is None and candidate.final is not None:
                behind = [_behind(candidate, champion, point) for point in range(1, CURVE_POINTS + 1)]
                finished.append(Finished(behind, worse))
                lineage.begin(number)
                lineage.observe(number, _final(candidate))
                if self._is_kept(night, lineage, number, candidate, (measured, champion), rng):
                    champion, measured = candidate, number
                    self._observe(night, lineage, number, candidate, self._rule.fresh_runs, rng)
        return night

    def _enter(self, night: Night, worse: float, stopped: int | None) -> None:
        """Enters a candidate's first run."""
        seconds = self._overhead + self._budget * (stopped or CURVE_POINTS) / CURVE_POINTS
        night.seconds += seconds
        night.first_seconds += seconds
        night.better += worse < 0
        night.improvements += worse < -self._sigma
        if stopped is not None:
            night.fractions.append(stopped / CURVE_POINTS)
            night.better_lost += worse < 0
            night.lost += worse < -self._sigma

    def _is_kept(
        self,
        night: Night,
        lineage: Lineage,
        number: int,
        candidate: Trial,
        champion: tuple[int, Trial],
        rng: random.Random,
    ) -> bool:
        """What the rule makes of a candidate, after the further runs that it asks for."""
        while True:
            action = self._rule.decide(lineage, number, Complexity()).action
            if action is Action.MEASURE_CANDIDATE:
                self._observe(night, lineage, number, candidate, 1, rng)
            elif action is Action.MEASURE_CHAMPION:
                self._observe(night, lineage, *champion, 1, rng)
            else:
                lineage.conclude(number, kept=action.keeps)
                return action.keeps

    def _observe(
        self, night: Night, lineage: Lineage, number: int, trial: Trial, runs: int, rng: random.Random
    ) -> None:
        night.seconds += runs * (self._overhead + self._budget)
        for _ in range(runs):
            lineage.observe(number, rng.gauss(_final(trial), self._sigma))


def as_trial(curve: Curve) -> Trial:
    """In bits per byte, and in the points that the loop knows."""
    width = POINTS // CURVE_POINTS
    starts = range(0, len(curve.losses) - width + 1, width)
    return Trial([statistics.fmean(curve.losses[i : i + width]) / math.log(2) for i in starts], curve.final)


def _final(trial: Trial) -> float:
    assert trial.final is not None
    return trial.final


def _behind(candidate: Trial, champion: Trial, point: int) -> float:
    """How far a candidate is behind; one whose loss is no number any more has ended by itself."""
    return candidate.losses[point - 1] - champion.losses[point - 1] if point <= len(candidate.losses) else 0.0


def simulate(simulator: Simulator, nights: int, pruning: Pruning) -> dict[str, float]:
    """Figures over so many nights, each with pruning and without."""
    pruned = [simulator.night(f"night {number}", pruning) for number in range(nights)]
    whole = [simulator.night(f"night {number}", None) for number in range(nights)]

    def total(name: str, side: Sequence[Night] = pruned) -> float:
        return math.fsum(getattr(night, name) for night in side)

    fractions = [fraction for night in pruned for fraction in night.fractions]
    return {
        "experiments_per_hour_ratio": total("seconds", whole) / total("seconds"),
        "ratio_of_first_runs": total("first_seconds", whole) / total("first_seconds"),
        "improvements_lost_share": total("lost") / max(1.0, total("improvements")),
        "pruned_share": len(fractions) / nights / len(simulator.candidates),
        "mean_fraction_of_pruned": statistics.fmean(fractions or [1.0]),
        "improvements": total("improvements"),
        "better_lost_share": total("better_lost") / max(1.0, total("better")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="record curves first, where they lack")
    parser.add_argument("--nights", type=int, default=500)
    parser.add_argument("--overhead_seconds", type=float, default=4.0, help="of a trial, around its budget")
    parser.add_argument("--budget_seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    paths = {seed: FOLDER / f"train_lib_{seed}.jsonl" for seed in (TUNED_ON, REPORTED)}
    if arguments.record:
        warnings.filterwarnings("ignore", category=FutureWarning)  # Optuna's, of what a later version will not have
        for seed, path in paths.items():
            record(path, (ROOT / "train_lib.py").read_text(), seed, TRIALS)
    found, num_curves = {}, 0
    print(f"{'recording':<12}{'nights':>8}{'per hour':>10}{'first runs':>12}{'pruned':>8}{'at':>7}", end="")
    print(f"{'improvements':>14}{'lost':>8}{'better lost':>13}")
    for seed, path in paths.items():
        curves = read_curves(path)
        num_curves += len(curves)
        simulator = Simulator(curves, arguments.overhead_seconds, arguments.budget_seconds)
        found[seed] = row = simulate(simulator, arguments.nights, Pruning())
        print(
            f"{path.stem:<12}{arguments.nights:8d}{row['experiments_per_hour_ratio']:10.3f}"
            f"{row['ratio_of_first_runs']:12.3f}{row['pruned_share']:8.3f}{row['mean_fraction_of_pruned']:7.3f}"
            f"{row['improvements']:14.0f}{row['improvements_lost_share']:8.4f}{row['better_lost_share']:13.4f}"
        )
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for key in FIGURES:
        print(f"{key}: {found[REPORTED][key]:.4f}")
    print(f"num_curves: {num_curves}")


if __name__ == "__main__":
    main()
