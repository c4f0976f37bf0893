"""Gives some experiments to findings of peers: those that others kept are tried on the own champion.

At most a share of the experiments is spent on them. Within it, Thompson sampling decides, over the peer, the kind of
change and the class of device: of each finding that a peer kept and that was not tried here a draw of the probability
that it is a gain here, and one that the next experiment of this run's own is; both times the size that is expected. The
finding of the highest draw is tried, if that is above the own.

The draw of a finding counts the following, each with a weight, and each as at most `MOST_OF_EACH` answers:

- what other peers found when they tried it;
- what came of this peer's other claims, here and with others: a peer whose claims are refuted often falls back;
- what came of claims made on that class of device, and of claims of that kind of change: what transfers is learnt.

All findings of a peer share one uniform variable, so that many claims alone do not get a peer the highest draw.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from autoresearch_jax.findings.folder import FindingStore
from autoresearch_jax.findings.format import Evidence, Finding
from autoresearch_jax.findings.trust import REPLAYED, claimant, is_replay
from autoresearch_jax.proposers.bandit import CODES_SIZE, expected_size, gain_sizes, known, new_rng, posterior_draw
from autoresearch_jax.proposers.base import CERTIFICATION, Brief, Examine, Proposal, Proposer, SpaceExhausted, is_gain
from autoresearch_jax.proposers.ideas import IdeasProposer
from autoresearch_jax.types import Merge

PEERS = "peers"  # in place of a proposer's name
DEFAULT_SHARE = 1 / 3  # of the experiments
PRIOR_GAINS, PRIOR_MISSES = 1.0, 1.0  # a change that somebody measured and kept is a gain here in one of two cases
OF_PEER = 1.0  # weight of each answer on another claim of the peer
OF_ITSELF = 2.0  # weight of each other peer's answer on the same finding
OF_CLASS, OF_CATEGORY = 0.5, 0.25  # of each answer on another peer's claim of the same class, or kind
ELSEWHERE = 0.5  # factor of an answer on another class of device
MOST_OF_EACH = 8.0  # answers that each of these counts as, so that what is learnt last can be seen
MOST_OF_A_JUDGE = 3.0  # answers on one peer's claims that those of another count as: it takes two to have it doubted
DOUBTED, SURE = 0.3, 0.9  # a peer is left alone once it is this sure that less than this share of its claims holds
HELD = 0.25  # of a claimed gain, at least, that a gain has to have for the claim to hold
LARGEST = 6.0  # standard deviations of a run, beyond which a claim's size is not believed
MOST_OBJECTIONS = 4  # to findings of peers, each after a trace, before the experiment is left to the run's own


class AdoptingProposer:
    """Another proposer, some of whose turns go to findings of peers."""

    def __init__(
        self,
        proposer: Proposer,
        store: FindingStore,
        device_class: str,
        merge: Merge,
        examine: Examine | None,
        notice: Callable[[str], None],
        share: float = DEFAULT_SHARE,
    ) -> None:
        """Reads nothing yet.

        Args:
          store: what the peers found; an id that stands for another change elsewhere must not be among it.
          share: of a run's experiments that adoption may take, from 0 to 1.
        """
        self.name = proposer.name
        self._proposer = proposer
        words = (merge, examine, notice, PEERS, _claimed_by, MOST_OBJECTIONS)
        self._peers = IdeasProposer(store, AdoptionOrder(device_class), *words)
        self._share = share

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`; says whose finding it is in `Proposal.adopted_from`."""
        if self._has_room(brief):
            try:
                return self._peers.propose(brief)
            except SpaceExhausted:
                pass
        return self._proposer.propose(brief)

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`: a finding is at hand at once."""
        if self._has_room(brief) and self._peers.candidates(brief):
            return False
        return self._proposer.asks_ahead(brief)

    def close(self) -> None:
        """See `Proposer.close`."""
        self._proposer.close()

    def _has_room(self, brief: Brief) -> bool:
        """Whether one more is within the share of all experiments up to this one."""
        taken = sum(past.adopted_from is not None for past in brief.history)
        taken += sum(running.adopted_from is not None for running in brief.running)
        return taken + 1 <= self._share * brief.experiment


def _claimed_by(finding: Finding) -> str | None:
    claim = claimant(finding)
    return None if claim is None else claim[0]


@dataclass(frozen=True)
class Answer:
    """What somebody who tried a claim found."""

    finding: str  # its id
    peer: str  # who claims it
    claimed_on: str  # the class of device that it was claimed on
    category: str  # kind of change
    judge: str  # the peer whose answer it is; empty for this run
    weight: float  # of the answer
    is_gain: bool  # whether it was one, of a size that the claim lets expect


@dataclass(frozen=True)
class AdoptionOrder:
    """The findings that are worth an experiment more than what the run would try else, the best first."""

    device_class: str  # of this run, see `findings.format.device_class`

    def __call__(self, brief: Brief, rest: Sequence[Finding], library: Sequence[Finding]) -> list[Finding]:
        """See `ideas.Order`."""
        tallies = _Tallies(self._answers(brief, library))
        draws: dict[str, float] = {}
        for finding in rest:
            claim = claimant(finding)
            if claim is None or self._is_refuted(finding) or tallies.is_doubted(claim[0]):
                continue
            uniform = new_rng(brief, f"adopt {brief.experiment} {claim[0]}").random()
            gain = _expected_gain(brief, finding, claim, tallies.share(claim[0]))
            draws[finding.id] = tallies.draw(finding, claim, uniform) * gain
        own = _draw_own(brief) if draws else 0.0
        found = [finding for finding in rest if draws.get(finding.id, 0.0) > own]
        return sorted(found, key=lambda finding: (-draws[finding.id], finding.id))

    def _is_refuted(self, finding: Finding) -> bool:
        """Whether more peers of this class of device discarded it than kept it."""
        latest = {one.peer: one for one in finding.evidence if one.peer and not is_replay(one)}
        here = [one.decision == "keep" for one in latest.values() if one.device_class == self.device_class]
        return 2 * sum(here) < len(here)

    def _answers(self, brief: Brief, library: Iterable[Finding]) -> Iterable[Answer]:
        """Those of other peers, a replay that differs among them, and of this run."""
        own = {past.finding: past for past in known(brief) if past.finding is not None}
        sizes = {past.finding: size for past, size in gain_sizes(brief)}
        for finding in library:
            if (claim := claimant(finding)) is None:
                continue
            words = (finding.id, *claim, finding.category)
            kept = (_size(one) for one in finding.evidence if one.peer == claim[0] and one.decision == "keep")
            claimed = next(kept, None)
            latest = {
                one.peer: one
                for one in finding.evidence
                if one.peer not in ("", claim[0]) and one.decision != REPLAYED and one.claim in ("", claim[0])
            }
            for judge, one in latest.items():
                weight = 1.0 if one.device_class == self.device_class else ELSEWHERE
                yield Answer(*words, judge, weight, one.decision == "keep" and _holds(_size(one), claimed))
            if finding.id in own:
                yield Answer(*words, "", 1.0, is_gain(own[finding.id]) and _holds(sizes.get(finding.id), claimed))


def _size(evidence: Evidence) -> float | None:
    """A measured effect in standard deviations of a run there; None where one of them is not known."""
    return evidence.effect / evidence.sigma if evidence.effect is not None and evidence.sigma else None


def _holds(measured: float | None, claimed: float | None) -> bool:
    """Whether a gain that was measured is at least a share of what was claimed; true where one is not known."""
    return measured is None or claimed is None or measured >= HELD * min(claimed, LARGEST)


class _Tallies:
    """Gains and misses by finding, peer, class of device and kind of change."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._counts: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._doubted: dict[str, bool] = {}
        answers, totals = list(answers), defaultdict[tuple[str, str], float](float)
        for answer in answers:
            totals[answer.judge, answer.peer] += answer.weight
        for answer in answers:
            most = math.inf if answer.judge == "" else MOST_OF_A_JUDGE
            weight = answer.weight * min(1.0, most / totals[answer.judge, answer.peer])
            for key in (
                ("finding", answer.finding),
                ("peer", answer.peer),
                ("class", answer.claimed_on),
                ("category", answer.category),
            ):
                self._counts[key][0 if answer.is_gain else 1] += weight

    def share(self, peer: str) -> float:
        """Of a peer's claims, the share that holds, as far as is known."""
        gains, misses = self._counts["peer", peer]
        return (PRIOR_GAINS + gains) / (PRIOR_GAINS + PRIOR_MISSES + gains + misses)

    def is_doubted(self, peer: str) -> bool:
        """Whether it is `SURE` that less than `DOUBTED` of a peer's claims hold."""
        from scipy.special import betaincinv  # takes 0.2 s, which a run without peers need not wait for

        if peer not in self._doubted:
            gains, misses = self._counts["peer", peer]
            self._doubted[peer] = float(betaincinv(PRIOR_GAINS + gains, PRIOR_MISSES + misses, SURE)) < DOUBTED
        return self._doubted[peer]

    def draw(self, finding: Finding, claim: tuple[str, str], uniform: float) -> float:
        """The quantile of the probability that a finding is a gain, by who claims it on which class of device."""
        from scipy.special import betaincinv

        gains, misses = PRIOR_GAINS, PRIOR_MISSES
        for key, weight in (
            (("finding", finding.id), OF_ITSELF),
            (("peer", claim[0]), OF_PEER),
            (("class", claim[1]), OF_CLASS),
            (("category", finding.category), OF_CATEGORY),
        ):
            of_gains, of_misses = self._counts[key]
            weight = min(weight, MOST_OF_EACH / max(of_gains + of_misses, 1e-9))
            gains, misses = gains + weight * of_gains, misses + weight * of_misses
        return float(betaincinv(gains, misses, uniform))


def _draw_own(brief: Brief) -> float:
    """A draw of what the next experiment of this run's own gains, in standard deviations of a run."""
    own = [past for past in known(brief) if past.adopted_from is None and past.proposer != CERTIFICATION]
    sizes = [one for one in gain_sizes(brief) if one[0].adopted_from is None]
    chance = posterior_draw(new_rng(brief, f"adopt {brief.experiment}"), brief, own)
    return chance * expected_size(brief, CODES_SIZE, sizes)


def _expected_gain(brief: Brief, finding: Finding, claim: tuple[str, str], share: float) -> float:
    """The size of a gain as those who kept a finding say, in standard deviations of a run there.

    It is shrunk towards a usual one; the claim itself counts by the share of the peer's claims that holds. 1 where this
    run does not know its own standard deviation, see `expected_size`.
    """
    if not brief.noise_floor:
        return 1.0
    total, weights = CODES_SIZE, 1.0
    for one in finding.evidence:
        if one.peer and one.decision == "keep" and (size := _size(one)) is not None:
            weight = share if one.peer == claim[0] else 1.0
            total, weights = total + weight * min(max(size, 0.0), LARGEST), weights + weight
    return total / weights
