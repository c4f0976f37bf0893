"""The model of a run's scores: a program's true score is the baseline's plus the gains of the edits that it holds.

Unknown are the baseline's true score and the gain of each edit that was kept; runs are observations with noise. All
gains have one prior, see gains.py, learnt together with the standard deviation of a run from the same runs. A discarded
edit says what its parent's score is, too, as far as the prior knows its gain.
"""

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from autoresearch_jax.decide.gains import Gain
from autoresearch_jax.decide.observations import BLOCK, Observations, Program
from autoresearch_jax.decide.posterior import Estimate, Learnt, Posterior, infer, learn_from

DISCARDED_GROWTH = 1.01  # of the number of discarded edits, after which the posterior is computed with the new ones


class Lineage:
    """Programs and runs in the order in which they were entered; the posterior is a function of these."""

    def __init__(self, sign: int, learn_again: float = 1.0) -> None:
        """An empty lineage.

        Args:
          sign: 1 where a higher score is better, -1 where a lower one is.
          learn_again: growth of the number of edits after which sigma and the prior are learnt again; discarded edits
            enter the posterior after that growth, too, or after DISCARDED_GROWTH if that is more. Above 1 in
            simulations, to save time.
        """
        self.sign = sign
        self.programs: dict[int, Program] = {}
        self.champion = frozenset[int]()
        self.num_runs = 0
        self._learn_again = learn_again
        self._growth = max(learn_again, DISCARDED_GROWTH)
        self._by_seed: dict[frozenset[int], Mapping[int, float]] = {}  # runs of programs, by their contents
        self._runs: dict[frozenset[int], tuple[float, ...]] = {}
        self._contents_at: dict[int, frozenset[int]] = {}  # what was measured in each run, by its time
        self._discarded = 0  # edits
        self._learnt: tuple[int, Learnt] | None = None
        self._renew()

    def _renew(self) -> None:
        """Has the posterior computed again, with all that was entered up to now."""
        self._posterior: Posterior | None = None
        self._in_posterior = self._discarded, self.num_runs
        self._later = frozenset[int]()  # edits that were discarded since then

    def with_posterior(self) -> "Lineage":
        """Itself, with the posterior computed, so that its copies need not."""
        _ = self.posterior
        return self

    def copy(self) -> "Lineage":
        """A lineage to which more can be entered; the programs that are concluded are shared."""
        other = copy.copy(self)
        other.programs = dict(self.programs)
        other._by_seed, other._runs = dict(self._by_seed), dict(self._runs)
        other._contents_at = dict(self._contents_at)
        return other

    def begin(self, number: int, *, without: Collection[int] = (), parent: frozenset[int] | None = None) -> None:
        """Enters a program that is about to be measured: the champion with a new edit, or without some of its edits.

        The first one is the baseline. `parent` is what an earlier champion held, if it is made from that one.
        """
        parent = self.champion if parent is None else parent
        if not self.programs:
            self.programs[number] = Program(frozenset(), None, is_new=False)
        elif without:
            self.programs[number] = Program(parent - set(without), parent, is_new=False)
        else:
            self.programs[number] = Program(parent | {number}, parent, is_new=True)

    def move(self, number: int, champion: frozenset[int] | None = None) -> None:
        """Makes an open program one of another champion, by its contents, or of that of now.

        Its runs still count, as runs upon the former parent.
        """
        program, champion = self.programs[number], self.champion if champion is None else champion
        if program.parent not in (None, champion):
            self.programs[number] = replace(program, contents=program.upon(champion), parent=champion)

    def is_stale(self, number: int) -> bool:
        """Whether a program was made from a champion before that of now."""
        return self.programs[number].parent not in (None, self.champion)

    def observe(
        self,
        number: int,
        value: float,
        seed: int | None = None,
        item_variance: float = 0.0,
        *,
        time: int | None = None,
    ) -> None:
        """Enters the score of a run.

        Args:
          number: of the program.
          value: the metric.
          seed: of the run; runs of parent and child with equal seeds are pairs. None for one that no other has.
          item_variance: see `Program`.
          time: number of runs of the night before this one; as many as were entered if it is None.
        """
        program = self.programs[number]
        program.runs.append(self.sign * value)
        program.bases.append(program.parent or frozenset())
        time = self.num_runs if time is None else time
        program.times.append(time)
        self._contents_at[time] = program.contents
        program.item_variance = max(program.item_variance, item_variance)
        self.num_runs += 1
        self._runs[program.contents] = (*self._runs.get(program.contents, ()), self.sign * value)
        partner = math.nan
        if seed is not None:
            partner = self._by_seed.get(program.parent or frozenset(), {}).get(seed, math.nan)
            before = self._by_seed.get(program.contents, {})
            self._by_seed[program.contents] = {**before, seed: self.sign * value}  # a copy has the one before
        program.partners.append(partner)
        # The runs of an open edit are no part of the posterior yet; its items may be the only noise that there is.
        if not program.is_new or program.kept or item_variance > 0:
            self._renew()

    def conclude(self, number: int, *, kept: bool) -> None:
        """Enters what became of a program; one that was kept is the champion, and was made from the one before."""
        program = self.programs[number]
        assert not (kept and self.is_stale(number)), f"{number} is to be moved first"
        program.kept = kept
        self._discarded += not kept
        if kept:
            self.champion = program.contents
        discarded, runs = self._in_posterior
        is_due = self._discarded >= self._growth * discarded or self.num_runs >= runs + BLOCK
        if kept or not program.is_new or program.item_variance > 0 or is_due:
            self._renew()
        else:
            self._later |= {number}

    def learn(self) -> None:
        """Discards the cached posterior: the next one uses everything entered, regardless of `learn_again`."""
        self._learnt = None
        self._renew()

    def parent_of(self, number: int) -> frozenset[int]:
        """Contents of the program that one was made from."""
        parent = self.programs[number].parent
        assert parent is not None, "the baseline has no parent"
        return parent

    @property
    def champion_item_variance(self) -> float:
        """What of the variance of the champion's score is due to the test items, in sigma squared."""
        found = (program.item_variance for program in self.programs.values() if program.contents == self.champion)
        return max(found, default=0.0) / (self.posterior.sigma or 1.0) ** 2

    @property
    def latest_of_champion(self) -> int:
        """How many of the latest runs, without another between them, are the champion's."""
        count = 0
        for time in sorted(self._contents_at, reverse=True):
            if self._contents_at[time] != self.champion:
                break
            count += 1
        return count

    def runs_of(self, contents: frozenset[int]) -> Sequence[float]:
        """The runs of a program, times the sign."""
        return self._runs.get(contents, ())

    @property
    def posterior(self) -> Posterior:
        """What the runs so far say; the baseline must have one."""
        if self._posterior is None:
            data = Observations({number: one for number, one in self.programs.items() if number not in self._later})
            edits = len(data.parent_N) + len(data.edits)
            if self._learnt is None or edits >= self._learn_again * self._learnt[0]:
                self._learnt = edits, learn_from(data)
            self._posterior = infer(data, self._learnt[1])
        return self._posterior

    def gain_of_candidate(self, number: int) -> Gain:
        """See `Posterior.gain_of_candidate`."""
        return self.posterior.gain_of_candidate(self.programs[number])


def score_in(lineage: Lineage, edits: frozenset[int]) -> Estimate:
    """The score of the program with these edits, in the metric's own direction."""
    found = lineage.posterior.score(edits)
    return Estimate(lineage.sign * found.mean, found.error)
