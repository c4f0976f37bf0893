"""What gains on fresh seeds say, in a word and in one sentence: pure functions of recorded numbers."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_jax.audit.intervals import Interval, t_interval

# Of val's gain that must be left on the holdout. The two are different texts, so an honest gain is a little larger on
# one of them; to call any such difference wear would be wrong nearly always. A gain that lost half of itself is
# another gain.
HONEST_SHARE = 0.5


NOT_ENOUGH = "fewer than two seeds gave both a score, so nothing can be said: see failed_runs, and ask with more --runs"


class Word(enum.StrEnum):
    """What a reading of the holdout says of the champion's gain."""

    REAL = "real"
    SMALLER = "smaller"
    WORN_OUT = "worn out"
    WORSE = "worse"
    NO_GAIN = "no gain"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Reading:
    """What a reading of the holdout says.

    Attributes:
      val: interval of the gain on the split that steered the search; None if fewer than two seeds have one.
      holdout: of the gain on the holdout; the same.
      word: in a word.
      sentence: in a sentence.
    """

    val: Interval | None
    holdout: Interval | None
    word: Word
    sentence: str


def read_holdout(val_gains: Sequence[float], holdout_gains: Sequence[float]) -> Reading:
    """Says whether the champion's gain is real, or the validation set is worn out.

    Args:
      val_gains: how much better the champion was than the baseline on val, for each seed.
      holdout_gains: on the holdout, for the same seeds in the same order.
    """
    val, holdout = t_interval(val_gains), t_interval(holdout_gains)
    pairs = zip(val_gains, holdout_gains, strict=True)
    above_half = t_interval([holdout_gain - HONEST_SHARE * val_gain for val_gain, holdout_gain in pairs])
    if val is None or holdout is None or above_half is None:
        sentence = NOT_ENOUGH
        return Reading(val, holdout, Word.NOT_MEASURED, sentence)
    word, sentence = _judge(val, holdout, above_half)
    return Reading(val, holdout, word, sentence)


def _judge(val: Interval, holdout: Interval, above_half: Interval) -> tuple[Word, str]:
    """The cases; `above_half` is of what the holdout's gain is above `HONEST_SHARE` of val's."""
    if holdout.sign < 0:
        also = ", whatever val says: the validation set is worn out" if val.sign > 0 else ""
        return Word.WORSE, f"the champion is worse than the baseline on the holdout{also}"
    if holdout.sign > 0:
        if val.sign <= 0:
            return Word.REAL, "the champion is better on text that steered nothing; val shows it less clearly"
        share = f"{holdout.mean / val.mean:.0%} of the gain on val"
        if above_half.sign < 0:
            return Word.SMALLER, f"the gain is real, but only {share} is left on the holdout: the rest is wear of val"
        return Word.REAL, f"the gain is real: the holdout, which steered nothing, shows {share}"
    if val.sign > 0:
        if above_half.sign < 0:
            return Word.WORN_OUT, "the gain on val does not show on the holdout: the validation set is worn out"
        return Word.UNDECIDED, "the holdout shows neither a gain nor that there is none: ask with more --runs"
    if val.sign < 0:
        return Word.NO_GAIN, "the champion is worse than the baseline on val, and no better on the holdout"
    hidden = f"; one of up to {holdout.high:.2g} may hide in the noise" if holdout.high > 0 else ""
    return Word.NO_GAIN, f"no gain is to be seen, neither on val nor on the holdout{hidden}"


def read_change(gain: Interval | None, kept_for_score: bool) -> str:
    """In a word or two, what a kept change is worth to the champion of now.

    Args:
      gain: of the champion over itself without the change; None if it was not measured.
      kept_for_score: False for what was kept because it made the text shorter, of which no gain was asked.
    """
    if gain is None:
        return "not measured"
    if gain.sign == 0:
        return "in doubt" if kept_for_score else "no loss seen"
    return "earns its place" if gain.sign > 0 else "costs"


def read_transfer(gain: Interval | None, where: str) -> tuple[str, str]:
    """In a word and in a sentence, whether the gain holds elsewhere.

    Args:
      gain: of the champion over the baseline there; None if fewer than two seeds have one.
      where: such as "at DEPTH 8 and 2 times the budget".
    """
    if gain is None:
        return "not measured", NOT_ENOUGH
    if gain.sign > 0:
        return "holds", f"the champion is better than the baseline {where}, too"
    if gain.sign < 0:
        return "reversed", f"the champion is worse than the baseline {where}: its gain belongs to the run's own setting"
    return "undecided", f"{where} neither a gain nor a loss is to be seen: ask with more --runs"
