"""Pruning thresholds computed from the loss curves in the ledger."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.pruning import Finished, Pruning, Yardstick, find_allowances
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow, Verdict
from autoresearch_jax.engine.run_state import RunState
from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, CONSTANTS_PROPOSER
from autoresearch_jax.types import LOSSES, Metric, Status, read_curve

LATEST = 200  # candidates that are learnt from: a night has no more, and the time this takes must not grow


def read_yardstick(
    ledger: Ledger, state: RunState, experiment: ExperimentRow, seed: int, metric: Metric, pruning: Pruning
) -> Yardstick | None:
    """What the first run of a candidate is held against; None while too little is known.

    Only what moved nothing but constants is held against anything, and against its like alone, since the champion's
    text was written: the loss that another text tells may be another function.

    Args:
      ledger: the run's.
      state: of the run.
      experiment: the candidate.
      seed: that it runs with.
      metric: of the scores.
      pruning: what is risked.
    """
    champion = _Champion.of(state.runs, seed, metric, pruning.last_point)
    if champion is None or not _moves_constants_alone(experiment):
        return None
    finished = list(islice(_finished(ledger, metric, pruning.last_point), LATEST))
    allowances = find_allowances(finished, pruning, champion.luck)
    return Yardstick(champion.curve, allowances, pruning.risk) if allowances else None


@dataclass(frozen=True)
class _Champion:
    """What a candidate's run with one seed is compared with.

    Attributes:
      curve: of the champion's run with the same seed, or the mean of its runs' curves if there is none.
      value: its score, in the same way.
      luck: by how much that is better than the mean of all its runs.
    """

    curve: Sequence[float]
    value: float
    luck: float

    @classmethod
    def of(cls, runs: Sequence[TrialRow], seed: int, metric: Metric, points: int) -> "_Champion | None":
        """None if none of the champion's runs has a curve of so many points."""
        known = [run for run in runs if len(_curve(run)) >= points]
        paired = [run for run in known if run.seed == seed] or known
        if not paired:
            return None
        curve = [fmean(losses) for losses in zip(*(_curve(run)[:points] for run in paired), strict=True)]
        value = fmean(run.score for run in paired)
        return cls(curve, value, metric.gain(value, over=fmean(run.score for run in runs)))


def _finished(ledger: Ledger, metric: Metric, points: int) -> Iterator[Finished]:
    """Candidates with a score and a curve of their first run, against the champions of their time, the latest first."""
    rows = ledger.experiments()
    champions = {row.id: ledger.scored(ledger.measured(row).id) for row in rows if row.decision is Verdict.KEEP}
    for row in reversed(rows):
        if row.kind is not Kind.PROPOSAL:
            continue
        if not _moves_constants_alone(row):
            if row.decision is Verdict.KEEP and row.status is Status.OK:
                return
            continue
        if row.parent is None:
            continue
        first = ledger.first_run(row)
        if first is None or len(curve := _curve(first)) < points:
            continue
        champion = _Champion.of(champions[row.parent], first.seed, metric, points)
        if champion is not None:
            behind = [mine - its for mine, its in zip(curve[:points], champion.curve, strict=True)]
            yield Finished(behind, metric.gain(champion.value, over=first.score))


def _moves_constants_alone(row: ExperimentRow) -> bool:
    """See `proposers.base.moves_constants_alone`."""
    return row.category == CONSTANTS_CATEGORY and row.proposer == CONSTANTS_PROPOSER


def _curve(run: TrialRow) -> Sequence[float]:
    return read_curve(run.metrics.get(LOSSES))
