"""Moves a proposal that was made for one champion to the next."""

from dataclasses import replace

from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import Brief, Proposal
from autoresearch_jax.search.constants import read_constants
from autoresearch_jax.search.merging import Merge, merge_sources, moved_constants


def rebase(proposal: Proposal, base: str, brief: Brief, merge: Merge) -> Proposal | None:
    """A proposed text as it is for another champion; None if it is stale.

    A constant that both the proposal and the new champion moved keeps the champion's value, which was measured.

    Args:
      proposal: to move.
      base: source of the champion that it was made for.
      brief: of now.
      merge: of three texts, such as `Git.merge`.
    """
    champion = brief.champion_source
    assert proposal.source is not None
    if base == champion:
        return proposal
    try:
        ours = moved_constants(champion, base)
        moves = {name: value for name, value in moved_constants(proposal.source, base).items() if name not in ours}
        merged = merge_sources(base, champion, proposal.source, moves, merge)
        if merged is None or merged == champion:
            return None
        read_constants(merged)
    except (SyntaxError, UserError):  # a line that no constant can be set in; a text that git takes for none
        return None
    return replace(proposal, source=merged)
