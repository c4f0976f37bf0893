"""Proposals of an agent that wait on disk until it is its turn again, see `proposers.several`."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch_jax.engine.proposals import PROPOSAL_FILE, made_for
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.files import write_whole
from autoresearch_jax.proposers.base import Brief, Proposal, rebase
from autoresearch_jax.sanitize import quoted
from autoresearch_jax.types import Merge

STALE = ".stale"  # in place of .json: it did not fit the champion of its turn
UNREADABLE = ".unreadable"


class WaitingProposals:
    """Files EXPERIMENT-PLACE.json in a run's folder: the experiment that the agent was asked for, and its order.

    Taking one up renames it to the proposal of an experiment, so that a kill neither loses nor repeats it.
    """

    def __init__(self, folder: RunFolder, proposer: str, merge: Merge, notice: Callable[[str], None]) -> None:
        """Stores where to look; `proposer` is the name of the agent, since another may have gone on with the run."""
        self._folder = folder
        self._proposer = proposer
        self._merge = merge
        self._notice = notice

    def keep(self, brief: Brief, first: str, others: Sequence[Proposal]) -> None:
        """See `Waiting.keep`."""
        unlike: dict[str | None, Proposal] = {}
        for other in others:
            if other.source not in (first, brief.champion_source):
                unlike.setdefault(other.source, other)
        if not unlike:
            return
        try:
            self._write(brief, list(unlike.values()))
        except OSError as error:  # a full disk: the first is in hand
            self._notice(f"{self._folder.waiting}: further proposals could not be kept: {error.strerror}")

    def _write(self, brief: Brief, others: Sequence[Proposal]) -> None:
        self._folder.waiting.mkdir(parents=True, exist_ok=True)
        earlier = set(self._folder.waiting.glob(f"{brief.experiment:04d}-*.json"))
        for place, other in enumerate(others, start=2):
            made = made_for(brief, replace(other, cost_dollars=0.0, proposer=self._proposer))
            path = self._folder.waiting / f"{brief.experiment:04d}-{place}.json"
            write_whole(path, json.dumps({**made.record(), "base": brief.champion_source}, indent=1) + "\n")
            earlier.discard(path)
        for path in earlier:
            path.unlink(missing_ok=True)

    def take(self, brief: Brief) -> Proposal | None:
        """See `Waiting.take`."""
        for path in sorted(self._folder.waiting.glob("*.json")):
            found = self._read(path)
            if found is None or found[0].proposer != self._proposer:
                continue
            proposal = rebase(*found, brief, self._merge)
            if proposal is not None:
                path.replace(self._folder.llm_dir(brief.experiment) / PROPOSAL_FILE)
                return proposal
            path.replace(path.with_suffix(STALE))
            words = f"{quoted(found[0].hypothesis)}, which {self._proposer} proposed with others for experiment "
            self._notice(f"{words}{path.stem.partition('-')[0].lstrip('0')}, does not fit the new champion: left out")
        return None

    def _read(self, path: Path) -> tuple[Proposal, str] | None:
        """A proposal and the champion's text that it was made for."""
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            base = str(record.pop("base"))
            del record["champion"], record["champion_digest"]
            return Proposal(**record), base
        except (OSError, ValueError, KeyError, TypeError) as error:
            with suppress(OSError):
                path.replace(path.with_suffix(UNREADABLE))
                self._notice(f"{path}: this waiting proposal cannot be read ({error!r}): left out")
        return None
