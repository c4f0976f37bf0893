"""How long a search has gone without a gain, and which kinds of change it has hardly tried."""

from collections.abc import Sequence

from autoresearch_jax.proposers.base import CERTIFICATION, NO_PROPOSAL, Outcome
from autoresearch_jax.types import Status


def is_gain(outcome: Outcome) -> bool:
    """True if it was kept for what it scored: not for a shorter source alone, nor for what was taken out again."""
    is_new_text = outcome.status is not Status.DUPLICATE and outcome.proposer != CERTIFICATION
    return outcome.kept and is_new_text and not outcome.simplification


def is_failed_proposal(outcome: Outcome) -> bool:
    """True if nothing was proposed; what was measured was, whatever category its agent gave it."""
    return outcome.category == NO_PROPOSAL and outcome.status is Status.REJECTED and outcome.score is None


def since_gain(history: Sequence[Outcome]) -> Sequence[Outcome]:
    """The experiments after the last gain, the oldest first; the baseline is one."""
    last = next((place for place in reversed(range(len(history))) if is_gain(history[place])), -1)
    return history[last + 1 :]


def discards_in_a_row(history: Sequence[Outcome]) -> int:
    """Experiments without a gain since the last one: measured, duplicates or rejected alike, but none that was never
    proposed: of those nothing is learnt about the search."""
    return sum(_is_discard(outcome) for outcome in since_gain(history))


def on_plateau(history: Sequence[Outcome], plateau: int | None) -> bool:
    """True after so many discards in a row; never for None."""
    return plateau is not None and discards_in_a_row(history) >= plateau


def since_plateau(history: Sequence[Outcome], plateau: int | None) -> Sequence[Outcome] | None:
    """The experiments after the discard that made it a plateau, the oldest first; None where it is none."""
    if plateau is None or not on_plateau(history, plateau):
        return None
    tail = since_gain(history)
    discards = [place for place, outcome in enumerate(tail) if _is_discard(outcome)]
    return tail[discards[plateau - 1] + 1 :] if plateau > 0 else tail


def least_tried(history: Sequence[Outcome], categories: Sequence[str]) -> list[tuple[str, int]]:
    """The categories with how often each was tried, the least tried first; equals stay in their order."""
    counts = dict.fromkeys(categories, 0)
    for outcome in history:
        if outcome.category in counts:
            counts[outcome.category] += 1
    return sorted(counts.items(), key=lambda item: item[1])


def _is_discard(outcome: Outcome) -> bool:
    return not outcome.kept and not is_failed_proposal(outcome) and outcome.proposer != CERTIFICATION
