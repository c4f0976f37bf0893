"""Moves a proposal that was made for one champion to the next."""

import ast
from dataclasses import replace

from autoresearch_jax.engine.constants import same_value
from autoresearch_jax.engine.merging import Merge, merge_sources, moved_constants
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import Brief, Proposal


def rebase(proposal: Proposal, base: str, brief: Brief, merge: Merge) -> Proposal | None:
    """A proposed text as it is for another champion; None if it is stale.

    All of it is moved or nothing, so that it does what its hypothesis says: a constant that both gave another value
    makes it stale, as lines do that both changed.

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
        ours, theirs = moved_constants(champion, base), moved_constants(proposal.source, base)
        if any(name in ours and not same_value(ours[name], theirs[name]) for name in theirs):
            return None
        merged = merge_sources(base, champion, proposal.source, theirs, merge)
        if merged is None or _program(merged) == _program(champion):
            return None
    except (SyntaxError, ValueError, RecursionError, MemoryError, UserError):
        return None  # not Python; a line that no constant can be set in; a text that git takes for none
    return replace(proposal, source=merged)


def _program(source: str) -> str:
    """A text without comments and layout."""
    return ast.dump(ast.parse(source))
