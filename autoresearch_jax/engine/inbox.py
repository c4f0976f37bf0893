"""The inbox of a run: texts that people hand to it, each taken in its turn in place of a proposal."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.assets.merging import rebase_text
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import columns
from autoresearch_jax.types import Merge

HAND = "hand"  # in place of a proposer's name


@dataclass(frozen=True)
class HandedText:
    """A text that waits to be measured, or was."""

    id: int  # its number in the queue: 1, 2, 3, ...
    created_at: float  # in seconds since 1970
    hypothesis: str  # one clean line
    category: str
    # the text that it was made from, whose difference is carried over to the champion of the time when it is taken up;
    # None for a text that is measured as it stands
    base: str | None
    source: str
    why: str = ""  # its author's opinion why it should work, a clean paragraph; empty if there is none
    adopted_from: str | None = None  # name of the peer whose champion it is; None if it is no peer's
    experiment: int | None = None  # that measures it; None while it waits

    def for_champion(self, asset: AssetKind, champion: str, merge: Merge) -> str | None:
        """The text as it is for a champion's; None where the two change the same lines."""
        return self.source if self.base is None else rebase_text(asset, self.source, self.base, champion, merge)


class Inbox:
    """The table `inbox` of a ledger, which its driver and other processes write to."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(
        self,
        hypothesis: str,
        category: str,
        base: str | None,
        source: str,
        *,
        why: str = "",
        adopted_from: str | None = None,
    ) -> int:
        """Puts a text at the end of the queue; returns its number. See `HandedText`."""
        values: Mapping[str, Any] = {
            "created_at": self._ledger.clock(),
            "hypothesis": hypothesis,
            "category": category,
            "base": base,
            "source": source,
            "why": why,
            "adopted_from": adopted_from,
        }
        return self._ledger.insert("inbox", values)

    def oldest(self) -> HandedText | None:
        """The text whose turn it is; None if none waits."""
        return next(iter(self._read("WHERE experiment IS NULL ORDER BY id LIMIT 1")), None)

    def get(self, number: int) -> HandedText:
        """One text.

        Raises:
          LedgerError: there is none of that number.
        """
        found = self._read("WHERE id = ?", number)
        if not found:
            raise LedgerError(f"the ledger's inbox has no text {number}")
        return found[0]

    def num_waiting(self) -> int:
        """How many texts wait."""
        return len(self._ledger.select("inbox", ("id",), "WHERE experiment IS NULL"))

    def is_over(self, number: int) -> bool:
        """Whether the experiment of a text is over.

        Raises:
          LedgerError: see `get`.
        """
        experiment = self.get(number).experiment
        return experiment is not None and not self._ledger.experiment(experiment).is_open

    def same(self, source: str) -> HandedText | None:
        """A text that is not decided on and is the same to the last character; None if there is none."""
        found = self._read("WHERE source = ? ORDER BY id", source)
        return next((text for text in found if not self.is_over(text.id)), None)

    def take(self, number: int, experiment: int) -> None:
        """Enters the experiment that measures a text."""
        self._ledger.update("inbox", {"experiment": experiment}, "id = ?", number)

    def _read(self, rest: str, *parameters: Any) -> list[HandedText]:
        return [HandedText(**dict(row)) for row in self._ledger.select("inbox", columns(HandedText), rest, *parameters)]


def nearest(source: str, texts: Mapping[int, str]) -> list[int]:
    """The numbers of the texts that a source differs from in the fewest lines, the highest first."""
    lines = Counter(source.splitlines())

    def num_different(number: int) -> int:
        others = Counter(texts[number].splitlines())
        return (lines - others).total() + (others - lines).total()

    different = {number: num_different(number) for number in texts}
    fewest = min(different.values())
    return sorted((number for number in texts if different[number] == fewest), reverse=True)
