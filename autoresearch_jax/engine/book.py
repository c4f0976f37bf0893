"""A run's books: what was tried, who is champion, kept the same in ledger, git and results.tsv."""

import time
from dataclasses import dataclass

from autoresearch_jax.decide.noise import round_to_noise
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Decision
from autoresearch_jax.engine.commits import Measured, commit_message
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Conclusion, ExperimentRow, Kind, Verdict
from autoresearch_jax.engine.results import Results
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.run_state import seconds_spent
from autoresearch_jax.engine.sealed_rows import MadeOnce
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.proposers.base import Outcome
from autoresearch_jax.sandbox.faults import FaultPoint, reach
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Metric, Status


@dataclass(frozen=True)
class Ending:
    """How an experiment ended, before it is in the books.

    Attributes:
      status: OK if it was measured, else what kept it from it.
      score: mean of its trials; a duplicate has its twin's; None where there is none.
      verdict: what becomes of it.
      reason: one line.
      num_runs: trials that were run for it; none for a duplicate.
      simplification: True if it is kept for its shorter source alone.
      decision: the last one, not in the ledger yet; None if there was none, or it is written down.
      effect: the decision that it is kept for; None where there is none.
    """

    status: Status
    score: float | None
    verdict: Verdict
    reason: str
    num_runs: int = 0
    simplification: bool = False
    decision: Decision | None = None
    effect: Decision | None = None


class Book:
    """Rows of a run's ledger that are over, and how one more gets there."""

    def __init__(self, ledger: Ledger, workspace: Workspace, folder: RunFolder, metric: Metric) -> None:
        self.ledger = ledger
        self._workspace = workspace
        self._folder = folder
        self._metric = metric
        self._results = Results(ledger, metric)
        self._outcomes: MadeOnce[ExperimentRow, Outcome] = MadeOnce(_as_outcome)
        self._read()

    def _read(self) -> None:
        rows = self.ledger.experiments()
        self.rows = [row for row in rows if row.kind is not Kind.TRIAL and not row.is_open]
        self.champion = next((row for row in reversed(self.rows) if row.decision is Verdict.KEEP), None)

    def refresh(self) -> None:
        """Enters in all books what changed in the ledger: a further run of the champion moves its score."""
        self._read()
        self._results.write(self._folder.results)

    def history(self, sigma: float | None) -> tuple[Outcome, ...]:
        """All experiments that are over, as proposers see them: scores to the noise floor, and no finer.

        Args:
          sigma: the noise floor; None where it is not known, and then scores have all their digits.
        """
        return tuple(self._outcomes.of(row, sigma) for row in self.rows if _is_of_search(row))

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
        self._results.write(self._folder.results)

    def require_champion(self) -> ExperimentRow:
        """The champion, once there is a baseline."""
        assert self.champion is not None, "the baseline comes first"
        return self.champion

    @property
    def seconds(self) -> float:
        """See `seconds_spent`."""
        return seconds_spent(self.ledger, self.rows)

    @property
    def last_improvement(self) -> int:
        """Number of the last experiment that was kept for its score: what only says the same more briefly was not."""
        kept = [row for row in self.rows if row.decision is Verdict.KEEP and row.status is Status.OK]
        return max(row.id for row in kept if not row.simplification and row.kind is not Kind.REVERT)

    def conclude(self, experiment: ExperimentRow, ending: Ending, started: float) -> ExperimentRow:
        """Ends an experiment: commit object, then ledger, then ref; each may be repeated after a kill.

        Args:
          experiment: as it was begun.
          ending: how it ended.
          started: `time.monotonic()` when this process began with it.

        Returns:
          The experiment as it now stands in the ledger.
        """
        commit = self._commit(experiment, ending)
        reach(FaultPoint.AFTER_COMMIT, experiment.id)
        with self.ledger.transaction():
            if ending.decision is not None:
                self.ledger.record_decision(experiment.id, ending.decision)
            seconds = time.monotonic() - started
            reason = clean_line(ending.reason)
            conclusion = Conclusion(
                ending.status, ending.score, ending.verdict, reason, commit, seconds, ending.simplification
            )
            row = self.ledger.conclude(experiment.id, conclusion)
        reach(FaultPoint.AFTER_CONCLUSION, experiment.id)
        self._publish(row, previous=row.parent_commit)
        reach(FaultPoint.AFTER_WORKTREE, experiment.id)
        self.refresh()
        reach(FaultPoint.AFTER_RESULTS, experiment.id)
        return row

    def _commit(self, experiment: ExperimentRow, ending: Ending) -> str | None:
        """The commit that holds an experiment's source; the baseline is in the user's own."""
        if experiment.kind is Kind.BASELINE:
            return experiment.parent_commit
        assert experiment.parent_commit is not None
        message = commit_message(experiment, self._measured(experiment, ending), self._metric)
        source = self.ledger.source(experiment.id)
        return self._workspace.commit(source, experiment.parent_commit, message, experiment.created_at)

    def _measured(self, experiment: ExperimentRow, ending: Ending) -> Measured:
        """What a commit's message says of an experiment that is not in the ledger yet."""
        score = None if ending.score is None else Estimate(ending.score, 0.0)
        decision = ending.effect or ending.decision
        if ending.verdict is Verdict.KEEP and ending.status is Status.OK:
            score = self.ledger.score_if_kept(experiment.id) or score
        effect = None if decision is None else decision.gain
        probability = None if decision is None else decision.probability
        if effect is not None and self._metric.direction == "minimize":
            effect = Estimate(-effect.mean, effect.error)
        return Measured(ending.verdict, ending.reason, score, effect, probability, ending.num_runs)

    def _publish(self, row: ExperimentRow, previous: str | None) -> None:
        """Gives an ended experiment's commit its name in git; a baseline that failed gets none."""
        if row.commit is None or not _is_of_search(row):
            return
        if row.decision is Verdict.KEEP:
            self._workspace.keep(row.commit, previous)
        else:
            self._workspace.discard(row.commit, row.id)


def score_of(row: ExperimentRow) -> float:
    """The score of an experiment that has one."""
    assert row.score is not None, f"experiment {row.id} has no score"
    return row.score


def as_shown(score: float, sigma: float | None) -> float:
    """A score as proposers see it; see `round_to_noise`."""
    return score if sigma is None else round_to_noise(score, sigma)


def _is_of_search(row: ExperimentRow) -> bool:
    """False for a baseline that failed: a later one took its place."""
    return row.kind is not Kind.BASELINE or row.decision is Verdict.KEEP


def _as_outcome(row: ExperimentRow, sigma: float | None) -> Outcome:
    assert row.status is not None
    kept = row.decision is Verdict.KEEP
    reason = row.reason or ""
    if row.status is Status.OK:  # the reason in the ledger has all digits
        reason = "kept" if kept else "no better than the champion"
        if row.simplification:
            reason = "kept for its shorter source, no worse than the champion"
        if row.kind is Kind.REVERT:
            reason = "kept: what it takes out was no gain" if kept else "what it takes out is a gain, and stays"
    return Outcome(
        experiment=row.id,
        proposer=row.proposer,
        hypothesis=row.hypothesis,
        category=row.category,
        constants=row.constants,
        status=row.status,
        score=None if row.score is None else as_shown(row.score, sigma),
        kept=kept,
        reason=reason,
        program_hash=row.program_hash,
        simplification=row.simplification,
    )
