"""A paper: what a run's ledger says of a kept edit or a clear refutation, as Markdown of at most 4 kB.

Equal ledgers give equal papers. All words of agents are cleaned, and stand in quotes or behind a mark.
"""

import difflib
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, decimals_of, describe_gain, shown
from autoresearch_jax.edits import read_edits
from autoresearch_jax.engine.certifying import Certificate
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.findings.format import Evidence, Finding
from autoresearch_jax.proposers.base import MAX_WHY_CHARACTERS
from autoresearch_jax.sanitize import clean_line, quoted
from autoresearch_jax.types import LOSSES, SCORE_DECIMALS, Scalar, Status, read_curve

MAX_PAPER_BYTES = 4000  # of UTF-8; a reader keeps no more characters of a finding's prose
MAX_NEARBY = 5  # experiments that failed
MAX_LINEAGE = 12  # edits of the base
MAX_SCORES = 8
CURVE_POINTS = 5
REPLAY_BYTES = 120  # of these are left for the longer command of a peer, see `swarm.chain.finding_files`
CLAIM_CHARACTERS = 300
NAME_CHARACTERS = 60  # of a tag, a device, a metric, a category, a proposer
SHORT_CHARACTERS = 90  # of another experiment's hypothesis
WITHIN_95 = 1.96  # standard deviations

NEARBY, LINEAGE, CURVE = "Discarded nearby", "Lineage", "Loss at even steps"
WHY = "Why, in the proposer's opinion (not measured)"
_CUT_FIRST = (NEARBY, LINEAGE, CURVE)  # then `WHY`; the last line of a section goes first
_FAILED = frozenset(Status) - {Status.DUPLICATE, Status.REJECTED}  # that say something of the change itself


class Papers:
    """Writes the papers of a run, from its ledger as it is when this is made."""

    def __init__(self, ledger: Ledger, tag: str) -> None:
        """`tag` is the run's name."""
        self._ledger = ledger
        self._tag = clean_line(tag, NAME_CHARACTERS)
        rows = [row for row in ledger.experiments() if not row.is_open and row.kind is not Kind.TRIAL]
        self._places = {row.id: place for place, row in enumerate(row for row in rows if row.decision is Action.KEEP)}
        self._discarded: dict[str, list[ExperimentRow]] = defaultdict(list)  # by category
        for row in rows:
            if row.kind is Kind.PROPOSAL and row.decision is Action.DISCARD and row.status in _FAILED:
                self._discarded[row.category].append(row)
        settings = ledger.settings()
        self._metric = clean_line(str(settings.get("metric") or "score"), NAME_CHARACTERS)
        self._better = "higher" if settings.get("direction") == "maximize" else "lower"

    def write(self, row: ExperimentRow, finding: Finding, evidence: Evidence) -> str:
        """The paper on an experiment.

        Args:
          row: of the experiment.
          finding: what it tried; its own prose is not looked at.
          evidence: what measuring it gave.
        """
        sections = {
            "Claim": [self._claim(row, evidence)],
            "Setting": self._setting(row, finding, evidence),
            "The change": [_change_line(finding)],
            "Evidence": self._evidence(row, evidence),
            CURVE: self._curves(row),
            "Cost": self._cost(row, evidence),
            NEARBY: self._nearby(row),
            LINEAGE: self._lineage(row),
            "Replay": [f"`{clean_line(evidence.replay).replace('`', ' ')}`"],
            WHY: [f"> {clean_line(row.why, MAX_WHY_CHARACTERS)}"] if row.why.strip() else [],
        }
        return _fitted(sections)

    def _claim(self, row: ExperimentRow, evidence: Evidence) -> str:
        effect = "no effect was estimated"
        if evidence.effect is not None:
            effect = f"{self._metric} {describe_gain(Estimate(evidence.effect, evidence.error or 0.0))} than without it"
        return f"{quoted(row.hypothesis, CLAIM_CHARACTERS)}: {effect}, {_decided(evidence)}."

    def _setting(self, row: ExperimentRow, finding: Finding, evidence: Evidence) -> list[str]:
        of_class, device = (clean_line(name, NAME_CHARACTERS) for name in (evidence.device_class, evidence.device))
        proposer = clean_line(row.proposer, NAME_CHARACTERS)
        return [
            f"- experiment {row.id} of run {self._tag}, proposed by {proposer}",
            f"- task {clean_line(evidence.fingerprint, 80)}: {self._metric}, {self._better} is better",
            f"- device class {of_class}{f' ({device})' if device not in ('', of_class) else ''}",
            f"- budget of a run: {evidence.budget}",
            f"- base of the change: the text {finding.base}",
        ]

    def _evidence(self, row: ExperimentRow, evidence: Evidence) -> list[str]:
        trials = self._ledger.scored(row.id)
        scores = ", ".join(f"{trial.score:.{SCORE_DECIMALS}f}" for trial in trials[:MAX_SCORES])
        more = f" and {len(trials) - MAX_SCORES} more" if len(trials) > MAX_SCORES else ""
        lines = [f"- runs: {len(trials)}; {self._metric} {scores}{more}"] if trials else []
        if evidence.effect is not None and evidence.error:
            digits, reach = decimals_of(evidence.error), WITHIN_95 * evidence.error
            low, high = (f"{evidence.effect + side * reach:+.{digits}f}" for side in (-1, 1))
            lines.append(f"- gain, positive where it is better: {evidence.effect:+.{digits}f}, 95 % {low} .. {high}")
        if evidence.sigma:
            lines.append(f"- standard deviation of one run: {evidence.sigma:.2g}")
        if evidence.probability is not None:
            lines.append(f"- probability of a gain above its price: {shown(evidence.probability)}")
        return [*lines, f"- {_decided(evidence)}"]

    def _curves(self, row: ExperimentRow) -> list[str]:
        """The curve of the change and that of its parent, if both are known."""
        assert row.parent is not None
        parent = self._ledger.measured(self._ledger.experiment(row.parent))
        curves = _curve(self._ledger.scored(row.id)), _curve(self._ledger.scored(parent.id))
        names = "with the change", "without it"
        return [f"- {name}: {curve}" for name, curve in zip(names, curves, strict=True)] if all(curves) else []

    def _cost(self, row: ExperimentRow, evidence: Evidence) -> list[str]:
        words = [] if evidence.seconds is None else [f"{evidence.seconds:g} s"]
        words += [f"{evidence.dollars:.4f} dollars"] if evidence.dollars else []
        metrics = next((trial.metrics for trial in self._ledger.scored(row.id)), {})
        if (parameters := _number(metrics.get("num_params"))) is not None:
            words.append(f"{parameters:,.0f} parameters")
        if (peak := _number(metrics.get("peak_memory_bytes"))) is not None:
            words.append(f"{peak / 2**20:,.0f} MiB of memory at most")
        return ["; ".join(words)] if words else []

    def _nearby(self, row: ExperimentRow) -> list[str]:
        """What else of its category was discarded on the same champion, the one before it or the one after it."""
        found = [
            (distance, abs(other.id - row.id), other.id, other)
            for other in self._discarded[row.category]
            if other.id != row.id and (distance := self._distance(row, other)) <= 1
        ]
        lines = []
        for _, _, number, other in sorted(found)[:MAX_NEARBY]:
            gain, _ = measured_gain(self._ledger, other, None)
            became = str(other.status) if gain is None else describe_gain(gain)
            lines.append(f"- experiment {number}, {quoted(other.hypothesis, SHORT_CHARACTERS)}: {became}")
        return [f"{len(found)} of its category, on the same champion or the next:", *lines] if lines else []

    def _distance(self, row: ExperimentRow, other: ExperimentRow) -> int:
        """How many champions lie between those that two experiments were made from."""
        return abs(self._places.get(row.parent or 0, 0) - self._places.get(other.parent or 0, 0))

    def _lineage(self, row: ExperimentRow) -> list[str]:
        """The kept edits that its champion had beyond the baseline, the latest first."""
        edits: list[ExperimentRow] = []
        taken_out: set[int] = set()
        above = row.parent
        while above is not None:
            kept = self._ledger.experiment(above)
            if kept.kind is Kind.REVERT:
                taken_out |= set(kept.without)
            elif kept.kind is Kind.PROPOSAL and kept.id not in taken_out:
                edits.append(kept)
            above = kept.parent
        if not edits:
            return ["Measured on the baseline."]
        lines = [f"Measured on the baseline with {len(edits)} kept edits, the latest first:"]
        for edit in edits[:MAX_LINEAGE]:
            adopted = "" if edit.adopted_from is None else f", adopted from {clean_line(edit.adopted_from, 40)}"
            lines.append(f"- experiment {edit.id}, {quoted(edit.hypothesis, SHORT_CHARACTERS)}{adopted}")
        return lines


def measured_gain(
    ledger: Ledger, row: ExperimentRow, certificate: Certificate | None
) -> tuple[Estimate | None, float | None]:
    """The gain over the parent and its probability; without an error under the greedy rule, which estimates none."""
    if certificate is not None:
        return certificate.gain, certificate.probability
    decisions = ledger.decisions(row.id)
    if decisions and decisions[-1].gain is not None:
        return decisions[-1].gain, decisions[-1].probability
    parent = None if row.parent is None else ledger.experiment(row.parent).score
    if parent is None or row.score is None:
        return None, None
    sign = 1.0 if ledger.settings().get("direction") == "maximize" else -1.0
    return Estimate(sign * (row.score - parent), 0.0), None


def _decided(evidence: Evidence) -> str:
    if evidence.certified:
        return "certified as an improvement"
    words = {str(Action.KEEP): "kept, not certified", str(Action.DISCARD): "discarded"}
    return words.get(evidence.decision, evidence.decision)


def _change_line(finding: Finding) -> str:
    added, removed = _lines_changed(finding.change)
    return f"{clean_line(finding.category, NAME_CHARACTERS)}: lines added {added}, removed {removed}; they follow."


@lru_cache(maxsize=1000)  # a run's findings are written anew whenever one is added
def _lines_changed(change: str) -> tuple[int, int]:
    """How many lines a change adds and removes."""
    added = removed = 0
    for edit in read_edits(change):
        lines = list(difflib.unified_diff(edit.search.splitlines(), edit.replace.splitlines(), n=0, lineterm=""))[2:]
        added += sum(line.startswith("+") for line in lines)
        removed += sum(line.startswith("-") for line in lines)
    return added, removed


def _curve(trials: Sequence[TrialRow]) -> str:
    """A few losses of the first trial that has some, evenly spread, the last among them."""
    losses = next((found for trial in trials if (found := read_curve(trial.metrics.get(LOSSES)))), ())
    if len(losses) > CURVE_POINTS:
        losses = tuple(losses[len(losses) * point // CURVE_POINTS - 1] for point in range(1, CURVE_POINTS + 1))
    return " ".join(f"{loss:.4g}" for loss in losses)


def _number(value: Scalar) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _fitted(sections: dict[str, list[str]]) -> str:
    """The page, cut to `MAX_PAPER_BYTES` less `REPLAY_BYTES`: lines of `_CUT_FIRST`, then the end of the opinion."""
    for name in _CUT_FIRST:
        while sections[name] and _excess(sections) > 0:
            sections[name].pop()
    if (excess := _excess(sections)) > 0 and sections[WHY]:
        whole = sections[WHY][0].encode()
        cut = whole[: max(0, len(whole) - excess - 3)].decode(errors="ignore").rstrip()
        sections[WHY] = [f"{cut}..."] if len(cut) > len("> ") else []
    return _page(sections)


def _excess(sections: dict[str, list[str]]) -> int:
    return len(_page(sections).encode()) - MAX_PAPER_BYTES + REPLAY_BYTES


def _page(sections: dict[str, list[str]]) -> str:
    return "\n\n".join(f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items() if lines)
