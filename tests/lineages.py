"""Lineages for tests: entered run by run, and simulated nights of the lineage rule with a known truth."""

import random
from collections.abc import Callable, Sequence

from autoresearch_jax.decide.certification import (
    CertificationSettings,
    MeasureChampion,
    decide_revert,
    next_step,
)
from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.rule import Action, Complexity, Decision, LineageRule
from autoresearch_jax.types import Metric

SIGMA = 0.1
METRIC = Metric("val_bpb")
BASELINE = (10.0, 10.1, 9.9)  # of mean 10 and standard deviation SIGMA
FREE = Complexity()


def begun(runs: Sequence[float] = BASELINE, *, sign: int = -1) -> Lineage:
    """A lineage whose baseline, number 0, has these runs."""
    lineage = Lineage(sign)
    lineage.begin(0)
    for run in runs:
        lineage.observe(0, run)
    lineage.conclude(0, kept=True)
    return lineage


def enter(lineage: Lineage, number: int, runs: Sequence[float], *, kept: bool | None = None) -> None:
    """Enters an edit of the champion with its runs; it stays open if `kept` is None."""
    lineage.begin(number)
    for run in runs:
        lineage.observe(number, run)
    if kept is not None:
        lineage.conclude(number, kept=kept)


def decided(rule: LineageRule, lineage: Lineage, number: int, complexity: Complexity = FREE) -> Decision:
    """The decision on an open edit as its runs are."""
    return rule.decide(lineage, number, complexity)


class Night:
    """A simulated night: true gains are known, in sigma, and runs are drawn.

    Attributes:
      lineage: what the rule sees; scores fall.
      gains: true gain of each edit that was tried.
      spent: runs that certification had.
      taken_out: groups of edits that certification took out, in order.
    """

    def __init__(self, seed: int, rule: LineageRule | None = None) -> None:
        self._draw = random.Random(seed)
        self._rule = rule or LineageRule(METRIC)
        self.lineage = Lineage(-1, learn_again=1.2)
        self.gains: dict[int, float] = {}
        self.spent = 0
        self.taken_out: list[tuple[int, ...]] = []
        self._champion = 0
        self._next = 1
        self.lineage.begin(0)
        for _ in range(self._rule.baseline_runs):
            self._run(0)
        self.lineage.conclude(0, kept=True)

    @property
    def true_gain(self) -> float:
        """Of the champion over the baseline, in sigma."""
        return sum(self.gains[number] for number in self.lineage.champion)

    def _run(self, number: int) -> None:
        true = sum(self.gains[edit] for edit in self.lineage.programs[number].contents)
        self.lineage.observe(number, 10.0 - SIGMA * true + self._draw.gauss(0, SIGMA))

    def keep(self, gain: float, lucky_by: float = 0.0) -> int:
        """Enters a kept edit whose one run was better than its truth by `lucky_by` sigma."""
        number, self._next = self._next, self._next + 1
        self.gains[number] = gain
        self.lineage.begin(number)
        self.lineage.observe(number, 10.0 - SIGMA * (self.true_gain + gain + lucky_by))
        self.lineage.conclude(number, kept=True)
        self._champion = number
        return number

    def measure_champion(self) -> None:
        """A run of the champion."""
        self._run(self._champion)

    def search(self, runs: int, draw_gain: Callable[[random.Random], float]) -> None:
        """Tries edits by the rule until the night has this number of runs."""
        while self.lineage.num_runs < runs:
            number, self._next = self._next, self._next + 1
            self.gains[number] = draw_gain(self._draw)
            self.lineage.begin(number)
            self._run(number)
            while True:
                action = self._rule.decide(self.lineage, number, FREE).action
                if action is Action.MEASURE_CANDIDATE:
                    self._run(number)
                elif action is Action.MEASURE_CHAMPION:
                    self.measure_champion()
                else:
                    break
            self.lineage.conclude(number, kept=action.keeps)
            if action.keeps:
                self._champion = number
                for _ in range(self._rule.fresh_runs):
                    self.measure_champion()

    def certify(self, settings: CertificationSettings) -> None:
        """All of certification's steps at the end of the night."""
        looked_at: set[int] = set()
        while (step := next_step(self.lineage, looked_at, self.spent, settings, at_end=True)) is not None:
            if isinstance(step, MeasureChampion):
                self.measure_champion()
                self.spent += 1
                continue
            looked_at |= set(step.edits)
            self.taken_out.append(step.edits)
            number, self._next = self._next, self._next + 1
            self.lineage.begin(number, without=step.edits)
            action = Action.MEASURE_CANDIDATE
            while action is Action.MEASURE_CANDIDATE:
                self._run(number)
                self.spent += 1
                action = decide_revert(self.lineage, number, METRIC).action
            self.lineage.conclude(number, kept=action.keeps)
            if action.keeps:
                self._champion = number
