"""Simulates peers that adopt each other's findings, on the engine's decision path; called by bench_swarm.sh.

A night of each peer is one of bench_decisions.py: after each run the engine's rule decides, with certification and
normal noise, and ideas have true gains from its mixes. Which idea is next is `proposers.adopting`'s choice, from real
findings with the evidence that the other peers published; what is its own is drawn from the mix. Peers work at the same
time. An idea has the same gain on all devices of a class, and on two classes the same gain or an independent one, so
that gains on two classes correlate. A liar publishes claims of gains of 6 sigma that are not there all night long.

The last lines are `key: value`, means over all nights, mixes and peers:
  alone_gain, adoption_gain           true gain of the last champion in sigma, at equal runs
  adoption_gain_ratio                 the latter over the former, at the correlation asked for, each peer a class
  adoption_gain_ratio_classes         the same with three classes
  adoption_gain_ratio_uncorrelated    the same as the first at correlation 0
  liar_run_share                      of all runs of honest peers, those on claims of the liar, with one liar
  liar_gain_ratio                     the gain with a liar over that without
  hours_to_23_adopters                35 peers and 333 experiments in 8 hours: from a finding's publication until 23
                                      peers kept it, median over nights of the first such; and how many nights had one
  most_adopters                       of the finding that most of these 35 kept
  choice_seconds_N                    CPU seconds of one choice among N findings
"""

import argparse
import functools
import heapq
import math
import platform
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace

from bench_decisions import BASELINE, METRIC, MIXES, RUNS, Machine, Night, draw_gain

from autoresearch_jax.assets.text import TextKind
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import CONFIDENCE, LineageRule, LineageSettings
from autoresearch_jax.findings.format import Evidence, Finding, base_digest
from autoresearch_jax.proposers.adopting import DEFAULT_SHARE, AdoptingProposer, AdoptionOrder
from autoresearch_jax.proposers.base import Brief, PastExperiment, Proposal
from autoresearch_jax.types import Status

LIAR = "liar"
CLAIMS = 100  # of the liar in a night: as many as a day's quota
TEXT = "start\n"
CATEGORIES = ("architecture", "optimizer", "schedule", "initialization")
HOURS = 8.0


@dataclass
class World:
    """What all peers share: true gains, and what was published.

    Attributes:
      ideas: draws the gains of new ideas.
      mix: that they come from.
      correlation: of the gains of an idea on two classes.
      gains: of each idea by class.
      published: findings by their ids, the latest evidence of each peer in them.
    """

    ideas: random.Random
    mix: str
    correlation: float
    classes: Sequence[str]
    gains: dict[str, Mapping[str, float]] = field(default_factory=dict)
    published: dict[str, Finding] = field(default_factory=dict)

    def new_idea(self) -> str:
        """Draws one; returns its id."""
        shared, name = draw_gain(self.mix, self.ideas), f"idea-{len(self.gains)}"
        self.gains[name] = {
            one: shared if self.ideas.random() < math.sqrt(self.correlation) else draw_gain(self.mix, self.ideas)
            for one in self.classes
        }
        return name

    def new_lie(self) -> None:
        """A claim of a gain that is on no device."""
        name = f"lie-{len(self.gains)}"
        self.gains[name] = dict.fromkeys(self.classes, 0.0)
        self.publish(name, LIAR, self.ideas.choice(self.classes), True, 6.0, 0.99)

    def publish(
        self, idea: str, peer: str, device_class: str, kept: bool, effect: float | None, probability: float | None
    ) -> None:
        """Adds a peer's evidence to a finding, in place of its earlier one."""
        words = ("task", "20 s", 2, "keep" if kept else "discard", "2026-11-29", effect, 0.5, probability)
        evidence = Evidence(device_class, *words, sigma=1.0, peer=peer)
        there = self.published.get(idea)
        if there is None:
            change = f"--- a/a\n+++ b/a\n@@ -1 +1,2 @@\n start\n+{idea}\n"
            category = CATEGORIES[hash_of(idea) % len(CATEGORIES)]
            words = (idea, idea, category, "kept", f"peer {peer}, run x", base_digest(TEXT), "", change)
            there = Finding(*words)
        others = tuple(one for one in there.evidence if one.peer != peer)
        self.published[idea] = replace(there, evidence=(*others, evidence))

    def seen_by(self, peer: str) -> "SeenFindings":
        """What a peer can read: findings of which others published something."""
        return SeenFindings(self, peer)


@dataclass(frozen=True)
class SeenFindings:
    """A store of what others published; see `FindingStore`."""

    world: World
    peer: str

    def findings(self) -> Sequence[Finding]:
        """All, without what the peer itself says of them."""
        seen = []
        for finding in self.world.published.values():
            if evidence := tuple(one for one in finding.evidence if one.peer != self.peer):
                seen.append(replace(finding, evidence=evidence))
        return seen

    def base_text(self, digest: str) -> str | None:
        """See `FindingStore.base_text`."""
        return TEXT

    def add(self, finding: Finding, base_text: str | None) -> str:
        """See `FindingStore.add`; nothing is added to it."""
        raise NotImplementedError


class Own:
    """Proposes new ideas."""

    name = "own"

    def __init__(self, world: World) -> None:
        self._world = world

    def propose(self, brief: Brief) -> Proposal:
        """A new one."""
        return Proposal(idea := self._world.new_idea(), CATEGORIES[hash_of(idea) % len(CATEGORIES)], source=idea)

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`."""
        return False

    def close(self) -> None:
        """See `Proposer.close`."""


class Peer(Night):
    """A night of one peer."""

    def __init__(self, world: World, name: str, device_class: str, seed: str, share: float, runs: int) -> None:
        rule = LineageRule(METRIC, LineageSettings(**CONFIDENCE["balanced"]))
        machine = Machine(random.Random(f"{seed} {name} runs"), "")
        super().__init__(rule, CertificationSettings(), self._draw_one, machine, runs)
        self.name, self._world, self._class, self._seed = name, world, device_class, seed
        store = world.seen_by(name)
        merge = lambda base, ours, theirs: None  # noqa: E731
        self._proposer = AdoptingProposer(Own(world), store, device_class, merge, None, lambda text: None, share)
        start = PastExperiment(0, "", "baseline", "", {}, Status.OK, BASELINE, True, "")
        self._history = [start]
        self._ideas: dict[int, str] = {}  # what was tried, by number of the program
        self._said: dict[int, bool] = {}  # what was published of it
        self.spent_on: dict[str, int] = {}  # runs by who claims it
        self.kept: set[str] = set()

    def _draw_one(self) -> float:
        self._proposal = self._proposer.propose(self._brief)
        self._idea = self._proposal.finding or self._proposal.hypothesis
        return self._world.gains[self._idea][self._class]

    @property
    def _brief(self) -> Brief:
        seed = hash_of(f"{self._seed} {self.name}")
        words = (len(self._history), seed, METRIC, "", (), TEXT, {}, BASELINE, tuple(self._history))
        return Brief(*words, noise_floor=1.0, asset=TextKind())

    def _try(self, gain: float) -> bool:
        before, number = self._lineage.num_runs, self._number + 1
        kept = super()._try(gain)
        self._ideas[number] = self._idea
        mine = self._proposal
        words = (len(self._history), mine.proposer or "own", self._idea, mine.category, {}, Status.OK)
        score = BASELINE - self._gain_of_champion() if kept else BASELINE
        self._history.append(
            PastExperiment(*words, score, kept, "", finding=mine.finding, adopted_from=mine.adopted_from)
        )
        claimed_by = mine.adopted_from or ""
        self.spent_on[claimed_by] = self.spent_on.get(claimed_by, 0) + self._lineage.num_runs - before
        if kept or mine.finding is not None:
            self._publish(number, kept)
        return kept

    def _certify(self, *, at_end: bool) -> bool:
        went_on = super()._certify(at_end=at_end)
        for number, said in list(self._said.items()):
            if said != (number in self._lineage.champion):
                self._publish(number, not said)
        return went_on

    def _gain_of_champion(self) -> float:
        return self._lineage.posterior.gain_of(self._lineage.champion).mean

    def _publish(self, number: int, kept: bool) -> None:
        idea = self._ideas[number]
        self._said[number] = kept
        effect = probability = None
        if kept:
            self.kept.add(idea)
            gain = self._lineage.posterior.gains[number]
            effect, probability = gain.mean, gain.above(0.0)
        else:
            self.kept.discard(idea)
        self._world.publish(idea, self.name, self._class, kept, effect, probability)

    @property
    def clock(self) -> float:
        """Share of the night that is over."""
        return self._lineage.num_runs / self._runs


@dataclass(frozen=True)
class Outcome:
    """Of one night.

    Attributes:
      gains: true, of each peer's last champion.
      lie_runs: runs on claims of the liar, of all `runs`.
      hours: from a finding's publication to its 23rd adopter, for the first that has so many; None if none has.
      adopters: of the finding that has the most.
    """

    gains: Sequence[float]
    lie_runs: int
    runs: int
    hours: float | None
    adopters: int
    experiments: int


@dataclass(frozen=True)
class Setting:
    """How many peers of how many classes, with which share for adoption."""

    peers: int = 8
    classes: int = 8
    correlation: float = 0.7
    share: float = DEFAULT_SHARE
    runs: int = RUNS
    lies: int = 0


def simulate(setting: Setting, mix: str, seed: str) -> Outcome:
    """One night of all peers."""
    classes = [f"class {place}" for place in range(setting.classes)]
    world = World(random.Random(f"{seed} {mix} ideas"), mix, setting.correlation, classes)
    peers = [
        Peer(world, f"peer-{place}", classes[place % len(classes)], f"{seed} {mix}", setting.share, setting.runs)
        for place in range(setting.peers)
    ]
    waiting = []
    for place, peer in enumerate(peers):
        peer.begin()
        heapq.heappush(waiting, (peer.clock, place))
    published: dict[str, float] = {}
    lies, hours = 0, None
    while waiting:
        clock, place = heapq.heappop(waiting)
        while lies < setting.lies * clock:
            world.new_lie()
            lies += 1
        if not peers[place].step():
            continue
        heapq.heappush(waiting, (peers[place].clock, place))
        for idea in peers[place].kept:
            if idea not in published:
                published[idea] = peers[place].clock
            elif hours is None and sum(idea in peer.kept for peer in peers) >= 24:  # its author and 23 others
                hours = HOURS * (peers[place].clock - published[idea])
    gains = [peer._truth for peer in peers]
    lie_runs = sum(peer.spent_on.get(LIAR, 0) for peer in peers)
    runs = sum(peer._lineage.num_runs for peer in peers)
    adopters = max((sum(idea in peer.kept for peer in peers) - 1 for idea in published), default=0)
    return Outcome(gains, lie_runs, runs, hours, adopters, sum(peer.ideas for peer in peers))


def hash_of(text: str) -> int:
    """The same in each process."""
    return random.Random(text).getrandbits(32)


def simulate_all(setting: Setting, args: argparse.Namespace, pool: ProcessPoolExecutor) -> list[Outcome]:
    """All nights of a setting, each mix in turn."""
    jobs = [(mix, f"{args.seed} {night}") for night in range(args.nights) for mix in args.mixes.split(",")]
    return list(pool.map(functools.partial(simulate, setting), *zip(*jobs, strict=True)))


def gain_of(nights: Sequence[Outcome]) -> float:
    """Mean over nights and peers."""
    return statistics.fmean(gain for night in nights for gain in night.gains)


def ratio_of(nights: Sequence[Outcome], alone: Sequence[Outcome]) -> tuple[float, float]:
    """Gain over that of the same nights alone, and its standard error over nights."""
    ratio = gain_of(nights) / gain_of(alone)
    rest = [sum(one.gains) - ratio * sum(other.gains) for one, other in zip(nights, alone, strict=True)]
    total = sum(sum(night.gains) for night in alone)
    return ratio, statistics.stdev(rest) * math.sqrt(len(rest)) / total if len(rest) > 1 else math.nan


def choice_seconds(count: int) -> float:
    """CPU seconds of a choice among findings, a third of which others tried, too."""
    world, rng = World(random.Random(0), "A", 0.7, ("class 0", "class 1", "class 2")), random.Random(0)
    for number in range(count):
        idea = world.new_idea()
        for place in range(1 + (number % 3 == 0)):
            peer = rng.randrange(1000)
            world.publish(idea, f"peer-{peer}", world.classes[peer % 3], place == 0, 2.0, 0.9)
    start = PastExperiment(0, "", "baseline", "", {}, Status.OK, BASELINE, True, "")
    brief = Brief(1, 0, METRIC, "", (), TEXT, {}, BASELINE, (start,), noise_floor=1.0)
    findings, order = world.seen_by("").findings(), AdoptionOrder("class 0")
    order(brief, findings[:10], findings[:10])  # imports
    began = time.process_time()
    order(brief, findings, findings)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=5, help="of each mix")
    parser.add_argument("--mixes", default=",".join((*MIXES, "D")))
    parser.add_argument("--correlation", type=float, default=0.7)
    parser.add_argument("--runs", type=int, default=RUNS, help="of a peer and night")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.monotonic()
    print(f"machine: {platform.platform()}, Python {platform.python_version()}")
    print(f"{args.nights} nights of 8 peers with {args.runs} runs each for each of {args.mixes}, seed {args.seed}")
    common = Setting(correlation=args.correlation, runs=args.runs)
    settings = {
        "alone": replace(common, share=0.0),
        "adoption": common,
        "classes": replace(common, classes=3),
        "uncorrelated": replace(common, correlation=0.0),
        "liar": replace(common, lies=CLAIMS),
        "many": replace(common, peers=35, runs=21),
    }
    found: dict[str, list[Outcome]] = {}
    with ProcessPoolExecutor(2) as pool:
        for name, setting in settings.items():
            nights = found[name] = simulate_all(setting, args, pool)
            mixes = args.mixes.split(",")
            of_mixes = (f"{mix} {gain_of(nights[place :: len(mixes)]):.1f}" for place, mix in enumerate(mixes))
            print(f"{name:<14}gain {gain_of(nights):6.2f}: {', '.join(of_mixes)}", flush=True)
    print(f"seconds: {time.monotonic() - start:.0f}")
    print(f"alone_gain: {gain_of(found['alone']):.2f}")
    print(f"adoption_gain: {gain_of(found['adoption']):.2f}")
    for name in ("classes", "uncorrelated", ""):
        ratio, error = ratio_of(found[name or "adoption"], found["alone"])
        print(f"adoption_gain_ratio{name and '_' + name}: {ratio:.3f} +- {error:.3f}")
    ratio, error = ratio_of(found["liar"], found["adoption"])
    print(f"liar_gain_ratio: {ratio:.3f} +- {error:.3f}")
    for count in (160, 20_000):
        print(f"choice_seconds_{count}: {choice_seconds(count):.3f}")
    hours = [night.hours for night in found["many"] if night.hours is not None]
    print(f"experiments_of_35: {statistics.fmean(night.experiments for night in found['many']):.0f}")
    median = f"{statistics.median(hours):.1f}" if hours else "never"
    print(f"most_adopters: {statistics.fmean(night.adopters for night in found['many']):.1f}")
    print(f"hours_to_23_adopters: {median} in {len(hours)} of {len(found['many'])} nights")
    share = sum(night.lie_runs for night in found["liar"]) / sum(night.runs for night in found["liar"])
    print(f"liar_run_share: {share:.4f}")


if __name__ == "__main__":
    main()
