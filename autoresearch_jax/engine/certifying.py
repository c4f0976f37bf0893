"""Certification of a run: the champion without some of its edits, and what is known of each kept edit."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.audit.ablation import Version, revert
from autoresearch_jax.decide.certification import CERTAIN
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Kind
from autoresearch_jax.engine.training_file import Merge


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


@dataclass(frozen=True)
class TakenOut:
    """The champion without a group of edits.

    Attributes:
      edits: that are out, by their experiments.
      source: the text without them.
      obstacles: why each of the others could not be taken out.
    """

    edits: Sequence[int]
    source: str
    obstacles: Mapping[int, str]


def take_out(ledger: Ledger, edits: Sequence[int], merge: Merge) -> TakenOut:
    """Takes edits out of the champion's text, the latest first.

    Args:
      ledger: of the run.
      edits: experiments that were kept.
      merge: merges three texts.
    """
    kept = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL and row.decision is Action.KEEP]
    champion = kept[-1]
    source, taken, obstacles = ledger.source(champion.id), [], {}
    for number in sorted(edits, reverse=True):
        parent = ledger.experiment(number).parent
        assert parent is not None
        versions = [Version(number, ledger.source(parent)), Version(number, ledger.source(number))]
        found = revert([*versions, Version(champion.id, source)], 1, merge)
        if found.source is None or found.source == source or found.note:  # a note tells of a part that has to stay
            obstacles[number] = f"{found.obstacle or 'cannot be taken out whole'}{found.note and ': '}{found.note}"
            continue
        source = found.source
        taken.append(number)
    return TakenOut(sorted(taken), source, obstacles)
