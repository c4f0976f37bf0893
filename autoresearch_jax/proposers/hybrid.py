"""The hybrid proposer: an optimizer for the constants, an agent and findings for the code share the experiments.

The arms are the optimizer, the agent with each of its categories, and the findings ("ideas"); one that there is not
leaves its share to the others. First it is drawn who proposes, then, for the agent, the category; both by Thompson
sampling ("On the likelihood that one unknown probability exceeds another", 1933): of each arm one draw from the Beta
posterior of "a proposal of it is a gain", for who proposes times the size of the arm's latest gains, the highest wins.
An experiment counts the less the older it is, since what pays off early in a night need not later. For the category
also counts, with a small weight, what came of findings of that category on the same class of device, those of peers
included: that is learnt, and another one on CPUs than on GPUs. Which finding is
tried is drawn likewise, over category and evidence: see `proposers.ideas`.

What always holds, of the draws; an arm that has nothing to propose passes its draw on, see `HybridProposer`:

- Of the experiments 5k+1 .. 5k+5 at least one is drawn for each arm that there is.
- That one of the agent takes the categories in turn, so that of K categories each is asked for in any K such blocks.
  The findings need no turns, since each is tried once.
- After N discards in a row (N is the brief's plateau) all draws but the optimizer's one in five are for the code: the
  agent's or the findings', by their posteriors, and for a category that was least tried. That lasts until there is a
  gain, or N further experiments are over; then the posteriors decide for N, and so on: arms that are no good cannot
  keep the table from ending the plateau.
- A draw depends on the run's seed, the experiment's number, and experiments at least two before it. The one just
  before may still be measured when an agent is asked ahead, and must make no difference. Of those before that one,
  what is still being measured counts as tried where the least tried category is looked for.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from autoresearch_jax.proposers.bandit import (
    CODES_SIZE,
    before_last,
    expected_size,
    gain_sizes,
    known,
    new_rng,
    posterior_draw,
)
from autoresearch_jax.proposers.base import (
    Brief,
    PastExperiment,
    Proposal,
    ProposalFailed,
    Proposer,
    ServiceDown,
    ServiceObserver,
    SpaceExhausted,
    least_tried,
    since_plateau,
)
from autoresearch_jax.proposers.hints import hint_lines
from autoresearch_jax.proposers.ideas import CategoryCounter, share_of_others
from autoresearch_jax.sanitize import clean_line

MIN_WAIT_SECONDS = 5.0  # after a failure, even if the service asks for less
MAX_WAIT_SECONDS = 900.0  # between two tries of a service that is down; more only if it asks for more
BLOCK = 5  # experiments of which each proposer has one for certain, a share of 0.2
OPTIMIZERS_SIZE = 10.0  # of the first gain of a table that was never tuned, in noise floors, like `CODES_SIZE`
PATIENCE = 4.0  # times more of that for an optimizer, which learns by missing: its first gain takes several tries


@dataclass(frozen=True)
class _Outage:
    """A service that does not answer."""

    reason: str  # as it was said last
    wait_seconds: float  # from the last try to the next
    until: float  # of the next try, by the proposer's clock
    began: float  # by the same clock
    since: float  # seconds since 1970
    is_waited_for: bool = False  # whether the loop waits for it, and tells the user


class HybridProposer:
    """Shares the experiments between an optimizer, an agent and findings, and goes on without one that is out.

    Who proposes is drawn by a bandit, from the brief alone. Where that one is out, the others stand in, by the same
    draws: the agent while its service does not answer, or when it has spent what it may; the optimizer when the table
    is empty or tried to its end; the findings when all that fit the champion were tried. The latter two show only when
    they are asked: of their draws the agent is then asked once the experiment before is over, and not while that is
    measured.
    """

    name = "hybrid"

    def __init__(
        self,
        optimizer: Proposer,
        agent: Proposer | None,
        observer: ServiceObserver,
        clock: Callable[[], float] = time.monotonic,
        ideas: Proposer | None = None,
        elsewhere: CategoryCounter = dict,
    ) -> None:
        """Stores who proposes; without an agent the others propose alone, which the observer is told.

        `elsewhere` gives what `draw_category` takes.
        """
        self._optimizer = optimizer
        self._agent = agent
        self._ideas = ideas
        self._elsewhere = elsewhere
        self._observer = observer
        self._clock = clock
        self._code = [arm.name for arm in (agent, ideas) if arm is not None]
        self._others = " and ".join(arm.name for arm in (optimizer, ideas) if arm is not None)
        self._others += " propose" if ideas is not None else " proposes"
        self._spent: str | None = None  # why the agent is not asked any more
        self._outage: _Outage | None = None
        if agent is None:
            observer.notice(f"no agent: {self._others} alone")

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`; says in `Proposal.proposer` and `ProposalFailed.proposer` whose it is.

        Raises:
          SpaceExhausted: none of the arms has anything left, and there is no agent or it may not be asked any more.
          ServiceDown: the others have nothing left, and the agent's service does not answer.
        """
        exhausted: dict[str, str] = {}
        for name in draw_order(brief, self._optimizer.name, self._code):
            if self._agent is not None and name == self._agent.name:
                proposal = self._ask_agent(brief)
            else:
                proposal = self._ask_other(brief, name, exhausted)
            if proposal is not None:
                return proposal
        raise self._all_out([exhausted[name] for name in (self._optimizer.name, *self._code) if name in exhausted])

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`: true if this experiment is the agent's, and it may be asked now."""
        first = draw_order(brief, self._optimizer.name, self._code)[0]
        return self._agent is not None and first == self._agent.name and self._may_ask_agent()

    def close(self) -> None:
        """See `Proposer.close`."""
        for arm in (self._optimizer, self._agent, self._ideas):
            if arm is not None:
                arm.close()

    def _ask_other(self, brief: Brief, name: str, exhausted: dict[str, str]) -> Proposal | None:
        """A proposal of the optimizer or of the findings; None, and why, where there is none left."""
        arm = self._optimizer
        if self._ideas is not None and name == self._ideas.name:
            arm, brief = self._ideas, replace(brief, category=_plateau_category(brief))
        try:
            proposal = _ask(arm, brief)
        except SpaceExhausted as end:
            exhausted[name] = str(end)
            return None
        if self._outage is not None:
            self._outage = replace(self._outage, is_waited_for=False)
        return proposal

    def _may_ask_agent(self) -> bool:
        waits = self._outage is not None and self._clock() < self._outage.until
        return self._agent is not None and self._spent is None and not waits

    def _ask_agent(self, brief: Brief) -> Proposal | None:
        """The agent's proposal, of one kind of change and with what the optimizer knows; None while it is out."""
        agent = self._agent
        if agent is None or not self._may_ask_agent():
            return None
        hints = hint_lines(brief.space, brief.history, brief.metric, brief.champion_constants, brief.noise_floor)
        category = draw_category(brief, agent.name, self._elsewhere())
        try:
            proposal = _ask(agent, replace(brief, category=category, hints=hints))
        except ServiceDown as down:
            self._enter_outage(agent, down)
            return None
        except SpaceExhausted as exhausted:  # LimitReached, too
            self._end_outage(agent, answers=False)
            self._spent = str(exhausted)
            self._observer.notice(f"{clean_line(self._spent)}: {self._others} alone from here on")
            return None
        except ProposalFailed:
            self._end_outage(agent)
            raise
        self._end_outage(agent)
        return proposal

    def _enter_outage(self, agent: Proposer, down: ServiceDown) -> None:
        """Waits twice as long as before, up to a limit, or as long as the service asks for."""
        wait, reason = max(down.retry_seconds, MIN_WAIT_SECONDS), clean_line(str(down))
        now, began, since = self._clock(), self._clock(), time.time()
        if self._outage is None:
            self._observer.notice(f"{reason}; until it answers {self._others}")
        else:
            wait = max(wait, min(2 * self._outage.wait_seconds, MAX_WAIT_SECONDS))
            began, since = self._outage.began, self._outage.since
        self._outage = _Outage(str(down), wait, now + wait, began, since)
        self._observer.service_down(reason, since, time.time() + wait)

    def _end_outage(self, agent: Proposer, *, answers: bool = True) -> None:
        """The agent answers again, or is not asked any more; says the former, unless the loop does."""
        outage, self._outage = self._outage, None
        if outage is None:
            return
        self._observer.service_back()
        if answers and not outage.is_waited_for:
            self._observer.notice(f"{agent.name} answers again, after {self._clock() - outage.began:.0f} s")

    def _all_out(self, reasons: Sequence[str]) -> Exception:
        """What to raise where none of them can propose; `reasons` are those of all but the agent."""
        if self._outage is not None:
            self._outage = replace(self._outage, is_waited_for=True)
            return ServiceDown(self._outage.reason, max(0.0, self._outage.until - self._clock()))
        of_agent = [] if self._agent is None else [f"{self._agent.name}: {self._spent}"]
        return SpaceExhausted("; and ".join([*reasons, *of_agent]))


def _ask(proposer: Proposer, brief: Brief) -> Proposal:
    """A proposal, or a failure, that says whose it is."""
    try:
        return replace(proposer.propose(brief), proposer=proposer.name)
    except ProposalFailed as failure:
        raise ProposalFailed(str(failure), failure.cost_dollars, proposer=proposer.name) from failure


def draw_order(brief: Brief, optimizer: str, code: Sequence[str]) -> list[str]:
    """Names of the arms in the order in which they are asked: the one that is drawn, then those that stand in.

    Without a table of constants the optimizer has nothing to propose, and all draws are for the code.

    Args:
      brief: what the draw depends on.
      optimizer: name of the proposer that moves constants.
      code: names of those that change code.
    """
    outcomes = known(brief)
    rng = new_rng(brief, f"proposer {brief.experiment}")
    sizes = gain_sizes(brief)
    draws = {
        arm: posterior_draw(
            rng,
            brief,
            [outcome for outcome in outcomes if outcome.proposer == arm],
            PATIENCE if arm == optimizer and brief.noise_floor else 1.0,
        )
        * expected_size(
            brief,
            OPTIMIZERS_SIZE if arm == optimizer else CODES_SIZE,
            [one for one in sizes if one[0].proposer == arm],
        )
        for arm in (optimizer, *code)
    }
    floor = _floor(brief, (optimizer, *code))
    if not brief.space and floor == optimizer:
        floor = None
    for_code = not brief.space or _shifted(outcomes, brief.plateau)
    return sorted(draws, key=lambda arm: (arm != floor, for_code and arm == optimizer, -draws[arm]))


def draw_category(brief: Brief, agent: str, elsewhere: Mapping[str, tuple[float, float]] | None = None) -> str | None:
    """The kind of change that the agent is asked for; None if the brief names none.

    Args:
      brief: what the draw depends on.
      agent: name of the proposer whose outcomes count.
      elsewhere: gains and misses of each kind of change on this class of device, see `ideas.count_categories`.
    """
    categories = list(brief.categories)
    if not categories:
        return None
    outcomes = known(brief)
    rng = new_rng(brief, f"category {brief.experiment}")
    if (category := _plateau_category(brief)) is not None:
        return category
    if (brief.experiment - 1) % BLOCK == _places(brief)[1]:  # its own in the block, see `_floor`
        new_rng(brief, "turns").shuffle(categories)
        return categories[_block(brief) % len(categories)]
    groups: dict[str, list[PastExperiment]] = {category: [] for category in categories}
    for outcome in outcomes:
        if outcome.proposer == agent and outcome.category in groups:  # one it made up counts for the agent as a whole
            groups[outcome.category].append(outcome)
    draws = {}
    for category, group in groups.items():
        gains, misses = (elsewhere or {}).get(category, (0.0, 0.0))
        share = share_of_others((gains, misses))
        draws[category] = posterior_draw(rng, brief, group, further=(share * gains, share * misses))
    return max(draws, key=lambda category: draws[category])


def _block(brief: Brief) -> int:
    return (brief.experiment - 1) // BLOCK


def _places(brief: Brief) -> list[int]:
    """The experiments of a block in random order: the first is the first arm's for certain, and so on."""
    return new_rng(brief, f"block {_block(brief)}").sample(range(BLOCK), BLOCK)


def _floor(brief: Brief, arms: Sequence[str]) -> str | None:
    """Whose this experiment is by the fixed shares; None where the posterior decides."""
    return dict(zip(_places(brief), arms, strict=False)).get((brief.experiment - 1) % BLOCK)


def _plateau_category(brief: Brief) -> str | None:
    """One of the categories that were least tried, while a plateau asks for them."""
    outcomes = known(brief)
    if not brief.categories or not _shifted(outcomes, brief.plateau):
        return None
    counts = least_tried([*outcomes, *before_last(brief, brief.running)], brief.categories)
    rng = new_rng(brief, f"category {brief.experiment}")
    return rng.choice([category for category, count in counts if count == counts[0][1]])


def _shifted(outcomes: Sequence[PastExperiment], plateau: int | None) -> bool:
    """True while a plateau gives the draws to the code; failures count, or an agent would keep them by failing."""
    after = since_plateau(outcomes, plateau)
    if plateau is None or after is None:
        return False
    return (len(after) // max(1, plateau)) % 2 == 0
