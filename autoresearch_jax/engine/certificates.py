"""What a run says of each edit that it kept, after all its runs: certified, kept, reverted."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch_jax.decide.certification import CERTAIN
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Kind


class Word(enum.StrEnum):
    """What a kept edit is by now."""

    CERTIFIED = "certified"  # an improvement with probability `CERTAIN` at least
    KEPT = "kept"  # a bet that is still open
    REVERTED = "reverted"  # taken out again


@dataclass(frozen=True)
class Certificate:
    """What is known of a kept edit.

    Attributes:
      word: see there.
      gain: in the metric's unit, positive where it is better.
      probability: that it is an improvement.
    """

    word: Word
    gain: Estimate
    probability: float


def certificates(ledger: Ledger) -> Mapping[int, Certificate]:
    """By experiment, for each edit that was kept; none under the greedy rule."""
    return ledger.remembered(_certificates)


def _certificates(ledger: Ledger) -> Mapping[int, Certificate]:
    lineage = ledger.lineage()
    if lineage is None:
        return {}
    found = {}
    for number, gain in lineage.posterior.gains.items():
        if ledger.experiment(number).kind is not Kind.PROPOSAL:
            continue
        word = Word.CERTIFIED if gain.real >= CERTAIN else Word.KEPT
        if number not in lineage.champion:
            word = Word.REVERTED
        found[number] = Certificate(word, lineage.posterior.gain_of([number]), gain.real)
    return found
