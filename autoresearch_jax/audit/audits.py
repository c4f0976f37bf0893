"""The three audits of a run: is its gain real, does each kept change earn its place, does the gain hold elsewhere."""

from collections.abc import Mapping
from dataclasses import replace

from autoresearch_jax.audit.ablation import CONFLICT, Reverted, Version, revert
from autoresearch_jax.audit.auditing import Auditing
from autoresearch_jax.audit.findings import (
    BASELINE,
    CHAMPION,
    Change,
    Findings,
    ablation_findings,
    holdout_findings,
    transfer_findings,
)
from autoresearch_jax.audit.log import AuditKind, AuditRow
from autoresearch_jax.audit.scores import Scores, read_scores
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.task import Task
from autoresearch_jax.engine.training_file import ConstantError, Merge, set_constants
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.types import Candidate, CandidateRejected, Scalar

DEPTH = "DEPTH"  # the constant of a training file that sets its size


class AuditError(UserError):
    """There is nothing to audit, or it cannot be measured any more."""


def kept_experiments(ledger: Ledger) -> list[ExperimentRow]:
    """What a run kept: its baseline, and every champion after it.

    Raises:
      AuditError: nothing but its baseline, or not even that.
    """
    rows = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL and row.decision is Action.KEEP]
    if len(rows) < 2:
        state = "the champion is still the baseline" if rows else "the run has no baseline yet"
        raise AuditError(f"{state}: there is nothing to audit until `autoresearch run` has kept a change")
    return rows


class Audits:
    """Audits of one run. Each is begun in the ledger, measured, and ended there with its findings."""

    def __init__(self, task: Task, ledger: Ledger, auditing: Auditing) -> None:
        """Makes the audits of a run.

        Args:
          task: the run's, for a transfer with the longer budget.
          ledger: the run's.
          auditing: on that task and that ledger.

        Raises:
          AuditError: the run kept nothing.
        """
        self._metric = task.metric
        self._budget = task.budget
        self._ledger = ledger
        self._auditing = auditing
        self._kept = kept_experiments(ledger)

    def holdout(self, runs: int) -> Findings:
        """Baseline and champion on fresh seeds, scored on val and on the holdout.

        Raises:
          AuditError: one of them cannot be measured any more, or they are the same program.
        """
        audit = self._begin(AuditKind.HOLDOUT, {"runs": runs})
        sources = {name: self._ledger.source(row.id) for name, row in self._contenders.items()}
        candidates = self._prepare_contenders(audit, sources, "the same program: there is no gain to audit")
        return self._end(audit, holdout_findings(self._measure(audit, candidates, runs), self._metric))

    def transfer(self, runs: int, depth: int, factor: float) -> Findings:
        """Baseline and champion at another depth, with a longer budget.

        Args:
          runs: of each.
          depth: what the constant DEPTH is set to in both.
          factor: how many times the run's budget the task's is.

        Raises:
          UsageError: one of them has no such constant.
          AuditError: one of them cannot be measured there, or they are the same program there.
        """
        sources = {name: self._at_depth(name, row, depth) for name, row in self._contenders.items()}
        audit = self._begin(AuditKind.TRANSFER, {"runs": runs, "depth": depth, "budget_factor": factor})
        same = f"the same program at {DEPTH} {depth}: all of the gain is in {DEPTH}"
        scores = self._measure(audit, self._prepare_contenders(audit, sources, same), runs)
        findings = transfer_findings(scores, self._metric, f"at {DEPTH} {depth} with {factor:g} times the budget")
        setting: dict[str, Scalar] = {
            "depth": depth,
            "budget_seconds": self._budget.seconds,
            "budget_steps": self._budget.steps,
        }
        return self._end(audit, replace(findings, figures={**setting, **findings.figures}))

    def ablation(self, runs: int, merge: Merge) -> Findings:
        """The champion against itself without each of its kept changes.

        Raises:
          AuditError: the champion cannot be measured any more.
        """
        audit = self._begin(AuditKind.ABLATION, {"runs": runs})
        versions = [Version(row.id, self._ledger.source(row.id)) for row in self._kept]
        candidates = {CHAMPION: self._prepare(audit, CHAMPION, versions[-1].source)}
        changes = []
        for index, row in enumerate(self._kept[1:], start=1):
            change, candidate = self._without(audit, row, revert(versions, index, merge), candidates[CHAMPION])
            changes.append(change)
            if change.subject is not None and candidate is not None:
                candidates[change.subject] = candidate
        scores = self._measure(audit, candidates, runs if len(candidates) > 1 else 0)
        return self._end(audit, ablation_findings(scores, self._metric, changes))

    @property
    def _contenders(self) -> dict[str, ExperimentRow]:
        return {BASELINE: self._kept[0], CHAMPION: self._kept[-1]}

    def _without(
        self, audit: AuditRow, row: ExperimentRow, reverted: Reverted, champion: Candidate
    ) -> tuple[Change, Candidate | None]:
        """The champion without a change, ready to be measured where it can be."""
        if reverted.source is None:
            return Change(row, None, reverted.obstacle, reverted.note), None
        subject = f"without {row.id}"
        try:
            candidate = self._auditing.prepare(audit, subject, reverted.source)
        except CandidateRejected as rejection:
            reason = f"without it the text is refused ({rejection.status}): {rejection.reason}"
            return Change(row, None, CONFLICT, reason), None
        if candidate.program_hash == champion.program_hash:
            return Change(row, None, "no effect", "without it the text gives the same program"), None
        return Change(row, subject, note=reverted.note), candidate

    def _at_depth(self, name: str, row: ExperimentRow, depth: int) -> str:
        try:
            return set_constants(self._ledger.source(row.id), {DEPTH: depth})
        except ConstantError as error:
            raise UsageError(f"--transfer={depth}: the {name}, experiment {row.id}: {error}") from error

    def _prepare(self, audit: AuditRow, name: str, source: str) -> Candidate:
        try:
            return self._auditing.prepare(audit, name, source)
        except CandidateRejected as rejection:
            raise AuditError(f"the {name} cannot be measured ({rejection.status}): {rejection.reason}") from rejection

    def _prepare_contenders(self, audit: AuditRow, sources: Mapping[str, str], same: str) -> dict[str, Candidate]:
        candidates = {name: self._prepare(audit, name, source) for name, source in sources.items()}
        if candidates[BASELINE].program_hash == candidates[CHAMPION].program_hash:
            raise AuditError(f"champion and baseline are {same}")
        return candidates

    def _measure(self, audit: AuditRow, candidates: Mapping[str, Candidate], runs: int) -> Scores:
        return read_scores(self._auditing.measure(audit, candidates, runs))

    def _begin(self, kind: AuditKind, settings: Mapping[str, Scalar]) -> AuditRow:
        return self._ledger.audits.begin(kind, self._kept[-1].id, settings)

    def _end(self, audit: AuditRow, findings: Findings) -> Findings:
        """Stores all figures, with those that every audit has."""
        first: dict[str, Scalar] = {"audit": audit.id, "kind": str(audit.kind), "champion_experiment": audit.champion}
        figures = {**first, **findings.figures, "holdout_readings": self._ledger.audits.holdout_readings()}
        self._ledger.audits.end(audit.id, {**figures, findings.table_name: list(findings.table)})
        return replace(findings, figures=figures)
