"""What a run's page shows, read from its ledger: experiments, champions, kept edits, what helped, where time went."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from autoresearch_jax.audit.findings import (
    CHAMPION,
    AuditFindings,
    Change,
    ablation_findings,
    holdout_findings,
    read_scores,
    transfer_findings,
)
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, describe_gain
from autoresearch_jax.engine.certifying import Certificate, Word, certificates
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.recorder import outcome
from autoresearch_jax.engine.records import AuditTrial, ExperimentRow, Kind, TrialRow
from autoresearch_jax.engine.run_folder import PARTS, RunFolder
from autoresearch_jax.engine.state import CONTRACT, FACTS, MACHINE_FLAGS, runs_beside, trials_by_experiment
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY
from autoresearch_jax.report.exchanges import ModelUse
from autoresearch_jax.report.summary import RunSummary, summarize_run
from autoresearch_jax.types import ATTENDED_SHARE, LOSSES, WALL_SECONDS, Metric, Scalar, Status

HOUR = 3600.0
SILENT_SETTINGS = (MACHINE_FLAGS, FACTS, CONTRACT, PARTS)  # of this machine, for agents, or for messages
# Parts of an experiment's time by the metrics that have them, in the order in which they are shown
TRAINING, WAITING, OTHER = "training", "waiting for the machine", "proposing and other"
CHECKING = "checking and tracing"
TIME_PARTS = {
    "starting and compiling": ("startup_seconds", "compile_seconds", "init_seconds"),
    "judging": ("snapshot_seconds", "judge_seconds"),
}
CLEAR = 2.0  # standard deviations of a gain, above which a kind of edit is said to help
LEAST_TRIED = 3  # measured experiments of a kind, before it is said not to help


class ReportError(UserError):
    """There is nothing to report yet."""


@dataclass(frozen=True)
class Point:
    """An experiment of the search that is over.

    Attributes:
      outcome: one word, see `recorder.outcome`; else "baseline", "revert" of what took edits out, and of an edit that
        was certified or reverted that word.
      hours: attended hours of the run when it was over: without time in which other work had the machine.
      runs: trials with a score.
      curve: the loss curve of its first trial as the ledger has it, of a refactoring its twin's; empty without one.
    """

    row: ExperimentRow
    outcome: str
    hours: float
    runs: int
    curve: str


@dataclass(frozen=True)
class KeptEdit:
    """A program that was kept after the baseline.

    Attributes:
      effect: gain over its parent, positive where it is better; by all runs so far where it has a certificate.
      probability: that the effect is real if it has a certificate; of a revert, that what it took out was no gain.
    """

    point: Point
    effect: Estimate | None
    probability: float | None
    certificate: Certificate | None


@dataclass(frozen=True)
class Tried:
    """What came of all experiments of one kind.

    Attributes:
      what: a category, or a constant that was moved.
      kept: for their score or their shorter source; refactorings are not among them.
      certified: edits that are improvements by now.
      reverted: edits that were taken out of the champion again.
      failed: experiments without a score that were not duplicates.
      gain: of its edits in the champion, together; None if there are none, and under the greedy rule.
    """

    what: str
    experiments: int
    measured: int
    kept: int
    certified: int
    reverted: int
    failed: int
    gain: Estimate | None


@dataclass(frozen=True)
class History:
    """A run as its page shows it.

    Attributes:
      points: experiments that are over, in their order.
      champions: the baseline and all that was kept after it, in their order.
      kept: the champions without the baseline.
      tried: by category, and by constant where a category says no more than that constants were moved.
      seconds: spent, by what they were spent on; models may answer beside a trial, so their time is not among them.
      audits: findings of audits that are over.
      settings: what the run was begun with.
    """

    tag: str
    metric: Metric
    summary: RunSummary
    points: Sequence[Point]
    champions: Sequence[Point]
    kept: Sequence[KeptEdit]
    tried: Sequence[Tried]
    seconds: Mapping[str, float]
    model_use: ModelUse
    audits: Sequence[AuditFindings]
    settings: Mapping[str, Scalar] = field(default_factory=dict)


def read_history(ledger: Ledger, folder: RunFolder) -> History:
    """Reads a run.

    Raises:
      ReportError: nothing of it has been measured yet, or it is no run but a ledger of trials by hand.
    """
    summary = summarize_run(ledger, folder)
    if summary.metric is None:
        raise ReportError(f"{folder.path}: holds trials by hand and no run: `autoresearch results` lists them")
    if summary.baseline is None:
        raise ReportError(f"{folder.path}: nothing is measured yet: ask again once the baseline is")
    rows = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL and not row.is_open]
    found = certificates(ledger)
    points = _points(ledger, rows, found)
    champions = [point for point in points if point.row.decision is Action.KEEP]
    return History(
        tag=folder.path.name,
        metric=summary.metric,
        summary=summary,
        points=points,
        champions=champions,
        kept=[_kept(ledger, point, found) for point in champions[1:]],
        tried=_tried(ledger, rows, found),
        seconds=_seconds(ledger, rows, summary.seconds),
        model_use=summary.model_use,
        audits=_audits(ledger, summary),
        settings={name: value for name, value in ledger.settings().items() if name not in SILENT_SETTINGS},
    )


def _points(ledger: Ledger, rows: Sequence[ExperimentRow], found: Mapping[int, Certificate]) -> list[Point]:
    points, trials_of, hours = [], trials_by_experiment(ledger), _attended_hours(ledger)
    for row in rows:
        trials = trials_of.get(row.id, ())
        word = outcome(row)
        if row.decision is Action.KEEP and row.kind is not Kind.PROPOSAL:
            word = str(row.kind)
        if row.id in found and found[row.id].word is not Word.KEPT:
            word = str(found[row.id].word)
        measured = ledger.trials(ledger.measured(row).id) if row.decision is Action.KEEP else trials
        curves = [str(curve) for trial in measured if (curve := trial.metrics.get(LOSSES))]
        runs = sum(trial.value is not None for trial in trials)
        points.append(
            Point(row, word, hours[row.id], runs, max(curves, key=lambda curve: curve.count(" "), default=""))
        )
    return points


def _attended_hours(ledger: Ledger) -> Mapping[int, float]:
    """Attended hours of the run when each experiment of the search was over.

    A further run of an earlier one, such as the champion, took its time from the last that had a run before it.
    """
    rows = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL]
    places = {row.id: place for place, row in enumerate(rows)}
    beside = {trial.id for trial in runs_beside(ledger, rows)}
    waited, later, last = [0.0] * len(rows), [0.0] * len(rows), 0
    for trial in ledger.trials():
        last = max(last, places.get(trial.experiment, 0))
        if trial.id in beside and trial.finished_at is not None:
            later[last] += trial.finished_at - trial.started_at - _waited(trial)
        elif trial.experiment in places:
            waited[last] += _waited(trial)
    own = (max(0.0, (row.seconds or 0.0) - lost) for row, lost in zip(rows, waited, strict=True))
    ends = accumulate(before + seconds for before, seconds in zip([0.0, *later], own, strict=False))
    return {row.id: seconds / HOUR for row, seconds in zip(rows, ends, strict=True)}


def _waited(trial: TrialRow) -> float:
    """Seconds of training in which other work had the machine; 0 where the clock does not tell."""
    wall, share = _number(trial, WALL_SECONDS), trial.metrics.get(ATTENDED_SHARE)
    return wall * (1 - share) if isinstance(share, int | float) else 0.0


def _number(trial: TrialRow, name: str) -> float:
    value = trial.metrics.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _kept(ledger: Ledger, point: Point, found: Mapping[int, Certificate]) -> KeptEdit:
    certificate = found.get(point.row.id)
    if certificate is not None:
        return KeptEdit(point, certificate.gain, certificate.probability, certificate)
    decisions = ledger.decisions(point.row.id)
    if not decisions:
        return KeptEdit(point, None, None, None)
    return KeptEdit(point, decisions[-1].gain, decisions[-1].probability, None)


def _tried(ledger: Ledger, rows: Sequence[ExperimentRow], found: Mapping[int, Certificate]) -> list[Tried]:
    by_number = {row.id: row for row in rows}
    groups: dict[str, list[ExperimentRow]] = defaultdict(list)
    for row in rows:
        if row.kind is Kind.PROPOSAL:
            for what in _kinds(row, by_number.get(-1 if row.parent is None else row.parent)):
                groups[what].append(row)
    tried = [_group(ledger, what, members, found) for what, members in groups.items()]
    return sorted(tried, key=lambda one: (-(0.0 if one.gain is None else one.gain.mean), -one.experiments, one.what))


def _kinds(row: ExperimentRow, parent: ExperimentRow | None) -> Sequence[str]:
    if row.category not in ("", CONSTANTS_CATEGORY) or parent is None:
        return [row.category or "other"]
    names = row.constants.keys() & parent.constants.keys()
    moved = sorted(name for name in names if row.constants[name] != parent.constants[name])
    return moved or [row.category or "other"]


def _group(ledger: Ledger, what: str, rows: Sequence[ExperimentRow], found: Mapping[int, Certificate]) -> Tried:
    measured = [row for row in rows if row.status is Status.OK]
    kept = [row for row in measured if row.decision is Action.KEEP]
    words = [found[row.id].word for row in kept if row.id in found]
    edits = [row.id for row in kept if row.id in found and found[row.id].word is not Word.REVERTED]
    lineage = ledger.lineage()
    return Tried(
        what=what,
        experiments=len(rows),
        measured=len(measured),
        kept=len(kept),
        certified=words.count(Word.CERTIFIED),
        reverted=words.count(Word.REVERTED),
        failed=sum(row.status not in (Status.OK, Status.DUPLICATE, Status.PRUNED) for row in rows),
        gain=lineage.posterior.gain_of(edits) if lineage is not None and edits else None,
    )


def _seconds(ledger: Ledger, rows: Sequence[ExperimentRow], spent: float) -> Mapping[str, float]:
    found: dict[str, float] = defaultdict(float)
    trials_of = trials_by_experiment(ledger)
    for row in rows:
        trials = trials_of.get(row.id, ())
        if trials:  # all trials of an experiment run what was traced once
            found[CHECKING] += _number(trials[0], "prepare_seconds")
        for trial in trials:
            waited = _waited(trial)
            found[TRAINING] += _number(trial, WALL_SECONDS) - waited
            found[WAITING] += waited
            for part, names in TIME_PARTS.items():
                found[part] += sum(_number(trial, name) for name in names)
    order = (TRAINING, WAITING, *TIME_PARTS, CHECKING)
    known = {part: found[part] for part in order if found[part] > 0}
    return {**known, OTHER: max(0.0, spent - sum(known.values()))}


def _audits(ledger: Ledger, summary: RunSummary) -> list[AuditFindings]:
    asked: dict[int, list[AuditTrial]] = defaultdict(list)
    for trial in ledger.audit_trials():
        if trial.answered_at is not None:
            asked[trial.audit].append(trial)
    return [_audit(ledger, trials, summary) for trials in asked.values()]


def _audit(ledger: Ledger, trials: Sequence[AuditTrial], summary: RunSummary) -> AuditFindings:
    question, scores, metric = json.loads(trials[0].question), read_scores(trials), summary.metric
    assert metric is not None
    if question["kind"] == "holdout":
        champion = ledger.experiment(question["champion"]).score
        baseline = None if summary.baseline is None else summary.baseline.score
        gain = None if champion is None or baseline is None else metric.gain(champion, over=baseline)
        return holdout_findings(scores, metric, gain)
    if question["kind"] == "transfer":
        where = f"at DEPTH {question['depth']} with {question['budget_factor']:g} times the budget"
        return transfer_findings(scores, metric, where)
    numbers = sorted({int(trial.subject.removeprefix("without ")) for trial in trials if trial.subject != CHAMPION})
    return ablation_findings(scores, metric, [Change(ledger.experiment(each), f"without {each}") for each in numbers])


def sentences(history: History) -> dict[str, list[str]]:
    """What helped, what is open and what did not help, a sentence each; kinds that were hardly tried are in none."""
    helped = [one for one in history.tried if one.gain is not None and one.gain.mean > CLEAR * one.gain.error]
    kept = [one for one in history.tried if one.kept > one.reverted and one not in helped]
    useless = [
        f"{one.what}: {one.measured} measured, {f'{one.kept} kept and reverted' if one.kept else 'none kept'}"
        for one in history.tried
        if one.kept == one.reverted and one.measured >= LEAST_TRIED
    ]
    failing = [
        f"{one.what}: {one.failed} of {one.experiments} failed before they had a score"
        for one in history.tried
        if one.failed > one.experiments / 2 and one.failed >= LEAST_TRIED
    ]
    return {
        "What helped": [_sentence(one) for one in helped],
        "What is open": [_sentence(one) for one in kept],
        "What did not help": [*useless, *failing],
    }


def _sentence(one: Tried) -> str:
    gain = "" if one.gain is None else f"{describe_gain(one.gain)}, "
    certified = f", {one.certified} certified" if one.certified else ""
    reverted = f", {one.reverted} reverted" if one.reverted else ""
    return f"{one.what}: {gain}{one.kept} kept of {one.experiments} tried{certified}{reverted}"
