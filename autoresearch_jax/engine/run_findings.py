"""The findings of a run: its kept edits and its clear refutations with their evidence, from its ledger."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.certifying import Word, certificates
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.papers import Papers, measured_gain
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.engine.state import asset_of
from autoresearch_jax.findings.folder import DIFF_NAME, ID_DIGITS, FindingStore, id_of_content
from autoresearch_jax.findings.format import (
    MAX_TITLE_CHARACTERS,
    Evidence,
    Finding,
    FindingError,
    base_digest,
    device_class,
    diff_change,
    status_of,
)
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Scalar, Status

_UNMEASURED = (Status.REJECTED, Status.DUPLICATE)


@dataclass(frozen=True)
class RunFinding:
    """A finding, the text that it changes, if that is known, and the experiment that measured it."""

    finding: Finding
    base_text: str | None
    experiment: int


@dataclass(frozen=True)
class RunFindings:
    """The findings of a run, and how many of its proposals are none, by what they are."""

    findings: tuple[RunFinding, ...]
    left_out: Mapping[str, int]


def findings_of_run(
    ledger: Ledger, tag: str, store: FindingStore, changes: dict[int, str] | None = None
) -> RunFindings:
    """What a run found out so far.

    An experiment that tried a finding of the store is that finding with this run's evidence; others become findings
    whose ids follow from what they changed, so that exporting them again, or elsewhere, gives the same. What was
    adopted from a peer is answered in any case, also where it failed or its discard is not clear.

    `changes` remembers those of experiments from one call to the next: they stay as they are, and each takes a tenth of
    a second.
    """
    changes = {} if changes is None else changes
    findings = store.findings()
    known = {id_of_content(finding)[-ID_DIGITS:]: finding for finding in findings}  # if the store has another id by now
    known |= {finding.id: finding for finding in findings}
    papers = Papers(ledger, tag)
    found: list[RunFinding] = []
    left_out: Counter[str] = Counter()
    for row in ledger.experiments():
        if row.kind is not Kind.PROPOSAL or row.is_open:
            continue
        name = row.finding or ""
        tried = known.get(name) or known.get(name[-ID_DIGITS:])
        answers_a_peer = row.adopted_from is not None and tried is not None and row.status not in _UNMEASURED
        if row.status is not Status.OK and not answers_a_peer:
            left_out["refactorings" if row.decision is Action.KEEP else "failures, duplicates and pruned trials"] += 1
            continue
        evidence = evidence_of(ledger, row, tag)
        if not answers_a_peer and row.decision is not Action.KEEP and status_of([evidence]) != "refuted":
            left_out["discards that are not clear"] += 1
            continue
        try:
            if tried is not None:
                finding = replace(tried, status=status_of([evidence]), evidence=(evidence,))
                one = RunFinding(finding, store.base_text(tried.base), row.id)
            else:
                one = _new_finding(ledger, row, tag, evidence, changes)
        except FindingError:
            left_out["changes that no diff can tell"] += 1
            continue
        about = papers.write(row, one.finding, evidence)
        found.append(replace(one, finding=replace(one.finding, about=about)))
    return RunFindings(tuple(found), dict(left_out))


def evidence_of(ledger: Ledger, row: ExperimentRow, tag: str) -> Evidence:
    """What an experiment that is over measured; of a kept edit by all runs so far."""
    certificate = certificates(ledger).get(row.id)
    effect, probability = measured_gain(ledger, row, certificate)
    is_kept = row.decision is Action.KEEP and (certificate is None or certificate.word is not Word.REVERTED)
    is_decided = row.status in (Status.OK, Status.DUPLICATE)
    settings = ledger.settings()
    trials, decisions = ledger.scored(row.id), ledger.decisions(row.id)
    first = trials[0] if trials else None
    return Evidence(
        device_class=device_class(settings),
        fingerprint=str(settings.get("fingerprint")),
        budget=_budget(settings),
        runs=len(trials),
        decision=str((Action.KEEP if is_kept else Action.DISCARD) if is_decided else row.status),
        date=datetime.fromtimestamp(row.created_at, UTC).date().isoformat(),
        effect=None if effect is None else effect.mean,
        error=None if effect is None or not effect.error else effect.error,
        probability=probability,
        certified=certificate is not None and certificate.word is Word.CERTIFIED,
        device=clean_line(str(settings.get("device_kind") or "")),
        seconds=None if row.seconds is None else round(row.seconds, 1),
        dollars=row.cost_dollars or None,
        replay=f"autoresearch trial --from={tag}:{row.id}",
        sigma=decisions[-1].sigma if decisions else None,
        seed=None if first is None else first.seed,
        steps=None if first is None else _steps(first),
        value=None if first is None else first.value,
    )


def _steps(trial: TrialRow) -> int | None:
    """Of a task that counts its steps."""
    steps = trial.metrics.get("num_steps")
    return int(steps) if isinstance(steps, int | float) and steps >= 0 else None


def _budget(settings: Mapping[str, Scalar]) -> str:
    seconds = settings.get("budget_seconds")
    return f"{settings.get('budget_steps')} steps" if seconds is None else f"{seconds:g} s"


def _new_finding(
    ledger: Ledger, row: ExperimentRow, tag: str, evidence: Evidence, changes: dict[int, str]
) -> RunFinding:
    """What an experiment changed of its champion; raises FindingError if no diff gives its text."""
    assert row.parent is not None
    parent, hypothesis = ledger.source(row.parent), clean_line(row.hypothesis)
    if row.id not in changes:
        name = PurePosixPath(str(ledger.settings().get("editable") or DIFF_NAME)).name
        changes[row.id] = diff_change(parent, ledger.source(row.id), name, asset_of(ledger))
    change = changes[row.id]
    base = base_digest(parent)
    finding = Finding(
        id="-".join(re.findall(r"[a-z0-9]+", hypothesis.lower())),
        title=clean_line(hypothesis, MAX_TITLE_CHARACTERS) or f"experiment {row.id}",
        category=clean_line(row.category) or "other",
        status=status_of([evidence]),
        source=f"run {clean_line(tag)}, experiment {row.id}",
        base=base,
        about="",
        change=change,
        evidence=(evidence,),
    )
    return RunFinding(replace(finding, id=id_of_content(finding)), parent, row.id)
