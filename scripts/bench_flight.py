"""Simulates nights with several runs in flight; called by bench_flight.sh.

A night is one of bench_decisions.py: the engine's own decisions and certification, ideas from its mixes A to D, with
normal noise. Runs take between 0.9 and 1.1 of a unit of time. A free slot has, in this order: the fresh run of a
program that is about to be kept; a run of the champion that a decision waits for; a further run of a program under
test; a program without doubtful edits; a new idea. One program at a time is about to be kept, or is without some
edits; what was begun upon an earlier champion is moved to the one of now before it has another run or is kept.

The last lines are `key: value`, for N in flight; means over all mixes, each night beside the same with one in flight:
  gain_ratio_N           true gain of the last champion at equal runs, over that of one in flight
  time_ratio_N           time of the night over that of one in flight
  certified_null_per_100_N   certified edits without effect, of 100 ideas without effect
  moved_per_100_N        programs that were moved to a later champion, of 100 ideas
"""

import argparse
import functools
import heapq
import itertools
import math
import platform
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from bench_decisions import BASELINE, LEARN_AGAIN, METRIC, MIXES, RUNS, Machine, draw_gain

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
from autoresearch_jax.decide.rule import CONFIDENCE, Action, Complexity, LineageRule, LineageSettings

SHORTEST, LONGEST = 0.9, 1.1  # time of a run


@dataclass
class Program:
    """A program that is not decided on."""

    number: int
    is_revert: bool = False
    running: int = 0
    action: Action = Action.MEASURE_CANDIDATE


@dataclass
class Result:
    """What came of a night, gains in sigma."""

    gain: float
    time: float  # in units of a run's
    ideas: int
    nulls: int
    certified: Sequence[float]
    moved: int


@dataclass
class Flight:
    """One night with several runs in flight.

    Attributes:
      slots: how many runs there are at a time.
      ideas: where the gains of ideas are drawn from, by `mix`.
      pace: the same of how long runs take.
    """

    rule: LineageRule
    slots: int
    ideas: random.Random
    mix: str
    machine: Machine
    pace: random.Random
    certification: CertificationSettings = field(default_factory=CertificationSettings)

    def __post_init__(self) -> None:
        self.lineage = Lineage(-1, LEARN_AGAIN)
        self.gains: dict[int, float] = {}
        self.open: dict[int, Program] = {}
        self.now, self.started, self.numbers = 0.0, 0, 0
        self.in_flight: list[tuple[float, int, int, float]] = []  # end, run, program, true gain of what runs
        self.looked_at: set[int] = set()
        self.keeps = self.spent = self.num_ideas = self.nulls = self.moved = 0
        self.crowned: int | None = None  # is about to be kept
        self.champion = 0  # number of the program

    def result(self) -> Result:
        """Runs the night."""
        self.lineage.begin(0)
        self.open[0] = Program(0)
        for _ in range(self.rule.baseline_runs):
            self._start(0)
        while self.in_flight:
            self._finish()
            self._fill()
        self.lineage.learn()
        sure = [self.gains[number] for number in certified(self.lineage)]
        gain = math.fsum(self.gains[number] for number in self.lineage.champion)
        return Result(gain, self.now, self.num_ideas, self.nulls, sure, self.moved)

    def _start(self, number: int) -> None:
        """Begins a run of a program: of an open one, or of the champion."""
        if number in self.open:
            self.open[number].running += 1
        contents = self.lineage.programs[number].contents
        truth = math.fsum(self.gains[edit] for edit in contents)
        end = self.now + self.pace.uniform(SHORTEST, LONGEST)
        heapq.heappush(self.in_flight, (end, self.started, number, truth))
        self.started += 1

    def _finish(self) -> None:
        """The next run is over."""
        self.now, run, number, truth = heapq.heappop(self.in_flight)
        self.lineage.observe(number, BASELINE - truth + self.machine.noise(run))
        if number in self.open:  # else it is, or was, the champion
            self.open[number].running -= 1
        if not self.lineage.programs[0].kept:
            if self.lineage.num_runs >= self.rule.baseline_runs:
                self.lineage.conclude(0, kept=True)
                del self.open[0]
            return
        self._decide()

    def _decide(self) -> None:
        """Concludes all that can be concluded."""
        for program in list(self.open.values()):
            if program.number not in self.open or program.running:
                continue
            if program.number == self.crowned:
                self._crown(program)
            else:
                self._decide_one(program)

    def _decide_one(self, program: Program) -> None:
        number = program.number
        if program.is_revert:
            action = decide_revert(self.lineage, number, METRIC).action
        else:
            action = self.rule.decide(self.lineage, number, Complexity()).action
        if action is Action.DISCARD:
            self.lineage.conclude(number, kept=False)
            del self.open[number]
            return
        if self.lineage.is_stale(number):
            self.lineage.move(number)
            self.moved += 1
            self._decide_one(program)
            return
        program.action = action
        if action.keeps and self.crowned is None:
            self.crowned = number

    def _crown(self, program: Program) -> None:
        number = program.number
        self.lineage.conclude(number, kept=True)
        self.champion, self.crowned = number, None
        del self.open[number]
        self.keeps = 0 if program.is_revert else self.keeps + 1
        self._decide()  # what waited for it

    def _fill(self) -> None:
        """Gives free slots work."""
        while len(self.in_flight) < self.slots and self.started < RUNS and self._start_one():
            pass

    def _start_one(self) -> bool:
        if not self.lineage.programs[0].kept:
            return False
        waiting = [program for program in self.open.values() if not program.running]
        if self.crowned is not None and not self.open[self.crowned].running:
            self._start(self.crowned)
            return True
        asked = any(program.action is Action.MEASURE_CHAMPION for program in waiting)
        if asked and not self._runs_of_champion():
            self._start(self.champion)
            return True
        for program in waiting:
            if program.action is Action.MEASURE_CANDIDATE and program.number != self.crowned:
                self._start(program.number)
                self.spent += program.is_revert
                return True
        is_searching = self.started < RUNS - self._reserve()
        if is_searching and is_due(self.keeps, self.certification) and self._certify(at_end=False):
            return True
        if is_searching:
            self._begin_idea()
            return True
        others = [program for program in self.open.values() if not program.is_revert]
        return not others and self._certify(at_end=True)

    def _runs_of_champion(self) -> int:
        return sum(number == self.champion for _, _, number, _ in self.in_flight)

    def _reserve(self) -> int:
        if not self.lineage.programs[0].runs:
            return 0
        return wanted_runs(self.lineage, self.looked_at, self.spent, self.certification)

    def _begin_idea(self) -> None:
        self.numbers += 1
        gain = draw_gain(self.mix, self.ideas)
        self.num_ideas, self.nulls = self.num_ideas + 1, self.nulls + (gain == 0)
        self.gains[self.numbers] = gain
        self.lineage.begin(self.numbers)
        self.open[self.numbers] = Program(self.numbers)
        self._start(self.numbers)

    def _certify(self, *, at_end: bool) -> bool:
        """Starts a run of certification; false if there is none."""
        if any(program.is_revert for program in self.open.values()) or self.crowned is not None:
            return False
        step = next_step(self.lineage, self.looked_at, self.spent, self.certification, at_end=at_end)
        if step is None:
            return False
        if isinstance(step, MeasureChampion):
            left = wanted_runs(self.lineage, self.looked_at, self.spent, self.certification)
            if self._runs_of_champion() >= left:
                return False
            self._start(self.champion)
            self.spent += 1
            return True
        self.numbers += 1
        self.looked_at |= set(step.edits)
        self.keeps = 0
        self.lineage.begin(self.numbers, without=step.edits)
        self.open[self.numbers] = Program(self.numbers, is_revert=True)
        for _ in range(min(2, self.slots - len(self.in_flight), RUNS - self.started)):
            self._start(self.numbers)
            self.spent += 1
        return True


def simulate(mix: str, slots: int, seed: str) -> Result:
    """One night, from names that another process can be told."""
    rule = LineageRule(METRIC, LineageSettings(**CONFIDENCE["balanced"]))
    ideas, runs, pace = (random.Random(f"{seed} {mix} {what}") for what in ("ideas", "runs", "pace"))
    return Flight(rule, slots, ideas, mix, Machine(runs, ""), pace).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=100, help="of each mix and number in flight")
    parser.add_argument("--in_flight", default="1,2,4,8,16")
    parser.add_argument("--mixes", default=",".join((*MIXES, "D")))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.monotonic()
    print(f"machine: {platform.platform()}, Python {platform.python_version()}")
    print(f"{args.nights} nights of {RUNS} runs a row, seed {args.seed}; in sigma")
    found: dict[int, list[Result]] = {}
    with ProcessPoolExecutor(2) as pool:
        for slots, mix in itertools.product(map(int, args.in_flight.split(",")), args.mixes.split(",")):
            seeds = [f"{args.seed} {night}" for night in range(args.nights)]
            nights = list(pool.map(functools.partial(simulate, mix, slots), seeds, chunksize=5))
            found.setdefault(slots, []).extend(nights)
            gains = [night.gain for night in nights]
            error = statistics.stdev(gains) / math.sqrt(len(gains))
            print(
                f"{slots:>3} {mix}: gain {statistics.fmean(gains):6.2f} +- {error:.2f}, "
                f"time {statistics.fmean(night.time for night in nights):6.1f}, "
                f"ideas {statistics.fmean(night.ideas for night in nights):5.1f}, "
                f"moved {statistics.fmean(night.moved for night in nights):5.1f}",
                flush=True,
            )
    print(f"seconds: {time.monotonic() - start:.0f}")
    one = found[min(found)]
    for slots, nights in found.items():
        for name in ("gain", "time"):
            ratio = sum(getattr(night, name) for night in nights) / sum(getattr(night, name) for night in one)
            print(f"{name}_ratio_{slots}: {ratio:.3f}")
        nulls = sum(night.nulls for night in nights)
        certified_nulls = sum(night.certified.count(0.0) for night in nights)
        print(f"certified_null_per_100_{slots}: {100 * certified_nulls / max(1, nulls):.3f}")
        print(f"moved_per_100_{slots}: {100 * sum(n.moved for n in nights) / sum(n.ideas for n in nights):.1f}")


if __name__ == "__main__":
    main()
