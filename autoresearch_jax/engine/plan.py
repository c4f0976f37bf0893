"""What a run does next with an experiment: pure functions of what its ledger says."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from statistics import fmean

from autoresearch_jax.decide.pruning import Finished, Pruning, PruningThresholds, find_allowances
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.program import Program
from autoresearch_jax.engine.recorder import Ending
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.engine.state import RunState
from autoresearch_jax.engine.training_file import same_value, syntax_nodes
from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, CONSTANTS_PROPOSER
from autoresearch_jax.types import LOSSES, Metric, Status, read_curve

SEED_BITS = 31  # fits a signed 32-bit integer, which every random generator takes


def draw_seed(run_seed: int, experiment: int, trial: int) -> int:
    """A fresh seed; equal arguments give equal seeds on every machine.

    Args:
      run_seed: of the run.
      experiment: number of the experiment that the seed is drawn for.
      trial: 0 for the experiment's first trial, 1 for its second, ...
    """
    return _seed_of(f"{run_seed}/{experiment}/{trial}")


def draw_audit_seeds(run_seed: int, audit: int, count: int, used: Collection[int]) -> list[int]:
    """Different seeds for an audit that nothing else of the run has; equal arguments give equal seeds.

    Args:
      run_seed: of the run.
      audit: number of the audit.
      count: how many.
      used: seeds of all other trials of the run; 31 bits are few enough for two draws to meet one day.
    """
    seeds: list[int] = []
    draws = 0
    while len(seeds) < count:
        seed = _seed_of(f"{run_seed}/audit {audit}/{draws}")
        draws += 1
        if seed not in used and seed not in seeds:
            seeds.append(seed)
    return seeds


def _seed_of(text: str) -> int:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - SEED_BITS)


def compare_texts(ledger: Ledger, experiment: ExperimentRow, champion: ExperimentRow, program: Program) -> Ending:
    """Keeps the shorter of two texts of one program; the trials of the champion stand for both."""
    same = f"the same program as the champion (experiment {champion.id})"

    def ending(verdict: Action, reason: str) -> Ending:
        return Ending(Status.DUPLICATE, champion.score, verdict, f"{same} {reason}")

    listed = _listed(program)
    nodes, champion_nodes = (_count(ledger.source(row.id), listed) for row in (experiment, champion))
    if nodes is None or champion_nodes is None or nodes >= champion_nodes:
        more = "" if nodes is None or champion_nodes is None else f": {nodes} syntax nodes against {champion_nodes}"
        return ending(Action.DISCARD, f"in a text that is no shorter{more}")
    shorter = f"with {champion_nodes - nodes} fewer syntax nodes"
    page = program.path.name
    if lost := _lost_constants(experiment, champion, program):
        return ending(Action.DISCARD, f"{shorter}, but without {', '.join(lost)}, which {page} lists to be moved")
    # no trial ever told that the new value is as good: it only does nothing in the program of now
    constants = sorted(listed & champion.constants.keys())
    moved = [name for name in constants if not same_value(champion.constants[name], experiment.constants[name])]
    if moved:
        reason = f"{shorter}, but with another {', '.join(moved)}, which {page} lists: a value is kept for its score"
        return ending(Action.DISCARD, reason)
    return ending(Action.KEEP, f"{shorter}: a proven refactoring")


def nodes_added(ledger: Ledger, experiment: ExperimentRow, champion: ExperimentRow, program: Program) -> int:
    """Syntax nodes that a text has more than the champion's, negative if fewer.

    0 where that is not known, and for a shorter text that gave up a listed constant.
    """
    listed = _listed(program)
    nodes, champion_nodes = (_count(ledger.source(row.id), listed) for row in (experiment, champion))
    if nodes is None or champion_nodes is None:
        return 0
    if nodes < champion_nodes and _lost_constants(experiment, champion, program):
        return 0
    return nodes - champion_nodes


@lru_cache(maxsize=2)  # two texts are compared again and again until a decision falls
def _count(source: str, listed: frozenset[str]) -> int | None:
    return syntax_nodes(source, listed)


def _listed(program: Program) -> frozenset[str]:
    return frozenset(constant.name for constant in program.constants)


def _lost_constants(experiment: ExperimentRow, champion: ExperimentRow, program: Program) -> list[str]:
    """Listed constants that a text has no more: a number in place of its name is shorter, and cannot be moved."""
    return sorted(_listed(program) & champion.constants.keys() - experiment.constants.keys())


LATEST = 200  # candidates that are learnt from: a night has no more, and the time this takes must not grow


def find_thresholds(
    ledger: Ledger, state: RunState, experiment: ExperimentRow, seed: int, metric: Metric, pruning: Pruning
) -> PruningThresholds | None:
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
    return PruningThresholds(champion.curve, allowances, pruning.risk) if allowances else None


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
    champions = {row.id: ledger.scored(ledger.measured(row).id) for row in rows if row.decision is Action.KEEP}
    for row in reversed(rows):
        if row.kind is not Kind.PROPOSAL:
            continue
        if not _moves_constants_alone(row):
            if row.decision is Action.KEEP and row.status is Status.OK:
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
