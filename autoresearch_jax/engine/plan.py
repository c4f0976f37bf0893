"""What a run does next with an experiment: pure functions of what its ledger says."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from statistics import fmean, stdev

from autoresearch_jax.assets.base import AssetKind, same_value
from autoresearch_jax.decide.certification import decide_revert
from autoresearch_jax.decide.noise import next_paired_seed
from autoresearch_jax.decide.pruning import Finished, Pruning, PruningThresholds, find_allowances
from autoresearch_jax.decide.rule import Action, Decision, DecisionRule, decide_greedily
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.program import ProgramPage
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose, TrialRow
from autoresearch_jax.engine.state import RunState, asset_of
from autoresearch_jax.engine.task import MAX_FAILURES
from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, CONSTANTS_PROPOSER
from autoresearch_jax.types import LOSSES, Candidate, Metric, Status, read_curve

SEED_BITS = 62  # SQLite holds 63; a program could try out all seeds of 31 bits to find its trial's draws
LATEST = 200  # finished candidates that pruning looks back at, so that its time does not grow with the run


@dataclass(frozen=True)
class RunTrial:
    """Run one more trial of an experiment, the open one or the champion's; its decision is stored with it."""

    of: int
    purpose: Purpose
    seed: int
    decision: Decision | None = None


@dataclass(frozen=True)
class Conclude:
    """End the experiment; `status` is OK if it was measured, else what kept it from being measured."""

    status: Status
    decision: Decision


NextAction = RunTrial | Conclude


@dataclass(frozen=True)
class OpenExperiment:
    """What the ledger says of an experiment that is not over."""

    row: ExperimentRow  # its row
    trials: Sequence[TrialRow] = ()  # its finished trials, without those for which the machine was too busy
    decision: Decision | None = None  # the last one on it; None before the first
    nodes_added: int = 0  # what its source has more than its parent's, by `AssetKind.size`
    unit: str = "nodes"  # of these, see `AssetKind.unit`
    running: Sequence[int] = ()  # the seeds of its trials that run
    parent_score: float | None = None  # of what it was made from; None for the champion's

    @property
    def is_to_be_kept(self) -> bool:
        """True once it was decided that it becomes the champion, after runs on seeds that no decision depended on."""
        return self.decision is not None and self.decision.action.keeps

    @property
    def scored(self) -> list[TrialRow]:
        """The trials that have a score."""
        return [trial for trial in self.trials if trial.value is not None]


def read_open_experiment(
    ledger: Ledger, row: ExperimentRow, state: RunState | None, program: ProgramPage
) -> OpenExperiment:
    """Reads an open experiment; `state` is None before there is a baseline.

    Under the greedy rule, which compares single runs, runs before the last move do not count.
    """
    every = ledger.trials(row.id)
    trials = [trial for trial in every if trial.status is not None and not trial.was_too_busy]
    if state is not None and state.lineage is None:
        trials = [trial for trial in trials if trial.parent == row.parent]
    decision = next(reversed(ledger.decisions(row.id)), None)
    added, parent = 0, None if row.parent is None else ledger.experiment(row.parent)
    if state is not None and row.kind is Kind.PROPOSAL and parent is not None:
        added = nodes_added(ledger, row, parent, program)
    running, score = [trial.seed for trial in every if trial.status is None], None if parent is None else parent.score
    return OpenExperiment(row, trials, decision, added, asset_of(ledger).unit, running, score)


def next_action(
    state: RunState | None, experiment: OpenExperiment, rule: DecisionRule, metric: Metric, run_seed: int
) -> NextAction | None:
    """The next trial of an open experiment or of its champion, or how the experiment ends.

    None while its trials run; of the baseline several run at the same time. The source of every seed is `run_seed` with
    the numbers of experiment and trial.
    """
    if experiment.running and experiment.row.kind is not Kind.BASELINE:
        return None
    failed = _fatal_trial(experiment)
    if failed is not None:
        return _conclude_failed(experiment.row, failed)
    if state is None:
        return _next_of_baseline(experiment, rule, run_seed)
    if experiment.decision is not None and experiment.is_to_be_kept:
        return _next_of_kept(experiment, experiment.decision, rule.fresh_runs, run_seed)
    if not experiment.trials:
        return _candidate_trial(state, experiment, run_seed)
    decision = _decide(state, experiment, rule, metric)
    match decision.action:
        case Action.MEASURE_CANDIDATE:
            return _candidate_trial(state, experiment, run_seed, decision)
        case Action.MEASURE_CHAMPION:
            return champion_trial(state, Purpose.CHAMPION, run_seed, decision)
        case Action.DISCARD:
            return Conclude(Status.OK, decision)
        case Action.KEEP | Action.KEEP_SIMPLER:
            return _next_of_kept(experiment, decision, rule.fresh_runs, run_seed)


def is_to_be_kept(ledger: Ledger, row: ExperimentRow) -> bool:
    """Whether it was decided that an open experiment becomes the champion, see `OpenExperiment`."""
    decision = next(reversed(ledger.decisions(row.id)), None)
    return decision is not None and decision.action.keeps


def champion_trial(
    state: RunState, purpose: Purpose, run_seed: int, decision: Decision | None = None, running: Sequence[int] = ()
) -> RunTrial:
    """One more trial of the champion on a fresh seed; `running` are the seeds of those that run."""
    seed = _fresh_seed(run_seed, state.champion.id, [*state.used_seeds, *running])
    return RunTrial(state.champion.id, purpose, seed, decision)


def _candidate_trial(
    state: RunState, experiment: OpenExperiment, run_seed: int, decision: Decision | None = None
) -> RunTrial:
    """A trial on one of the champion's seeds, so that the two are a pair; on a fresh one when these are used up."""
    number = experiment.row.id
    used = [trial.seed for trial in experiment.trials]
    if (seed := next_paired_seed(state.seeds, used, number)) is None:
        seed = _fresh_seed(run_seed, number, used)
    purpose = Purpose.CERTIFY if experiment.row.kind is Kind.REVERT else Purpose.CANDIDATE
    return RunTrial(number, purpose, seed, decision)


def _decide(state: RunState, experiment: OpenExperiment, rule: DecisionRule, metric: Metric) -> Decision:
    lineage, runs = state.lineage, experiment.scored
    if experiment.row.kind is Kind.REVERT:
        assert lineage is not None, "the greedy rule certifies nothing"
        return decide_revert(lineage, experiment.row.id, metric)
    if lineage is None:
        score = experiment.parent_score
        return decide_greedily(metric, runs[0].score, state.score.mean if score is None else score)
    return rule.decide(lineage, experiment.row.id, state.complexity(runs, experiment.nodes_added, experiment.unit))


def _next_of_baseline(experiment: OpenExperiment, rule: DecisionRule, run_seed: int) -> NextAction | None:
    """Runs of the baseline; their spread is the first that is known of the noise."""
    runs, running = [trial.score for trial in experiment.scored], len(experiment.running)
    if running and (len(runs) < len(experiment.trials) or len(runs) + running >= rule.baseline_runs):
        return None  # after a failure nothing more is begun before all are over, see `_fatal_trial`
    if len(runs) < rule.baseline_runs:
        return _fresh_trial(experiment, run_seed)
    spread = f"; they scatter by {stdev(runs):.2g}" if len(runs) > 1 else ""
    reason = f"the baseline, {len(runs)} run{'' if len(runs) == 1 else 's'}{spread}"
    return Conclude(Status.OK, Decision(Action.KEEP, reason))


def _next_of_kept(experiment: OpenExperiment, decision: Decision, fresh_runs: int, run_seed: int) -> NextAction:
    """Runs of what is kept on seeds that no decision depended on."""
    if sum(trial.purpose is Purpose.CHAMPION for trial in experiment.scored) < fresh_runs:
        return _fresh_trial(experiment, run_seed, decision if decision != experiment.decision else None)
    return Conclude(Status.OK, decision)


def _fresh_trial(experiment: OpenExperiment, run_seed: int, decision: Decision | None = None) -> RunTrial:
    seed = _fresh_seed(run_seed, experiment.row.id, [*(trial.seed for trial in experiment.trials), *experiment.running])
    return RunTrial(experiment.row.id, Purpose.CHAMPION, seed, decision)


def _fatal_trial(experiment: OpenExperiment) -> TrialRow | None:
    """The trial without a score that ends an experiment; None if there is none.

    A baseline that was scored once fails only after MAX_FAILURES trials in a row without a score; and none fails while
    a trial of it runs.
    """
    if experiment.running:
        return None
    failed = [trial for trial in experiment.trials if trial.value is None]
    if experiment.row.kind is not Kind.BASELINE or len(failed) == len(experiment.trials):
        return failed[0] if failed else None
    latest = experiment.trials[-MAX_FAILURES:]
    return latest[-1] if len(latest) == MAX_FAILURES and all(trial.value is None for trial in latest) else None


def _conclude_failed(experiment: ExperimentRow, trial: TrialRow) -> Conclude:
    assert trial.status is not None
    reason = trial.error or str(trial.status)
    if trial.purpose is Purpose.CHAMPION and experiment.kind is not Kind.BASELINE:
        reason = f"it failed when it was measured afresh as the champion: {reason}"
    return Conclude(trial.status, Decision(Action.DISCARD, reason))


def conclude_known_program(
    ledger: Ledger,
    experiment: ExperimentRow,
    candidate: Candidate,
    champion: ExperimentRow | None,
    program: ProgramPage,
) -> Conclude | None:
    """How an experiment ends without a trial if its program was measured before, such as the champion's; else None.

    `champion` is None unless the program is the champion's.
    """
    if champion is not None:
        return _compare_with_champion(ledger, experiment, champion, program)
    if experiment.kind is Kind.REVERT:  # an earlier champion's program may be measured once more
        return None
    if twin := ledger.scored_twin(candidate.program_hash, before=experiment.id):
        reason = f"the same program as experiment {twin.id}"
    elif pruned := ledger.pruned_twin(candidate.program_hash, before=experiment.id):
        reason = f"the same program as experiment {pruned.id}, which was stopped early"
    elif running := _running_twin(ledger, experiment, candidate.program_hash):
        reason = f"the same program as experiment {running.id}, which is being measured"
    else:
        return None
    return Conclude(Status.DUPLICATE, Decision(Action.DISCARD, reason))


def _running_twin(ledger: Ledger, experiment: ExperimentRow, program_hash: str) -> ExperimentRow | None:
    """An open experiment of the same program that began before."""
    earlier = (row for row in ledger.open_experiments() if row.id < experiment.id)
    return next((row for row in earlier if row.program_hash == program_hash), None)


def _compare_with_champion(
    ledger: Ledger, experiment: ExperimentRow, champion: ExperimentRow, program: ProgramPage
) -> Conclude:
    """Keeps the shorter of two texts of one program; the trials of the champion stand for both."""

    def conclude(action: Action, reason: str) -> Conclude:
        words = f"the same program as the champion (experiment {champion.id}) {reason}"
        return Conclude(Status.DUPLICATE, Decision(action, words))

    asset, listed = asset_of(ledger), _listed(program)
    nodes, champion_nodes = (_count(asset, ledger.source(row.id), listed) for row in (experiment, champion))
    if nodes is None or champion_nodes is None or nodes >= champion_nodes:
        more = "" if nodes is None or champion_nodes is None else f": {nodes} {asset.unit} against {champion_nodes}"
        return conclude(Action.DISCARD, f"in a text that is no shorter{more}")
    shorter = f"with {champion_nodes - nodes} fewer {asset.unit}"
    page = program.path.name
    if lost := _lost_constants(experiment, champion, program):
        return conclude(Action.DISCARD, f"{shorter}, but without {', '.join(lost)}, which {page} lists to be moved")
    # the new value has no effect in the program of now, but no trial told that it is as good in the next
    constants = sorted(listed & champion.constants.keys())
    moved = [name for name in constants if not same_value(champion.constants[name], experiment.constants[name])]
    if moved:
        reason = f"{shorter}, but with another {', '.join(moved)}, which {page} lists: a value is kept for its score"
        return conclude(Action.DISCARD, reason)
    return conclude(Action.KEEP, f"{shorter}: a proven refactoring")


def nodes_added(ledger: Ledger, experiment: ExperimentRow, champion: ExperimentRow, program: ProgramPage) -> int:
    """What a text has more than the champion's; 0 if that is not known, or a shorter one gave up a listed constant."""
    asset, listed = asset_of(ledger), _listed(program)
    nodes, champion_nodes = (_count(asset, ledger.source(row.id), listed) for row in (experiment, champion))
    if nodes is None or champion_nodes is None:
        return 0
    if nodes < champion_nodes and _lost_constants(experiment, champion, program):
        return 0
    return nodes - champion_nodes


@lru_cache(maxsize=64)  # the champion's text and those of open experiments are compared again and again
def _count(asset: AssetKind, source: str, listed: frozenset[str]) -> int | None:
    return asset.size(source, listed)


def _listed(program: ProgramPage) -> frozenset[str]:
    return frozenset(constant.name for constant in program.constants)


def _lost_constants(experiment: ExperimentRow, champion: ExperimentRow, program: ProgramPage) -> list[str]:
    """Listed constants that a text has no more: a number in place of its name is shorter, and cannot be moved."""
    return sorted(_listed(program) & champion.constants.keys() - experiment.constants.keys())


def draw_seed(run_seed: int, experiment: int, trial: int) -> int:
    """A fresh seed for an experiment's trial, 0 for its first; equal arguments give equal seeds on every machine."""
    return _seed_of(f"{run_seed}/{experiment}/{trial}")


def _fresh_seed(run_seed: int, experiment: int, used: Sequence[int]) -> int:
    """An experiment's next seed that no trial used; a trial that the machine was too busy for leaves a gap in them."""
    return next(seed for trial in count(len(used)) if (seed := draw_seed(run_seed, experiment, trial)) not in used)


def draw_audit_seeds(run_seed: int, audit: int, count: int, used: Collection[int]) -> list[int]:
    """Different seeds for an audit that nothing else of the run has used; equal arguments give equal seeds."""
    seeds, draws = list[int](), 0
    while len(seeds) < count:
        seed = _seed_of(f"{run_seed}/audit {audit}/{draws}")
        draws += 1
        if seed not in used and seed not in seeds:
            seeds.append(seed)
    return seeds


def _seed_of(text: str) -> int:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def find_thresholds(
    ledger: Ledger, state: RunState, experiment: ExperimentRow, seed: int, metric: Metric, pruning: Pruning
) -> PruningThresholds | None:
    """The losses above which a candidate's first run is stopped; None while too little is known.

    Only candidates that moved nothing but constants are pruned, and compared only with others of these since the
    champion's text was written: another text may report another loss. `seed` is the trial's.
    """
    champion = _Champion.of(state.runs, seed, metric, pruning.last_point)
    if champion is None or not moves_constants_alone(experiment):
        return None
    finished = list(islice(_finished(ledger, metric, pruning.last_point), LATEST))
    allowances = find_allowances(finished, pruning, champion.luck)
    return PruningThresholds(champion.curve, allowances, pruning.risk) if allowances else None


@dataclass(frozen=True)
class _Champion:
    """What a candidate's run with one seed is compared with."""

    curve: Sequence[float]  # of the champion's run with the same seed, or the mean of its runs' curves if there is none
    value: float  # its score, in the same way
    luck: float  # by how much that is better than the mean of all its runs

    @classmethod
    def of(cls, runs: Sequence[TrialRow], seed: int, metric: Metric, points: int) -> "_Champion | None":
        """The champion's curve and score; None if no run of it has that many points."""
        known = [run for run in runs if len(_curve(run)) >= points]
        paired = [run for run in known if run.seed == seed] or known
        if not paired:
            return None
        curve = [fmean(losses) for losses in zip(*(_curve(run)[:points] for run in paired), strict=True)]
        value = fmean(run.score for run in paired)
        return cls(curve, value, metric.gain(value, over=fmean(run.score for run in runs)))


def _finished(ledger: Ledger, metric: Metric, points: int) -> Iterator[Finished]:
    """Candidates with a score and a curve of their first run, against its champion then, the latest first."""
    rows = ledger.experiments()
    kept = [(row.id, ledger.measured(row)) for row in rows if row.decision is Action.KEEP]
    champions = {number: [run for run in ledger.scored(it.id) if run.parent == it.parent] for number, it in kept}
    for row in reversed(rows):
        if row.kind is not Kind.PROPOSAL:
            continue
        if not moves_constants_alone(row):
            if row.decision is Action.KEEP and row.status is Status.OK:
                return
            continue
        first = next((trial for trial in ledger.scored(row.id) if trial.purpose is Purpose.CANDIDATE), None)
        if first is None or first.parent is None or len(curve := _curve(first)) < points:
            continue
        champion = _Champion.of(champions[first.parent], first.seed, metric, points)
        if champion is not None:
            behind = [mine - its for mine, its in zip(curve[:points], champion.curve, strict=True)]
            yield Finished(behind, metric.gain(champion.value, over=first.score))


def moves_constants_alone(row: ExperimentRow) -> bool:
    """See `proposers.base.moves_constants_alone`."""
    return row.category == CONSTANTS_CATEGORY and row.proposer == CONSTANTS_PROPOSER


def _curve(run: TrialRow) -> Sequence[float]:
    return read_curve(run.metrics.get(LOSSES))
