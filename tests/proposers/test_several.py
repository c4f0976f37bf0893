"""An agent of whose proposals some wait: they come before another call, and after an answer that failed."""

import dataclasses

from fakes import SOURCE, ScriptedProposer, Silent, moved

from autoresearch_jax.proposers.base import Brief, Objection, Proposal
from autoresearch_jax.proposers.hybrid import HybridProposer
from autoresearch_jax.proposers.several import SeveralProposer
from autoresearch_jax.types import Metric

BRIEF = Brief(1, 0, Metric("loss"), "", (), SOURCE, {}, 1.98, ())


class Shelf:
    """Where proposals wait, in memory."""

    def __init__(self):
        self.proposals = []

    def take(self, brief):
        return self.proposals.pop(0) if self.proposals else None

    def keep(self, brief, first, others):
        self.proposals += others


class Agent(ScriptedProposer):
    """Gives three proposals at its only call."""

    name = "agent"

    def __init__(self, shelf):
        first, *others = (Proposal(f"idea {n}", "code", source=f"{SOURCE}# {n}\n") for n in range(3))
        super().__init__([first], before=lambda brief: shelf.keep(brief, first.source, others))


def test_in_a_hybrid_what_waits_is_used_when_it_is_the_agents_turn_and_objections_change_nothing():
    examined = []

    def examine(brief, proposal):
        examined.append(proposal.hypothesis)
        return Objection("a crash")

    shelf = Shelf()
    agent = Agent(shelf)
    hybrid = HybridProposer(ScriptedProposer([moved(LR=0.3)] * 40), SeveralProposer(agent, shelf, examine), Silent())
    found = [hybrid.propose(dataclasses.replace(BRIEF, experiment=number)) for number in range(1, 4)]
    assert [(one.hypothesis, one.proposer) for one in found] == [(f"idea {n}", "agent") for n in range(3)]
    assert len(agent.briefs) == 1
    assert examined == ["idea 1", "idea 2"]
