"""The findings of a run, with their evidence, from its ledger; what lineages give each other of them."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.certifying import Word, certificates
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.observers import Expendable, QuietObserver
from autoresearch_jax.engine.papers import Papers, measured_gain
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.engine.run_folder import Lineages, RunFolder
from autoresearch_jax.engine.state import asset_of, concluded
from autoresearch_jax.findings.folder import (
    DIFF_NAME,
    ID_DIGITS,
    FindingFolder,
    FindingStore,
    id_of_content,
    open_library,
)
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

    Args:
      ledger: of the run.
      tag: its name.
      store: of the findings that it may have tried.
      changes: those of experiments that were asked for before, and from now on; they stay as they are, and each takes
        a tenth of a second.
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


ADOPT_EVERY = 20  # experiments of a lineage after which it gives the others what it found


class Adoption(QuietObserver):
    """Gives the other lineages what one found, every `ADOPT_EVERY` experiments; a store of what the others gave.

    It gives edits that were kept, and its evidence on findings that others may try, too, refutations included. What it
    gave itself is not among what it reads: that was measured here, on this champion or one before it.
    """

    def __init__(
        self,
        lineages: Lineages,
        run: RunFolder,
        ledger: Ledger,
        folder: Path,
        peers: Path | None,
        notice: Callable[[str], None],
    ) -> None:
        """Reads and writes nothing yet; `folder` is of other findings that may be tried, `peers` of those of peers."""
        self._tag = run.path.name
        self._ledger = ledger
        self._folders = folder, peers
        self._notice = notice
        self._shared = FindingFolder(lineages.findings, notice)
        self._attempt = Expendable(str(lineages.findings), notice)
        self._changes: dict[int, str] = {}
        self._own: set[str] = set()  # ids of what it gave
        self._given_at: int | None = None  # experiments that were over then
        self._told: set[str] = set()

    def ends(self, experiment: ExperimentRow) -> None:
        """Gives what was found so far, if it is time."""
        over = sum(row.kind is Kind.PROPOSAL for row in concluded(self._ledger))
        if over % ADOPT_EVERY == 0 and over != self._given_at:
            self._given_at = over
            self._attempt(self._give)

    def findings(self) -> Sequence[Finding]:
        """What the others gave; see `FindingStore.findings`."""
        if self._given_at is None:  # what an earlier process found
            self._given_at = -1
            self._attempt(self._give)
        return [finding for finding in self._shared.findings() if finding.id not in self._own]

    def base_text(self, digest: str) -> str | None:
        """See `FindingStore.base_text`."""
        return self._shared.base_text(digest)

    def add(self, finding: Finding, base_text: str | None) -> str:
        """See `FindingStore.add`."""
        return self._shared.add(finding, base_text)

    def _give(self) -> None:
        folder, peers = self._folders
        library = open_library(folder, lambda text: None, asset_of(self._ledger), peers, [self._shared])
        known = {finding.id for finding in library.findings()}
        for one in findings_of_run(self._ledger, self._tag, library, self._changes).findings:
            if one.finding.status == "refuted" and one.finding.id not in known:
                continue  # the others would try what they do not know yet
            self._own.add(one.finding.id)
            try:
                self.add(one.finding, one.base_text)
            except FindingError as error:
                if (text := str(error)) not in self._told:
                    self._told.add(text)
                    self._notice(text)
