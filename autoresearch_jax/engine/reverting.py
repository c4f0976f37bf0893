"""The champion's text without some of its edits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.audit.ablation import Version, revert
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.merging import Merge
from autoresearch_jax.engine.records import Kind, Verdict


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
    kept = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL and row.decision is Verdict.KEEP]
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
