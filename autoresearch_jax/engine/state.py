"""A run's settings and its state, both read from its ledger."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from autoresearch_jax.assets.base import AssetKind, ConstantValue
from autoresearch_jax.assets.kinds import kind_words, stored_kind
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.lineage import Lineage, score_in
from autoresearch_jax.decide.noise import mean_of
from autoresearch_jax.decide.posterior import NO_GAIN, Estimate
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import Action, Complexity, DecisionRule
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder, check_settings, task_settings
from autoresearch_jax.engine.task import CalibratedTask, EvalBundleTask, RunError, Task, Terms
from autoresearch_jax.proposers.base import CERTIFICATION, CONSTANTS_PROPOSER
from autoresearch_jax.types import CHARGED_COMPILE, COMPILED_PROGRAMS, COMPILING_SECONDS, CompileCost, Scalar

REFERENCE_SECONDS = "reference_seconds"  # among the settings, where the clock needs it; see `CalibratedTask`
FLAGS = "flags"  # among the settings: what the run was last given, as a shell takes it
MACHINE_FLAGS = "machine_flags"  # among the settings: those that are of this machine, as its folder of datasets
ENDS = "ends"  # among the settings: what ends the run, as its driver last read it
LITTLE_MEMORY = 0.1  # of a device's: up to there more peak memory than the baseline's costs nothing
FACTS = "facts"  # among the settings: what the task told of the device when it was last opened, as JSON
CONTRACT = "contract"  # among the settings: what the task asked of the asset then, see `Task.contract`
TOLD = "told"  # among the settings: names of metrics, see `Task.told`, as JSON
ASSET = "asset"  # among the settings: the kind of the editable file, see `kind_words`
EVAL_BUNDLE = "eval_bundle"  # among the settings: the hash of what a score can be computed again from


def run_settings(
    editable: str,
    seed: int,
    task: Terms,
    rule: DecisionRule,
    pruning: Pruning | None = None,
    certification: CertificationSettings | None = None,
) -> dict[str, Scalar]:
    """The settings of a run that begins, in the order in which they are stored."""
    how_pruned = {"prune": False} if pruning is None else pruning.settings
    certifies = {} if certification is None else certification.settings
    return {"editable": editable, "seed": seed, **task_settings(task), **rule.settings, **certifies, **how_pruned}


def keep_to_settings(
    ledger: Ledger,
    folder: RunFolder,
    task: Task,
    wanted: Mapping[str, Scalar],
    flags: Mapping[str, Scalar] | None = None,
) -> None:
    """Stores the settings of a run that begins; refuses to go on with one under others.

    Args:
      flags: that the run is given now, kept for later commands; other ones are no other settings.

    Raises:
      RunFolderError: some settings differ.
      RunError: the eval bundle is not that of the run's beginning.
    """
    stored = ledger.settings()
    if stored:
        check_settings(stored, wanted, folder.path)
    now = {**(flags or {}), FACTS: json.dumps(dict(task.facts)), CONTRACT: task.contract}
    now |= {TOLD: json.dumps(list(task.told)), ASSET: kind_words(task.asset)}
    given = {name: words for name, words in now.items() if stored.get(name) != words}
    ledger.save_settings(given if stored else {**wanted, **given})
    calibrate(ledger, folder, task)
    _keep_eval_bundle(ledger, folder, task)
    folder.write_settings(ledger.settings())


def asset_of(ledger: Ledger) -> AssetKind:
    """The kind of a run's editable file."""
    return stored_kind(ledger.settings(), ASSET)


def calibrate(ledger: Ledger, folder: RunFolder, task: Task) -> None:
    """Has the task's clock count in what it counted in when the run began; a run that begins stores that."""
    if not isinstance(task, CalibratedTask):
        return
    stored = ledger.settings().get(REFERENCE_SECONDS)
    kept = task.calibrate(float(stored) if isinstance(stored, int | float) else None, folder.logs)
    if kept != stored:
        ledger.save_settings({REFERENCE_SECONDS: kept})


def _keep_eval_bundle(ledger: Ledger, folder: RunFolder, task: Task) -> None:
    """Has the task store what a score can be computed again from, once for the run."""
    if not isinstance(task, EvalBundleTask):
        return
    stored = ledger.settings().get(EVAL_BUNDLE)
    found = task.keep_eval_bundle(folder.eval_bundle)
    if stored not in (None, found):
        raise RunError(f"{folder.eval_bundle} is not what the run began with: restore it, or use another --tag")
    if stored is None:
        ledger.save_settings({EVAL_BUNDLE: found})


@dataclass(frozen=True)
class RunState:
    """The state of a run that decisions and briefs need."""

    champion: ExperimentRow  # the experiment that measured the champion's program
    runs: Sequence[TrialRow]  # all trials of it that have a score
    used_seeds: Sequence[int]  # of its trials that are over; the next fresh seed follows from them
    score: Estimate  # the champion's, and its standard deviation; of the greedy rule's the one run and no error
    lineage: Lineage | None  # the model of scores; None under the greedy rule
    anchor: frozenset[int]  # the last champion that was kept for its gain, as `Lineage` has it
    baseline: int  # number of the experiment with the baseline's trials
    # peak memory in bytes that more memory is measured by: the baseline's, or LITTLE_MEMORY of the device's if that is
    # more; None where the baseline's is not known
    baseline_memory: float | None
    looked_at: frozenset[int]  # experiments whose edits certification took out, or could not
    keeps_since_certified: int  # edits that were kept since then
    certification_runs: int  # trials that certification had

    @property
    def seeds(self) -> list[int]:
        """Seeds that the champion ran with."""
        return [run.seed for run in self.runs]

    @property
    def sigma(self) -> float | None:
        """Standard deviation of a run; None where it is not known."""
        return None if self.lineage is None else self.lineage.posterior.sigma

    def complexity(self, runs: Sequence[TrialRow], nodes_added: int, unit: str) -> Complexity:
        """What a candidate costs beside its runs."""
        anchor_gain = NO_GAIN
        if self.lineage is not None and self.anchor != self.lineage.champion:
            anchor_gain = self.lineage.posterior.gain_of(self.lineage.champion - self.anchor)
        peaks = _peak_memory(runs), _peak_memory(self.runs), self.baseline_memory
        return Complexity(nodes_added, *peaks, anchor_gain, unit)


def concluded(ledger: Ledger) -> Sequence[ExperimentRow]:
    """The experiments of the search that are over, in their order."""
    return ledger.remembered(_concluded)


def _concluded(ledger: Ledger) -> Sequence[ExperimentRow]:
    return tuple(row for row in ledger.experiments() if row.kind is not Kind.TRIAL and not row.is_open)


def settled_constants(ledger: Ledger) -> dict[str, ConstantValue]:
    """The champion's constants as the human or the optimizer gave them last, without what agents made of them."""
    kept = [row for row in concluded(ledger) if row.decision is Action.KEEP]
    settled = dict(kept[0].constants) if kept else {}
    for before, after in pairwise(kept):
        if after.proposer in (CONSTANTS_PROPOSER, CERTIFICATION):
            moved = after.constants.keys() & before.constants.keys()
            settled |= {
                name: after.constants[name] for name in moved if after.constants[name] != before.constants[name]
            }
    return settled


def note_ends(ledger: Ledger, folder: RunFolder, ends: str) -> None:
    """Stores what ends the run, for those who look on."""
    if ledger.settings().get(ENDS) != ends:
        ledger.save_settings({ENDS: ends})
        folder.write_settings(ledger.settings())


def read_state(ledger: Ledger) -> RunState | None:
    """The state of a run; None before there is a baseline. A pure function of what is concluded in the ledger."""
    return ledger.remembered(_state)


def _state(ledger: Ledger) -> RunState | None:
    rows = concluded(ledger)
    kept = [row for row in rows if row.decision is Action.KEEP]
    if not kept:
        return None
    baseline, champion = (ledger.measured(row) for row in (kept[0], kept[-1]))  # a refactoring has no trials of its own
    lineage = ledger.lineage()
    runs = [run for run in ledger.scored(champion.id) if run.parent == champion.parent]  # since it was moved
    for_gain = [row for row in kept if row.is_improvement]
    anchor = frozenset[int]()
    if lineage is None:
        score = Estimate(mean_of([run.score for run in runs]), 0.0)
    else:
        score = score_in(lineage, lineage.champion)
        anchor = lineage.programs[for_gain[-1].id].contents
    reverts = [row for row in rows if row.kind is Kind.REVERT]
    last_look = max((row.ended or 0 for row in reverts), default=0)
    return RunState(
        champion=champion,
        runs=runs,
        used_seeds=[run.seed for run in ledger.trials(champion.id) if run.status is not None and not run.was_too_busy],
        score=score,
        lineage=lineage,
        anchor=anchor,
        baseline=baseline.id,
        baseline_memory=_usual_memory(ledger, _peak_memory(ledger.scored(baseline.id))),
        looked_at=frozenset(number for row in reverts for number in row.without) | kept_for_length(kept),
        keeps_since_certified=sum(row.kind is Kind.PROPOSAL and (row.ended or 0) > last_look for row in kept),
        certification_runs=certification_runs(ledger.trials(), reverts),
    )


def _usual_memory(ledger: Ledger, baseline: float | None) -> float | None:
    of_device = json.loads(str(ledger.settings().get(FACTS) or "{}")).get("device_memory_bytes") or 0
    return None if baseline is None else max(baseline, LITTLE_MEMORY * of_device)


def certification_runs(trials: Sequence[TrialRow], reverts: Sequence[ExperimentRow]) -> int:
    """How many of some trials that are over certification had: the fresh run of a revert is among them."""
    not_fresh_yet, runs = {row.id for row in reverts}, 0
    for trial in (trial for trial in trials if trial.status is not None):
        is_fresh = trial.purpose is Purpose.CHAMPION and trial.experiment in not_fresh_yet
        not_fresh_yet -= {trial.experiment} if is_fresh else set()
        runs += trial.purpose is Purpose.CERTIFY or is_fresh
    return runs


def kept_for_length(rows: Sequence[ExperimentRow]) -> frozenset[int]:
    """Experiments that were kept for their shorter source; certification asks no gain of them."""
    return frozenset(row.id for row in rows if row.simplification)


def trials_by_experiment(ledger: Ledger) -> Mapping[int, Sequence[TrialRow]]:
    """The trials of each experiment that has any, in their order; reads the ledger once."""
    found: dict[int, list[TrialRow]] = defaultdict(list)
    for trial in ledger.trials():
        found[trial.experiment].append(trial)
    return found


def seconds_spent(ledger: Ledger, rows: Sequence[ExperimentRow]) -> float:
    """Time spent on experiments, and on runs of the champion that certification had beside them."""
    spans = ((run.started_at, run.finished_at) for run in runs_beside(ledger, rows) if run.finished_at is not None)
    beside, until = 0.0, -math.inf
    for start, end in sorted(spans):  # several may have run at the same time
        beside += max(0.0, end - max(start, until))
        until = max(until, end)
    return sum(row.seconds or 0.0 for row in rows) + beside


def runs_beside(ledger: Ledger, rows: Sequence[ExperimentRow]) -> list[TrialRow]:
    """Finished runs of the champion that certification had between experiments, in the time of none of them."""
    certified = {trial.experiment for trial in ledger.trials() if trial.purpose is Purpose.CERTIFY}
    if not certified:
        return []
    found = []
    reverts = {row.id for row in rows if row.kind is Kind.REVERT}
    for row in (row for row in rows if row.id in certified):
        is_champion = row.id not in reverts  # a revert is from its first run as the champion on
        for trial in ledger.trials(row.id):
            is_champion = is_champion or trial.purpose is Purpose.CHAMPION
            if is_champion and trial.purpose is Purpose.CERTIFY and trial.finished_at is not None:
                found.append(trial)
    return found


def _peak_memory(runs: Sequence[TrialRow]) -> float | None:
    known = [peak for run in runs if isinstance(peak := run.metrics.get("peak_memory_bytes"), int | float)]
    return median(known) if known else None


def read_compile_cost(ledger: Ledger, experiment: int, champion: ExperimentRow | None) -> CompileCost:
    """What trials of an experiment, else of the champion, say of compiling; nothing of a program that a cache had."""
    for trial in ledger.trials(experiment):
        if isinstance(charged := trial.metrics.get(CHARGED_COMPILE), int | float):
            return CompileCost(charged=float(charged))
    if champion is None:
        return CompileCost(charged=0.0)
    trials = [trial for trial in ledger.trials(ledger.measured(champion).id) if trial.metrics.get(COMPILED_PROGRAMS)]
    took = [seconds for trial in trials if isinstance(seconds := trial.metrics.get(COMPILING_SECONDS), int | float)]
    return CompileCost(champion=float(max(took)) if took else None)
