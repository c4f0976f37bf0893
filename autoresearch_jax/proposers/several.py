"""Several proposals from one call of an agent: what it gives beside the first waits on disk, and is proposed next."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from autoresearch_jax.proposers.base import Brief, Examine, Proposal, ProposalFailed, Proposer

MOST_PROPOSALS = 8  # of a call
KeepOthers = Callable[[Brief, str, Sequence[Proposal]], None]  # `Waiting.keep`


class Waiting(Protocol):
    """Where an agent's proposals wait, on disk, so that a kill loses none."""

    def keep(self, brief: Brief, first: str, others: Sequence[Proposal]) -> None:
        """Stores the other texts of an answer in place of earlier ones for that brief.

        Each once, none that is `first` or the champion's; without any, what waits stays.
        """

    def take(self, brief: Brief) -> Proposal | None:
        """The oldest that fits the champion of now, bound to the brief's experiment; None if none waits."""


class SeveralProposer:
    """An agent that is only asked where none of its earlier proposals waits."""

    def __init__(self, agent: Proposer, waiting: Waiting, examine: Examine | None) -> None:
        """Stores whom to ask; `examine` traces what waited, so that it is ready when its turn to be measured comes."""
        self.name = agent.name
        self._agent = agent
        self._waiting = waiting
        self._examine = examine

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`. What waited costs nothing: the first of its answer had the cost of all."""
        if (proposal := self._take(brief)) is not None:
            return proposal
        try:
            return self._agent.propose(brief)
        except ProposalFailed as failure:  # of the first; what else was in the answer may be good
            if (proposal := self._take(brief, failure.cost_dollars)) is None:
                raise
            return proposal

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`."""
        return self._agent.asks_ahead(brief)

    def close(self) -> None:
        """See `Proposer.close`."""
        self._agent.close()

    def _take(self, brief: Brief, cost_dollars: float = 0.0) -> Proposal | None:
        """The next that waits, with its cost before it is traced, when it is written down: a kill loses none."""
        proposal = self._waiting.take(brief)
        if proposal is None:
            return None
        proposal = replace(proposal, cost_dollars=cost_dollars)
        if self._examine is not None:
            self._examine(brief, proposal)  # an objection is written down with its text, as after the last repair
        return proposal
