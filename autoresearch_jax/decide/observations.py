"""The programs of a run and their scores as arrays: what the model of scores is inferred from."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from autoresearch_jax.decide.gains import Floats
from autoresearch_jax.decide.noise import robust_means

_FIRST_SIGMA = 0.002  # the first guess of sigma, as a share of the baseline's score
BLOCK = 25  # runs of a night within which scores count as steady


@dataclass
class Program:
    """A program of the run."""

    contents: frozenset[int]  # numbers of the experiments whose edits it holds
    parent: frozenset[int] | None  # contents of the program it was made from; None for the baseline
    is_new: bool  # False for one that only takes edits out, and for the baseline
    runs: list[float] = field(default_factory=list)  # its scores times the lineage's sign, so that more is better
    # for each run, what was `parent` then: a new edit may be moved to a later champion
    bases: list[frozenset[int]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)  # of the runs, see `Lineage.observe`
    # for each run, the parent's run with the same seed; NaN where there is none
    partners: list[float] = field(default_factory=list)
    kept: bool | None = None  # None while it is open
    # squared standard error of its difference from its parent that is due to the test items, which further runs do not
    # lessen; see `noise.item_variance`
    item_variance: float = 0.0

    def measured(self) -> Iterator[tuple[frozenset[int], int, float]]:
        """What was measured in each run, its time and its score."""
        for base, time, run in zip(self.bases, self.times, self.runs, strict=True):
            yield self.upon(base), time, run

    def upon(self, base: frozenset[int]) -> frozenset[int]:
        """What the program would hold if it were made from another champion."""
        if base is self.parent or self.parent is None:
            return self.contents
        return (base | self.contents - self.parent) - (self.parent - self.contents)

    def by_base(self) -> Iterator["Program"]:
        """An edit as one for each of its bases."""
        if all(base is self.parent for base in self.bases):
            yield self
            return
        for base in dict.fromkeys(self.bases):
            of_base = [index for index, other in enumerate(self.bases) if other == base]
            yield replace(
                self,
                contents=self.upon(base),
                parent=base,
                runs=[self.runs[index] for index in of_base],
                bases=[base] * len(of_base),
                times=[self.times[index] for index in of_base],
                partners=[self.partners[index] for index in of_base],
            )


class Observations:
    """A lineage as arrays.

    P programs that are compared with: baseline, champions, champions without some edits. R rows: one for each of these
    and each block of time. F runs of them. N discarded edits. A = P + N. K unknowns: the baseline's score now, the
    gains of kept edits, the drift. S most runs of a program, with NaN where one has fewer.
    """

    def __init__(self, programs: Mapping[int, Program]) -> None:
        measured = [program for program in programs.values() if program.runs]
        compared = [program for program in measured if program.kept or not program.is_new]
        discarded = [
            one for program in measured if program.is_new and program.kept is False for one in program.by_base()
        ]
        self.edits = [number for number, program in programs.items() if program.is_new and program.kept]
        self.items = [program.item_variance for program in measured if program.item_variance > 0]
        now = 1 + max(max(program.times) for program in [*compared, *discarded])
        # The choice of test items makes one error of all runs of a program: they stay together, and no drift shows.
        block = now if self.items else BLOCK
        rows: dict[tuple[frozenset[int], int], int] = {}
        times: defaultdict[int, list[int]] = defaultdict(list)

        runs: dict[frozenset[int], list[float]] = {}
        items: dict[frozenset[int], float] = {}
        places: list[tuple[int, int, int]] = []
        program_of: dict[frozenset[int], int] = {}

        def row_of(contents: frozenset[int], time: int) -> int:
            program_of.setdefault(contents, len(program_of))
            runs.setdefault(contents, [])  # a champion may have none yet when edits of it are measured
            items.setdefault(contents, 0.0)
            row = rows.setdefault((contents, time // block), len(rows))
            times[row].append(time)
            return row

        for program in compared:
            for contents, time, run in program.measured():
                items.setdefault(contents, program.item_variance)
                row = row_of(contents, time)
                places.append((program_of[contents], len(runs[contents]), row))
                runs[contents].append(run)
        of_parents = [row_of(program.parent or frozenset(), program.times[0]) for program in discarded]
        self.parent_N = np.array(of_parents, np.int64)
        self.program_F, self.slot_F, self.row_F = np.array(places, np.int64).T
        self.program_R = np.array([program_of[contents] for contents, _ in rows], np.int64)
        self.design_RxK = np.zeros((len(rows), len(self.edits) + 2))
        self.design_RxK[:, 0] = 1
        column = {number: place for place, number in enumerate(self.edits, start=1)}
        for (contents, _), row in rows.items():
            self.design_RxK[row, [column[number] for number in contents]] = 1
            if not self.items:
                self.design_RxK[row, -1] = (sum(times[row]) / len(times[row]) - now) / 100
        self.num_programs = len(program_of)
        self.runs_AxS = _padded([*runs.values(), *(program.runs for program in discarded)])
        self.count_A = (~np.isnan(self.runs_AxS)).sum(axis=1)
        self.items_R = np.array([items[contents] for contents, _ in rows])
        self.items_N = np.array([program.item_variance for program in discarded])
        self.partners_NxS = _padded([program.partners for program in discarded])
        edits = [program for program in measured if program.is_new and program.kept is not None]
        self.first_runs = [
            (program_of[program.bases[0]], program.partners[0], program.runs[0])
            for program in edits
            if not math.isnan(program.partners[0])
        ]

    def means(self, sigma: float) -> "Means":
        """Means of all runs for a sigma; a run's weight follows from all runs of its program."""
        mean_A, worth_A, weight_AxS = robust_means(self.runs_AxS, sigma)
        weight_F = weight_AxS[self.program_F, self.slot_F]
        worth_R = np.bincount(self.row_F, weight_F, len(self.program_R)).astype(np.float64, copy=False)
        sum_R = np.bincount(self.row_F, weight_F * self.run_F, len(self.program_R))
        mean_R = np.divide(sum_R, worth_R, out=mean_A[self.program_R], where=worth_R > 0)
        return Means(mean_A, worth_A, weight_AxS, mean_R, worth_R)

    @property
    def run_F(self) -> Floats:
        """The runs of the programs that are compared with."""
        return self.runs_AxS[self.program_F, self.slot_F]

    @property
    def guess(self) -> float:
        """A first guess of sigma, from the size of the baseline's score."""
        return _FIRST_SIGMA * abs(float(self.runs_AxS[0, 0]))


class Means(NamedTuple):
    """Robust means of runs in the metric's unit, of programs (A, see `Observations`) and of rows.

    `worth` says of how many usual runs a mean is, 0 for none; `weight_AxS` is that of each run.
    """

    mean_A: Floats
    worth_A: Floats
    weight_AxS: Floats
    mean_R: Floats
    worth_R: Floats


def _padded(groups: Sequence[Sequence[float]]) -> Floats:
    padded = np.full((len(groups), max(map(len, groups), default=1)), np.nan)
    for row, group in enumerate(groups):
        padded[row, : len(group)] = group
    return padded
