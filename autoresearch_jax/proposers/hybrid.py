"""An optimizer for the constants and an agent for the structure, who share the experiments as a bandit draws them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from autoresearch_jax.proposers.bandit import draw_category, draws_agent
from autoresearch_jax.proposers.base import (
    Brief,
    Proposal,
    ProposalFailed,
    Proposer,
    ServiceDown,
    SpaceExhausted,
)
from autoresearch_jax.proposers.learnt import learnt_lines
from autoresearch_jax.sanitize import clean_line

MIN_WAIT_SECONDS = 5.0  # whatever a service says: it has just failed
MAX_WAIT_SECONDS = 900.0  # between two tries of a service that is down; more only if it asks for more


@dataclass(frozen=True)
class _Outage:
    """A service that does not answer.

    Attributes:
      reason: as it was said last.
      wait_seconds: from the last try to the next.
      until: when that is, by the proposer's clock.
    """

    reason: str
    wait_seconds: float
    until: float


class HybridProposer:
    """Neither a weak agent nor a flat table stalls the run, and neither does a service that is down for hours.

    Who proposes is drawn by `bandit`, of the brief alone. Where the agent is out, or has spent what it may, the
    optimizer proposes instead; where the table is empty or tried to its end, the agent does. That a table is tried to
    its end shows only when the optimizer is asked: of its draws the agent is then asked once the experiment before is
    over, and not while that is measured.
    """

    name = "hybrid"

    def __init__(
        self,
        optimizer: Proposer,
        agent: Proposer | None,
        notice: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stores who proposes.

        Args:
          optimizer: of constants.
          agent: of everything else; None where there is none, and then the optimizer is alone.
          notice: tells a person one line, in the thread of `propose`.
          clock: seconds, which only grow.
        """
        self._optimizer = optimizer
        self._agent = agent
        self._notice = notice
        self._clock = clock
        self._spent: str | None = None  # why the agent is not asked any more
        self._outage: _Outage | None = None
        if agent is None:
            notice(f"no key and no command for an agent: {optimizer.name} proposes alone")

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`; says in `Proposal.proposer` and `ProposalFailed.proposer` whose it is.

        Raises:
          SpaceExhausted: the optimizer has nothing left, and there is no agent or it may not be asked any more.
          ProposalFailed: nothing came of it this time.
          ServiceDown: the optimizer has nothing left, and the agent's service does not answer.
        """
        agent_first = self._draws_agent(brief)
        proposal = self._ask_agent(brief) if agent_first else None
        if proposal is not None:
            return proposal
        try:
            return _ask(self._optimizer, brief)
        except SpaceExhausted as exhausted:
            if self._agent is None:
                raise
            proposal = None if agent_first else self._ask_agent(brief)
            if proposal is not None:
                return proposal
            raise self._nobody_left(exhausted, self._agent) from exhausted

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`: true if this experiment is the agent's, and it may be asked now."""
        return self._draws_agent(brief) and self._may_ask_agent()

    def close(self) -> None:
        """See `Proposer.close`."""
        self._optimizer.close()
        if self._agent is not None:
            self._agent.close()

    def _draws_agent(self, brief: Brief) -> bool:
        return self._agent is not None and draws_agent(brief, self._optimizer.name, self._agent.name)

    def _may_ask_agent(self) -> bool:
        waits = self._outage is not None and self._clock() < self._outage.until
        return self._agent is not None and self._spent is None and not waits

    def _ask_agent(self, brief: Brief) -> Proposal | None:
        """The agent's proposal, of one kind of change and with what the optimizer knows; None while it is out."""
        agent = self._agent
        if agent is None or not self._may_ask_agent():
            return None
        learnt = learnt_lines(brief.space, brief.history, brief.metric, brief.champion_constants, brief.noise_floor)
        category = draw_category(brief, agent.name)
        try:
            proposal = _ask(agent, replace(brief, category=category, learnt=learnt))
        except ServiceDown as down:
            self._enter_outage(agent, down)
            return None
        except SpaceExhausted as exhausted:  # LimitReached, too
            self._outage, self._spent = None, str(exhausted)
            self._notice(f"{clean_line(self._spent)}: {self._optimizer.name} proposes alone from here on")
            return None
        except ProposalFailed:
            self._outage = None  # it did answer
            raise
        self._outage = None
        return proposal

    def _enter_outage(self, agent: Proposer, down: ServiceDown) -> None:
        """Waits twice as long as before, up to a limit, or as long as the service asks for."""
        wait = max(down.retry_seconds, MIN_WAIT_SECONDS)
        if self._outage is None:
            self._notice(f"{agent.name}: {clean_line(str(down))}; until it answers {self._optimizer.name} proposes")
        else:
            wait = max(wait, min(2 * self._outage.wait_seconds, MAX_WAIT_SECONDS))
        self._outage = _Outage(str(down), wait, self._clock() + wait)

    def _nobody_left(self, exhausted: SpaceExhausted, agent: Proposer) -> Exception:
        """What to raise where neither of the two can propose."""
        if self._outage is not None:
            return ServiceDown(self._outage.reason, max(0.0, self._outage.until - self._clock()))
        return SpaceExhausted(f"{exhausted}; and {agent.name}: {self._spent}")


def _ask(proposer: Proposer, brief: Brief) -> Proposal:
    """A proposal, or a failure, that says whose it is."""
    try:
        return replace(proposer.propose(brief), proposer=proposer.name)
    except ProposalFailed as failure:
        raise ProposalFailed(str(failure), failure.cost_dollars, proposer=proposer.name) from failure
