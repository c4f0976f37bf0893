"""Begins and ends experiments, and keeps ledger, git and results.tsv alike."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from autoresearch_jax.assets.base import AssetSyntaxError, ConstantError
from autoresearch_jax.assets.merging import known_constants
from autoresearch_jax.decide.lineage import Lineage, score_in
from autoresearch_jax.decide.noise import mean_of, noise_step, round_to_step
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, Decision, plus_minus, shown
from autoresearch_jax.engine.inbox import HAND, HandedText, Inbox
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.plan import Conclude
from autoresearch_jax.engine.records import ExperimentRow, Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import asset_of, concluded
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.files import write_whole
from autoresearch_jax.proposers.base import NO_PROPOSAL, Brief, PastExperiment, Proposal, ProposalFailed
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import SCORE_DECIMALS, Merge, Metric, Status

GIB = 2**30
COMMIT_DIGITS = 7
REFACTORING = "refactoring"
SIMPLIFICATION = "simplification"
MEMO_ROWS = 10_000  # experiments whose lines, and what proposers see of them, are not made again each time
KEEPS = (str(Action.KEEP), SIMPLIFICATION, REFACTORING)  # outcomes that became the tip of the branch
NO_LONGER_FITS = (
    "it changes the same lines as the champion (experiment {}) did since, or nothing that it has not: make the change "
    "in the champion's text"
)


def results_text(ledger: Ledger, metric: Metric) -> str:
    """What results.tsv says for the ledger as it is now. What was not measured is empty, never 0."""
    peaks: dict[int, float] = {}
    for trial in ledger.trials():
        peak = trial.metrics.get("peak_memory_bytes")
        if isinstance(peak, int | float):
            peaks[trial.experiment] = max(peak, peaks.get(trial.experiment, peak))
    lines = ["\t".join(("commit", metric.name, "memory_gb", "status", "description"))]
    lines += [_line(row, peaks.get(row.id)) for row in ledger.experiments() if not row.is_open]
    return "\n".join(lines) + "\n"


def write_results(path: Path, ledger: Ledger, metric: Metric) -> None:
    """Writes results.tsv, whole or not at all."""
    write_whole(path, results_text(ledger, metric))


@lru_cache(maxsize=MEMO_ROWS)
def _line(row: ExperimentRow, peak_memory: float | None) -> str:
    columns = (
        (row.commit or "")[:COMMIT_DIGITS],
        "" if row.score is None else f"{row.score:.{SCORE_DECIMALS}f}",
        "" if peak_memory is None else f"{peak_memory / GIB:.1f}",
        _status(row),
        " ".join(row.hypothesis.split()),
    )
    return "\t".join(columns)


RUNNING, INTERRUPTED = "running", "interrupted"


def outcome(row: ExperimentRow, *, at_work: bool = True) -> str:
    """One word for how an experiment ended: keep, discard, crash, duplicate, trial, ...

    Of one that is not over it says whether a driver is at work: "running", else "interrupted". What was kept for its
    shorter text alone is a "simplification", and if it is the champion's own program a "refactoring".
    """
    if row.status is None:
        return RUNNING if at_work else INTERRUPTED
    if row.status is Status.DUPLICATE and row.decision is Action.KEEP:
        return REFACTORING
    if row.status is not Status.OK:
        return str(row.status)
    if row.simplification:
        return SIMPLIFICATION
    if row.kind is Kind.TRIAL:
        return "trial"
    return str(row.decision)


def _status(row: ExperimentRow) -> str:
    """The outcome in the original's words: the tip of the branch is a keep, what was stopped early a discard."""
    word = outcome(row)
    if word == Status.PRUNED:
        return str(Action.DISCARD)
    return str(Action.KEEP) if word in KEEPS else word


def commit_message(
    experiment: ExperimentRow, conclusion: Conclude, score: Estimate | None, num_runs: int, metric: Metric
) -> str:
    """The hypothesis, the reason, and trailers that `git log --format=%(trailers)` reads.

    `score` is of a keep the posterior mean and its standard deviation; else the mean of its runs, with an error of 0.
    """
    decision = conclusion.decision
    trailers = [("Experiment", str(experiment.id)), ("Decision", str(kept_or_not(decision)))]
    if experiment.without:
        trailers.append(("Reverts", ", ".join(map(str, experiment.without))))
    if score is not None:
        trailers.append((metric.name.replace("_", "-").title(), plus_minus(score)))
    if decision.gain is not None:
        effect = decision.gain.mean if metric.direction == "maximize" else -decision.gain.mean
        sign = "" if effect < 0 else "+"
        trailers.append(("Effect", f"{sign}{plus_minus(Estimate(effect, decision.gain.error), SCORE_DECIMALS)}"))
    if decision.probability is not None:
        trailers.append(("Probability", shown(decision.probability)))
    trailers.append(("Runs", str(num_runs)))
    if experiment.proposer:
        trailers.append(("Proposer", experiment.proposer))
    if experiment.finding is not None:
        trailers.append(("Finding", experiment.finding))
    if experiment.adopted_from is not None:
        trailers.append(("Adopted-From", experiment.adopted_from))
    subject = clean_line(experiment.hypothesis) or f"experiment {experiment.id}"
    footer = "\n".join(f"{name}: {value}" for name, value in trailers)
    return f"{subject}\n\n{clean_line(decision.reason)}\n\n{footer}\n"


def kept_or_not(decision: Decision) -> Action:
    """KEEP or DISCARD, as an experiment's row has it."""
    return Action.KEEP if decision.action.keeps else Action.DISCARD


class Recorder:
    """The concluded experiments of a run; adds the next one to ledger, git and results.tsv."""

    def __init__(self, ledger: Ledger, workspace: Workspace, folder: RunFolder, metric: Metric) -> None:
        self.ledger = ledger
        self._workspace = workspace
        self._folder = folder
        self._metric = metric
        self.last_ended = -math.inf  # `time.monotonic()` of the last conclusion in this process
        self._read()

    def _read(self) -> None:
        self.rows = concluded(self.ledger)
        self.champion = next((row for row in reversed(self.rows) if row.decision is Action.KEEP), None)

    def refresh(self) -> None:
        """Reads the ledger again and writes results.tsv: a further run of the champion moves its score."""
        self._read()
        write_results(self._folder.results, self.ledger, self._metric)

    def settle(self) -> None:
        """Completes what a killed process left undone between ledger, git and results.tsv.

        Raises:
          WorkspaceError: the branch is not where the ledger says.
        """
        self._workspace.free_locks()
        if self.champion is None:
            self._workspace.require_unused_branch()
        else:
            last = self.rows[-1]
            if last.id != self.champion.id:
                self._publish(self.champion, previous=self.champion.commit)
            self._publish(last, previous=last.parent_commit)
        write_results(self._folder.results, self.ledger, self._metric)

    def require_champion(self) -> ExperimentRow:
        """The champion, once there is a baseline."""
        assert self.champion is not None, "the baseline comes first"
        return self.champion

    def baseline_source(self) -> str:
        """The text that the run began with."""
        return self.ledger.source(next(row.id for row in self.rows if row.decision is Action.KEEP))

    def conclude(self, experiment: ExperimentRow, conclusion: Conclude, started: float) -> ExperimentRow:
        """Ends an experiment: commit object, then ledger, then ref; each may be repeated after a kill.

        `started` is `time.monotonic()` when this process began with it: from then on, or from when the last one ended,
        the time is this one's. Returns the experiment as it now stands.
        """
        decision, now = conclusion.decision, time.monotonic()
        score = self._score(experiment, conclusion.status)
        commit = self._commit(experiment, conclusion, score)
        decisions = self.ledger.decisions(experiment.id)  # that to keep it was stored before its runs as champion
        with self.ledger.transaction():
            if conclusion.status is Status.OK and not (decisions and decisions[-1].action.keeps):
                self.ledger.record_decision(experiment.id, decision)
            self.ledger.conclude(
                experiment.id,
                conclusion.status,
                score,
                kept_or_not(decision),
                clean_line(decision.reason),
                commit,
                now - max(started, self.last_ended),
                simplification=decision.action is Action.KEEP_SIMPLER,
                price=decision.price if conclusion.status is Status.OK else None,
            )
        self.last_ended = now
        row = self.ledger.experiment(experiment.id)
        self._publish(row, previous=row.parent_commit)
        self.refresh()
        return row

    def _score(self, experiment: ExperimentRow, status: Status) -> float | None:
        """The mean of the runs of what was measured; a duplicate has its twin's score."""
        if status is Status.OK:
            return mean_of([run.score for run in self.ledger.runs(experiment)])
        if status is not Status.DUPLICATE:
            return None
        program_hash = self.ledger.experiment(experiment.id).program_hash
        assert program_hash is not None, "it was found by its program"
        twin = self.ledger.scored_twin(program_hash, before=experiment.id)
        return None if twin is None else twin.score

    def _commit(self, experiment: ExperimentRow, conclusion: Conclude, score: float | None) -> str | None:
        """The commit that holds an experiment's source; the baseline is in the user's own."""
        if experiment.kind is Kind.BASELINE:
            return experiment.parent_commit
        assert experiment.parent_commit is not None
        estimate = None if score is None else Estimate(score, 0.0)
        num_runs = 0
        if conclusion.status is Status.OK:
            num_runs = sum(not trial.was_too_busy for trial in self.ledger.trials(experiment.id))
            if conclusion.decision.action.keeps:
                estimate = _score_if_kept(self.ledger.lineage(), experiment.id) or estimate
        message = commit_message(experiment, conclusion, estimate, num_runs, self._metric)
        source = self.ledger.source(experiment.id)
        return self._workspace.commit(source, experiment.parent_commit, message, experiment.created_at)

    def _publish(self, row: ExperimentRow, previous: str | None) -> None:
        """Gives an ended experiment's commit its name in git; a baseline that failed gets none."""
        if row.commit is None or not _is_of_search(row):
            return
        if row.decision is Action.KEEP:
            self._workspace.keep(row.commit, previous)
        else:
            self._workspace.discard(row.commit, row.id)


def _score_if_kept(found: Lineage | None, experiment: int) -> Estimate | None:
    """The score of an open experiment as it will be once it is kept; None under the greedy rule."""
    if found is None or experiment not in found.programs:
        return None
    lineage = found.copy()
    lineage.programs[experiment] = replace(lineage.programs[experiment])
    lineage.conclude(experiment, kept=True)
    return score_in(lineage, lineage.champion)


def past_experiments(rows: Sequence[ExperimentRow], sigma: float | None) -> tuple[PastExperiment, ...]:
    """The experiments that are over, as proposers see them: scores to the noise floor, and no finer.

    `sigma` is the noise floor; None where it is not known, and then scores have all their digits.
    """
    step = noise_step(sigma)
    return tuple(_as_outcome(row, step) for row in rows if _is_of_search(row))


def score_of(row: ExperimentRow) -> float:
    """The score of an experiment that has one."""
    assert row.score is not None, f"experiment {row.id} has no score"
    return row.score


def _is_of_search(row: ExperimentRow) -> bool:
    """False for a baseline that failed: a later one took its place."""
    return row.kind is not Kind.BASELINE or row.decision is Action.KEEP


@lru_cache(maxsize=MEMO_ROWS)
def _as_outcome(row: ExperimentRow, step: tuple[int, int] | None) -> PastExperiment:
    assert row.status is not None
    kept = row.decision is Action.KEEP
    reason = row.reason or ""
    if row.status is Status.OK:  # the reason in the ledger has all digits
        reason = "kept" if kept else "no better than the champion"
        if row.price and not kept:
            reason = "gains less than its memory and its length ask for"
        if row.simplification:
            reason = "kept for its shorter source, no worse than the champion"
        if row.kind is Kind.REVERT:
            reason = "kept: what it takes out was no gain" if kept else "what it takes out is a gain, and stays"
    return PastExperiment(
        experiment=row.id,
        proposer=row.proposer,
        hypothesis=row.hypothesis,
        category=row.category,
        constants=row.constants,
        status=row.status,
        score=None if row.score is None else round_to_step(row.score, step),
        kept=kept,
        reason=reason,
        program_hash=row.program_hash,
        simplification=row.simplification,
        finding=row.finding,
        adopted_from=row.adopted_from,
        price=0.0 if kept else round_to_step(row.price or 0.0, step),
    )


class Entries:
    """Enters proposals, and texts of the inbox, as experiments of the champion, before anything is spent on them.

    `started` is in each method `time.monotonic()` from which on the time is the experiment's.
    """

    def __init__(
        self, recorder: Recorder, inbox: Inbox, merge: Merge, proposer: str, ends: Callable[[ExperimentRow], None]
    ) -> None:
        """Stores where to enter what; `proposer` is the name of one that gives none, `ends` is told what is over."""
        self._recorder = recorder
        self._ledger = recorder.ledger
        self._inbox = inbox
        self._merge = merge
        self._proposer = proposer
        self._ends = ends

    def begin(self, champion: ExperimentRow, brief: Brief, proposal: Proposal, started: float) -> ExperimentRow:
        """Enters a proposal; one that cannot be applied is over at once."""
        source = proposal.source
        if source is None:
            try:
                source = brief.asset.set_constants(brief.champion_source, proposal.constants)
            except (ConstantError, AssetSyntaxError) as error:
                return self.reject(self._intent(champion, brief.champion_source, proposal), str(error), started)
        intent = self._intent(champion, source, proposal)
        return self._ledger.begin_experiment(replace(intent, constants=known_constants(brief.asset, source)))

    def begin_text(self, champion: ExperimentRow, text: HandedText, started: float) -> ExperimentRow:
        """Enters a text of the inbox; one that does not fit the champion of now is over at once."""
        asset, of_champion = asset_of(self._ledger), self._ledger.source(champion.id)
        source = text.for_champion(asset, of_champion, self._merge)
        entered = of_champion if source is None else source  # which may be empty
        proposal = Proposal(text.hypothesis, text.category, source=entered, proposer=HAND)
        proposal = replace(proposal, adopted_from=text.adopted_from, why=text.why)
        intent = self._intent(champion, entered, proposal)
        with self._ledger.transaction():
            if source is None:
                experiment = self.reject(intent, NO_LONGER_FITS.format(champion.id), started)
            else:
                experiment = self._ledger.begin_experiment(replace(intent, constants=known_constants(asset, source)))
            self._inbox.take(text.id, experiment.id)
        return experiment

    def enter_failure(self, champion: ExperimentRow, brief: Brief, failure: ProposalFailed, started: float) -> None:
        """Enters that there was no proposal."""
        nothing = Proposal(
            NO_PROPOSAL,
            NO_PROPOSAL,
            source=brief.champion_source,
            cost_dollars=failure.cost_dollars,
            proposer=failure.proposer,
        )
        self.reject(self._intent(champion, brief.champion_source, nothing), str(failure), started)

    def reject(self, intent: Intent, reason: str, started: float) -> ExperimentRow:
        """Enters an experiment that is over before it began."""
        with self._ledger.transaction():
            experiment = self._ledger.begin_experiment(intent)
            rejection = Conclude(Status.REJECTED, Decision(Action.DISCARD, reason))
            experiment = self._recorder.conclude(experiment, rejection, started)
        self._ends(experiment)
        return experiment

    def _intent(self, champion: ExperimentRow, source: str, proposal: Proposal) -> Intent:
        """The experiment record without its constants; the caller fills them in."""
        return Intent(
            kind=Kind.PROPOSAL,
            source=source,
            hypothesis=clean_line(proposal.hypothesis),
            category=proposal.category,
            proposer=proposal.proposer or self._proposer,
            parent=champion.id,
            parent_commit=champion.commit,
            cost_dollars=proposal.cost_dollars,
            finding=proposal.finding,
            adopted_from=proposal.adopted_from,
            used=proposal.used,
            why=proposal.why,
        )
