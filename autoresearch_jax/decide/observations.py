"""The programs of a run and their scores as arrays: what the model of scores is inferred from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoresearch_jax.decide.gains import Floats
from autoresearch_jax.decide.noise import robust_means

_FIRST_SIGMA = 0.002  # the first guess of sigma, as a share of the baseline's score
BLOCK = 25  # runs of a night within which scores count as steady


@dataclass
class Program:
    """A program of the run.

    Attributes:
      contents: numbers of the experiments whose edits it holds.
      parent: contents of the program it was made from; None for the baseline.
      is_new: False for one that only takes edits out, and for the baseline.
      runs: its scores times the lineage's sign, so that more is better.
      times: of the runs, see `Lineage.observe`.
      partners: for each run, the parent's run with the same seed; NaN where there is none.
      kept: None while it is open.
      item_variance: squared standard error of its difference from its parent that is due to the test items, which
        further runs do not lessen; see `noise.item_variance`.
    """

    contents: frozenset[int]
    parent: frozenset[int] | None
    is_new: bool
    runs: list[float] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    partners: list[float] = field(default_factory=list)
    kept: bool | None = None
    item_variance: float = 0.0


class Observations:
    """A lineage as arrays.

    R rows: programs that are compared with (baseline, champions, champions without some edits), one for each block of
    time. N discarded edits. K unknowns: the baseline's score now, the gains of kept edits, the drift. S most runs of a
    row, with NaN where one has fewer.
    """

    def __init__(self, programs: Mapping[int, Program]) -> None:
        measured = [program for program in programs.values() if program.runs]
        compared = [program for program in measured if program.kept or not program.is_new]
        discarded = [program for program in measured if program.is_new and program.kept is False]
        self.edits = [number for number, program in programs.items() if program.is_new and program.kept]
        self.items = [program.item_variance for program in measured if program.item_variance > 0]
        # The choice of test items makes one error of all runs of a program, so they stay together.
        now = 1 + max(max(program.times) for program in [*compared, *discarded])
        block = BLOCK if not self.items else now
        rows: dict[tuple[frozenset[int], int], int] = {}
        items: dict[frozenset[int], float] = {}
        runs: list[list[float]] = []
        times: list[list[int]] = []

        def row_of(contents: frozenset[int], time: int) -> int:
            row = rows.setdefault((contents, time // block), len(rows))
            if row == len(runs):
                runs.append([])
                times.append([])
            times[row].append(time)
            return row

        for program in compared:
            items.setdefault(program.contents, program.item_variance)
            for time, run in zip(program.times, program.runs, strict=True):
                runs[row_of(program.contents, time)].append(run)
        self.parent_N = np.array(
            [row_of(program.parent or frozenset(), program.times[0]) for program in discarded], dtype=np.int64
        )
        program_of = {contents: place for place, contents in enumerate(items)}
        self.program_R = np.array([program_of[contents] for contents, _ in rows], dtype=np.int64)
        self.design_RxK = np.zeros((len(rows), len(self.edits) + 2))
        self.design_RxK[:, 0] = 1
        column = {number: place for place, number in enumerate(self.edits, start=1)}
        for (contents, _), row in rows.items():
            self.design_RxK[row, [column[number] for number in contents]] = 1
            self.design_RxK[row, -1] = (sum(times[row]) / len(times[row]) - now) / 100
        self.runs_AxS = _padded([*runs, *(program.runs for program in discarded)])
        self.runs_RxS, self.runs_NxS = np.split(self.runs_AxS, [len(runs)])
        self.items_R = np.array([items[contents] for contents, _ in rows])
        self.items_N = np.array([program.item_variance for program in discarded])
        self.partners_NxS = _padded([program.partners for program in discarded])
        edits = [program for program in measured if program.is_new and program.kept is not None]
        self.first_runs = [
            (program_of[program.parent or frozenset()], program.partners[0], program.runs[0])
            for program in edits
            if not math.isnan(program.partners[0])
        ]
        self._robust: tuple[float, tuple[Floats, Floats, Floats]] | None = None

    def robust(self, sigma: float) -> tuple[Floats, Floats, Floats]:
        """See `noise.robust_means`: of all rows' runs and then of all discarded edits' runs."""
        if self._robust is None or self._robust[0] != sigma:
            self._robust = sigma, robust_means(self.runs_AxS, sigma)
        return self._robust[1]

    @property
    def guess(self) -> float:
        """A first guess of sigma, from the size of the baseline's score."""
        return _FIRST_SIGMA * abs(float(self.runs_RxS[0, 0]))


def _padded(groups: Sequence[Sequence[float]]) -> Floats:
    padded = np.full((len(groups), max(map(len, groups), default=1)), np.nan)
    for row, group in enumerate(groups):
        padded[row, : len(group)] = group
    return padded
