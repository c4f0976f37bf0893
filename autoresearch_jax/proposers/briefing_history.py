"""What was tried so far, as lines of a brief: by category, what was kept, experiment by experiment."""

from collections.abc import Sequence
from itertools import pairwise

from autoresearch_jax.proposers.base import CERTIFICATION, Outcome
from autoresearch_jax.proposers.plateau import is_failed_proposal
from autoresearch_jax.sanitize import clean_line, quoted
from autoresearch_jax.types import SCORE_DECIMALS, Metric, Status

MAX_CATEGORY_CHARACTERS = 40
MAX_REASON_CHARACTERS = 200


def category_lines(history: Sequence[Outcome], metric: Metric) -> list[str]:
    """A line for each category, the best first: how much was tried, its best idea, and its worst."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in history:
        is_proposal = outcome.experiment > baseline_number(history) and outcome.proposer != CERTIFICATION
        if is_proposal and not is_failed_proposal(outcome):
            groups.setdefault(category_text(outcome.category), []).append(outcome)
    lines = []
    for name, group in groups.items():
        kept = sum(outcome.kept for outcome in group)
        failed = sum(outcome.score is None for outcome in group)
        words = f"- {name}: {len(group)} tried, {kept} kept, {failed} without a score{_extremes(group, metric)}"
        if not kept:
            words += "; a dead end so far"
        lines.append((-kept, -group[-1].experiment, words))
    return [words for _, _, words in sorted(lines)]


def _extremes(group: Sequence[Outcome], metric: Metric) -> str:
    """The best and the worst of those with a score; of equals the oldest."""
    scored = [(outcome.score, outcome) for outcome in group if outcome.score is not None]
    if not scored:
        return ""
    sign = 1 if metric.is_better(0.0, 1.0) else -1
    best_score, best = min(scored, key=lambda pair: sign * pair[0])
    worst_score, worst = max(scored, key=lambda pair: sign * pair[0])
    words = f"; best {score_text(best_score)} (experiment {best.experiment}: {quoted(best.hypothesis)})"
    if worst_score == best_score:
        return words
    hypothesis = quoted(worst.hypothesis, MAX_REASON_CHARACTERS)
    return f"{words}; worst {score_text(worst_score)} (experiment {worst.experiment}: {hypothesis})"


def kept_lines(history: Sequence[Outcome]) -> list[str]:
    """A line for each step of the champion, the newest first; no differences, which would be a further digit."""
    kept = [outcome for outcome in history if outcome.kept and outcome.score is not None]
    return [
        f"- experiment {after.experiment}, {category_text(after.category)}: "
        f"{score_text(before.score)} -> {score_text(after.score)}, {quoted(after.hypothesis)}"
        for before, after in reversed(list(pairwise(kept)))
    ]


def experiment_line(outcome: Outcome) -> str:
    """All that there is to say of an experiment, in a line."""
    became = "kept" if outcome.kept else "discarded" if outcome.score is not None else str(outcome.status)
    score = "" if outcome.score is None else f", {score_text(outcome.score)}"
    who = clean_line(outcome.proposer, MAX_CATEGORY_CHARACTERS)
    return (
        f"- experiment {outcome.experiment} ({category_text(outcome.category)}, by {who}): {became}{score}; "
        f"{quoted(outcome.hypothesis)}; reason: {quoted(outcome.reason, MAX_REASON_CHARACTERS)}"
    )


def says_little(outcome: Outcome) -> bool:
    """True if nothing was measured for it."""
    return outcome.status is Status.DUPLICATE or is_failed_proposal(outcome)


def baseline_number(history: Sequence[Outcome]) -> int:
    """Number of the experiment that nobody proposed."""
    return history[0].experiment if history else -1


def category_text(category: str) -> str:
    """Quoted, since a proposer may have made it up."""
    return quoted(category, MAX_CATEGORY_CHARACTERS)


def score_text(score: float | None) -> str:
    """No digit more than it has."""
    return "none" if score is None else repr(round(score, SCORE_DECIMALS))
