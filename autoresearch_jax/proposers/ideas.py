"""Tries findings on the champion: those that are shipped, and those of other runs.

Which one is next is drawn by Thompson sampling: of each finding that was not tried in this run one draw from the Beta
posterior of "it is a gain", the highest wins. The posterior counts, beside a weak prior, what came of findings of its
category in this run; and of all evidence of the same device class the finding's own, and that of others of its category
with a smaller weight. A draw depends on the run's seed, the experiment's number, and experiments at least two before.

Each finding is proposed once a run. One that does not fit the champion, cannot be traced, or is a program that was
measured before is passed over until there is another champion; the user is told once of each.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from autoresearch_jax.findings.folder import FindingStore
from autoresearch_jax.findings.format import Evidence, Finding, FindingError, apply_finding, base_digest
from autoresearch_jax.findings.trust import is_replay, peer_of_source
from autoresearch_jax.proposers.bandit import known
from autoresearch_jax.proposers.base import Brief, Examine, Objection, PastExperiment, Proposal, SpaceExhausted, is_gain
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Merge

PRIOR_GAINS, PRIOR_MISSES = 0.3, 1.7  # about one finding in seven is a gain somewhere else
OF_ITSELF = 6.0  # weight of a finding's own evidence: a measured effect says more of it than all of its category
OF_OTHERS = 0.25  # of the evidence of each other finding of its category, and no more than `MOST_OF_OTHERS` in all
MOST_OF_OTHERS = 2.0  # so that this run's own results soon outweigh it
Order = Callable[[Brief, Sequence[Finding], Sequence[Finding]], Sequence[Finding]]
"""Puts findings that were not tried yet, the second, in order; the third are all."""
CategoryCounter = Callable[[], Mapping[str, tuple[float, float]]]
"""Counts gains and misses of each kind of change as of now."""
FOR_NOW_EXPERIMENTS = 4  # after which one that another peer measured is examined again
NAMED = 4  # findings that one notice names for one reason
REASONS = 6  # that it gives
REASON_CHARACTERS = 160


class IdeasProposer:
    """Proposes the findings of a store, each once a run."""

    def __init__(
        self,
        store: FindingStore,
        order: Order,
        merge: Merge,
        examine: Examine | None,
        notice: Callable[[str], None],
        name: str = "ideas",
        adopted_from: Callable[[Finding], str | None] = lambda finding: None,
        most_objections: int | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
          examine: traces a text before it is proposed; None proposes it untraced.
          most_objections: of `examine`, after which nothing is proposed this time; None for any number.
        """
        self.name = name
        self._adopted_from = adopted_from
        self._most_objections = most_objections
        self._store = store
        self._order = order
        self._merge = merge
        self._examine = examine
        self._notice = notice
        self._passed: dict[str, str] = {}  # findings, and the digest of the champion that each was passed over for
        self._again: dict[str, int] = {}  # those that were for a while, and the experiment from which they are not
        self._told: set[str] = set()

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`; of the brief's category, where there is one, if a finding of it is left and fits.

        Raises:
          SpaceExhausted: all findings that fit the champion were tried.
        """
        findings = self._store.findings()
        champion = base_digest(brief.champion_source)
        passed: dict[str, str] = {}
        objections = 0
        try:
            for finding in self.candidates(brief, findings):
                if objections == self._most_objections:
                    break
                made = self._applied(brief, finding)
                if isinstance(made, Proposal):
                    objection = None if self._examine is None else self._examine(brief, made)
                    if objection is None or objection.may_be_meant:
                        return made
                    made, objections = objection, objections + 1
                if made.for_now:
                    self._again[finding.id] = brief.experiment + FOR_NOW_EXPERIMENTS
                else:
                    self._passed[finding.id] = champion
                passed[finding.id] = made.text.partition("\n")[0]
        finally:
            self._tell(passed)
        raise SpaceExhausted(_describe_end(findings, untried(brief, findings)))

    def candidates(self, brief: Brief, findings: Sequence[Finding] | None = None) -> list[Finding]:
        """What would be tried, in this order, if it fits and can be traced; `findings` are those of the store."""
        champion = base_digest(brief.champion_source)
        every = self._store.findings() if findings is None else findings
        order = self._order(brief, untried(brief, every), every)
        fit = (finding for finding in order if self._passed.get(finding.id) != champion)
        return [finding for finding in fit if self._again.get(finding.id, 0) <= brief.experiment]

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`: a finding is at hand at once."""
        return False

    def close(self) -> None:
        """See `Proposer.close`; a trace under way is ended by who examines."""

    def _applied(self, brief: Brief, finding: Finding) -> Proposal | Objection:
        """A finding applied to the champion; or why it does not fit."""
        try:
            source = apply_finding(
                finding, brief.champion_source, self._store.base_text(finding.base), self._merge, brief.asset
            )
        except FindingError as error:
            return Objection(str(error).removeprefix(f"{finding.id}: "))
        hypothesis = clean_line(f"{finding.title} ({finding.source})")
        return Proposal(
            hypothesis,
            finding.category,
            source=source,
            proposer=self.name,
            finding=finding.id,
            adopted_from=self._adopted_from(finding),
        )

    def _tell(self, passed: dict[str, str]) -> None:
        """Names the findings that are passed over for the first time, in one notice."""
        new = {name: why for name, why in passed.items() if name not in self._told}
        if not new:
            return
        self._told.update(new)
        by_reason: dict[str, list[str]] = defaultdict(list)
        for name, why in new.items():
            by_reason[clean_line(why, REASON_CHARACTERS)].append(name)
        groups = [f"{_listed(names, NAMED)} ({why})" for why, names in by_reason.items()]
        self._notice(f"findings passed over for now: {_listed(groups, REASONS, '; ')}")


def order_of_own(device_class: str) -> Order:
    """Those that are no peer's, by `draw_order`; the evidence of peers counts."""

    def order(brief: Brief, rest: Sequence[Finding], library: Sequence[Finding]) -> Sequence[Finding]:
        own = [finding for finding in rest if peer_of_source(finding.source) is None]
        return draw_order(brief, own, library, device_class)

    return order


def untried(brief: Brief, findings: Iterable[Finding]) -> list[Finding]:
    """Those that no experiment of the run tried, or tries now."""
    tried = {past.finding for past in brief.history} | {running.finding for running in brief.running}
    return [finding for finding in findings if finding.id not in tried]


def draw_order(
    brief: Brief, findings: Sequence[Finding], library: Iterable[Finding], device_class: str
) -> list[Finding]:
    """Findings in the order in which they are to be tried.

    Args:
      brief: whose history counts; those of its category come first, if it asks for one.
      findings: to be ordered.
      library: all findings whose evidence counts.
      device_class: of that evidence.
    """
    seen = {finding.id: _count(finding.evidence, device_class) for finding in library}
    by_category = count_categories(library, device_class)
    outcomes = [outcome for outcome in known(brief) if outcome.finding]

    def draw(finding: Finding) -> float:
        own = seen.get(finding.id, (0.0, 0.0))
        others = [max(0.0, of_all - of_it) for of_all, of_it in zip(by_category[finding.category], own, strict=True)]
        share = share_of_others(others)
        tried = _results(outcome for outcome in outcomes if outcome.category == finding.category)
        gains, misses = (
            prior + OF_ITSELF * of_it + share * of_others + of_run
            for prior, of_it, of_others, of_run in zip((PRIOR_GAINS, PRIOR_MISSES), own, others, tried, strict=True)
        )
        rng = random.Random(f"ideas {brief.run_seed} {brief.experiment} {finding.id}")
        return rng.betavariate(gains, misses)

    draws = {finding.id: draw(finding) for finding in findings}
    return sorted(findings, key=lambda one: (one.category != (brief.category or one.category), -draws[one.id], one.id))


def count_categories(library: Iterable[Finding], device_class: str) -> dict[str, tuple[float, float]]:
    """Gains and misses of each kind of change on a class of device; a finding counts once, however often measured."""
    counts: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for finding in library:
        gains, misses = counts[finding.category]
        of_gains, of_misses = _count(finding.evidence, device_class)
        counts[finding.category] = gains + of_gains, misses + of_misses
    return counts


def category_counter(store: FindingStore, device_class: str) -> CategoryCounter:
    """See `count_categories`, of what a store has at the time."""
    return lambda: count_categories(store.findings(), device_class)


def share_of_others(counts: Iterable[float]) -> float:
    """What each of these gains and misses of others counts."""
    return min(OF_OTHERS, MOST_OF_OTHERS / max(sum(counts), 1e-9))


def _count(evidence: Sequence[Evidence], device_class: str) -> tuple[float, float]:
    """Gains and misses that evidence stands for: together 1, however often a finding was measured; else 0."""
    found = [_probability(one) for one in evidence if one.device_class == device_class and not is_replay(one)]
    if not found:
        return 0.0, 0.0
    gains = sum(found) / len(found)
    return gains, 1.0 - gains


def _probability(evidence: Evidence) -> float:
    """That the change is a gain, by one measurement."""
    if evidence.probability is not None:
        return evidence.probability
    return float(evidence.decision == "keep")


def _results(outcomes: Iterable[PastExperiment]) -> tuple[float, float]:
    gains = [is_gain(outcome) for outcome in outcomes]
    return float(sum(gains)), float(len(gains) - sum(gains))


def _listed(words: Sequence[str], most: int, between: str = ", ") -> str:
    """The first words, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return f"{between.join(words[:most])}{more}"


def _describe_end(findings: Sequence[Finding], rest: Sequence[Finding]) -> str:
    if not findings:
        return "there are no findings: `autoresearch findings import` adds some"
    tried = f"{len(findings) - len(rest)} of {len(findings)} findings were tried"
    return f"{tried}, {len(rest)} do not fit the champion" if rest else f"all {len(findings)} findings were tried"
