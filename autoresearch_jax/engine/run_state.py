"""The state of a run that decisions need, from its ledger: champion, model of scores, what certification has done."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.noise import mean_of
from autoresearch_jax.decide.posterior import NO_GAIN, Estimate
from autoresearch_jax.decide.rule import Complexity
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose, TrialRow, Verdict
from autoresearch_jax.types import Status


@dataclass(frozen=True)
class RunState:
    """Where a run is.

    Attributes:
      champion: the experiment that measured the champion's program.
      runs: all trials of it that have a score.
      score: the champion's, and its standard deviation; of the greedy rule's the one run and no error.
      lineage: the model of scores; None under the greedy rule.
      anchor: the last champion that was kept for its gain, as `Lineage` has it.
      baseline_memory: peak memory of the baseline in bytes, None where it is not known.
      looked_at: experiments whose edits certification took out, or could not.
      keeps_since_certified: edits that were kept since then.
      certification_runs: trials that certification had.
    """

    champion: ExperimentRow
    runs: Sequence[TrialRow]
    score: Estimate
    lineage: Lineage | None
    anchor: frozenset[int]
    baseline_memory: float | None
    looked_at: frozenset[int]
    keeps_since_certified: int
    certification_runs: int

    @property
    def seeds(self) -> list[int]:
        """Seeds that the champion ran with."""
        return [run.seed for run in self.runs]

    @property
    def sigma(self) -> float | None:
        """Standard deviation of a run; None where it is not known."""
        return None if self.lineage is None else self.lineage.posterior.sigma

    def complexity(self, runs: Sequence[TrialRow], nodes_added: int) -> Complexity:
        """What a candidate costs beside its runs.

        Args:
          runs: the candidate's.
          nodes_added: see `Complexity`.
        """
        anchor_gain = NO_GAIN
        if self.lineage is not None and self.anchor != self.lineage.champion:
            anchor_gain = self.lineage.posterior.gain_of(self.lineage.champion - self.anchor)
        return Complexity(nodes_added, _peak_memory(runs), _peak_memory(self.runs), self.baseline_memory, anchor_gain)


def read_state(ledger: Ledger) -> RunState | None:
    """The state of a run; None before there is a baseline. A pure function of what is concluded in the ledger."""
    return ledger.remembered(_state)


def _state(ledger: Ledger) -> RunState | None:
    rows = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL and not row.is_open]
    kept = [row for row in rows if row.decision is Verdict.KEEP]
    if not kept:
        return None
    champion = ledger.measured(kept[-1])  # a refactoring has no trials of its own
    lineage, runs = ledger.lineage(), ledger.scored(champion.id)
    is_for_gain = (not row.simplification and row.kind is not Kind.REVERT and row.status is Status.OK for row in kept)
    for_gain = [row for row, is_one in zip(kept, is_for_gain, strict=True) if is_one]
    anchor = frozenset[int]()
    if lineage is None:
        score = Estimate(mean_of([run.score for run in runs]), 0.0)
    else:
        found = lineage.posterior.score(lineage.champion)
        score = Estimate(lineage.sign * found.mean, found.error)
        anchor = lineage.programs[for_gain[-1].id].contents
    reverts = [row for row in rows if row.kind is Kind.REVERT]
    last_look = reverts[-1].id if reverts else 0
    return RunState(
        champion=champion,
        runs=runs,
        score=score,
        lineage=lineage,
        anchor=anchor,
        baseline_memory=_peak_memory(ledger.scored(ledger.measured(kept[0]).id)),
        looked_at=frozenset(number for row in reverts for number in row.without) | kept_for_length(kept),
        keeps_since_certified=sum(row.kind is Kind.PROPOSAL and row.id > last_look for row in kept),
        certification_runs=sum(trial.purpose is Purpose.CERTIFY for trial in ledger.trials()),
    )


def kept_for_length(rows: Sequence[ExperimentRow]) -> frozenset[int]:
    """Experiments that were kept for their shorter source: of these no gain is asked, so none is taken out for none."""
    return frozenset(row.id for row in rows if row.simplification)


def seconds_spent(ledger: Ledger, rows: Sequence[ExperimentRow]) -> float:
    """Time spent on experiments, and on runs of the champion that certification had beside them.

    Args:
      ledger: of the run.
      rows: the experiments.
    """
    seconds = sum(row.seconds or 0.0 for row in rows)
    reverts = {row.id for row in rows if row.kind is Kind.REVERT}
    for row in rows:
        is_champion = row.id not in reverts  # a revert is from its first run as the champion on
        for trial in ledger.trials(row.id):
            is_champion = is_champion or trial.purpose is Purpose.CHAMPION
            if is_champion and trial.purpose is Purpose.CERTIFY and trial.finished_at is not None:
                seconds += trial.finished_at - trial.started_at
    return seconds


def _peak_memory(runs: Sequence[TrialRow]) -> float | None:
    known = [peak for run in runs if isinstance(peak := run.metrics.get("peak_memory_bytes"), int | float)]
    return median(known) if known else None
