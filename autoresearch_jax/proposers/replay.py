"""The proposals of a run that is over, once more and offline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoresearch_jax.proposers.base import CERTIFICATION, Brief, Proposal, ProposalFailed, SpaceExhausted

Rebase = Callable[[Proposal, str, Brief], Proposal | None]  # a proposal, the source it was made from, and a brief


@dataclass(frozen=True)
class RecordedProposal:
    """A proposal as a ledger has it."""

    proposal: Proposal | None  # what was proposed, with its proposer; None where nothing came of it
    base: str  # source of the champion that it was made from
    failure: str = ""  # why there is none, one line; empty with a proposal
    proposer: str = ""  # whose failure it was


class ReplayProposer:
    """Proposes what was recorded, in its order: the first of it as the run's first proposal, and so on.

    What was decided otherwise this time may leave another champion; then a proposal is moved to that one.
    """

    name = "replay"

    def __init__(self, recorded: Sequence[RecordedProposal], rebase: Rebase) -> None:
        """Stores all of a run's proposals, in their order; `rebase` moves one to another champion, or returns None."""
        self._recorded = recorded
        self._rebase = rebase

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`."""
        number = sum(outcome.proposer != CERTIFICATION for outcome in brief.history) - 1  # without the baseline
        if number >= len(self._recorded):
            raise SpaceExhausted(f"the recorded run ends here: it has {len(self._recorded)} proposals")
        recorded = self._recorded[number]
        if recorded.proposal is None:
            raise ProposalFailed(recorded.failure, proposer=recorded.proposer, worth_waiting=False)
        proposal = self._rebase(recorded.proposal, recorded.base, brief)
        if proposal is None:
            raise ProposalFailed(
                "what was proposed then does not fit the champion of now",
                proposer=recorded.proposal.proposer,
                worth_waiting=False,
            )
        return proposal

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`: the answer is there."""
        return False

    def close(self) -> None:
        """See `Proposer.close`: nothing is ever under way."""
