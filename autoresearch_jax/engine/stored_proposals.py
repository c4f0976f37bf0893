"""Proposals of agents on disk: what was paid for is not lost between its answer and the ledger."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autoresearch_jax.engine.run_folder import RunFolder, write_whole
from autoresearch_jax.proposers.base import Brief, Proposal

PROPOSAL_FILE = "proposal.json"
STALE_FILE = "stale.json"  # one that did not fit the champion that came meanwhile
REFUSED_FILE = "refused.json"  # the last that went back to its author


@dataclass(frozen=True)
class Made:
    """A proposal and what it was made for.

    Attributes:
      proposal: with its proposer's name.
      champion: number of the experiment that was champion when it was asked for.
      champion_digest: of that one's source.
    """

    proposal: Proposal
    champion: int
    champion_digest: str

    def is_for(self, source: str) -> bool:
        """True if it was made for this source: a folder may have files of another run."""
        return self.champion_digest == _digest(source)


def made_for(brief: Brief, proposal: Proposal) -> Made:
    """A proposal that answers a brief."""
    champion = [outcome.experiment for outcome in brief.history if outcome.kept][-1]
    return Made(proposal, champion, _digest(brief.champion_source))


def keep_proposal(folder: RunFolder, brief: Brief, proposal: Proposal) -> Made:
    """Writes a proposal down, in place of an older one of the same experiment, where there is room."""
    made = made_for(brief, proposal)
    record = {
        "champion": made.champion,
        "champion_digest": made.champion_digest,
        "proposer": proposal.proposer,
        "hypothesis": proposal.hypothesis,
        "category": proposal.category,
        "cost_dollars": proposal.cost_dollars,
        "constants": dict(proposal.constants),
        "source": proposal.source,
    }
    with suppress(OSError):  # a full disk: the proposal is in hand
        write_whole(folder.llm_dir(brief.experiment) / PROPOSAL_FILE, json.dumps(record, indent=1) + "\n")
    return made


def kept_proposal(folder: RunFolder, experiment: int) -> Made | None:
    """The proposal that was made for an experiment; None if there is none, or nobody can make sense of it."""
    try:
        record: dict[str, Any] = json.loads((folder.llm_path(experiment) / PROPOSAL_FILE).read_text(encoding="utf-8"))
        champion, digest = int(record.pop("champion")), str(record.pop("champion_digest"))
        return Made(Proposal(**record), champion, digest)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def put_aside(folder: RunFolder, experiment: int, name: str) -> None:
    """Gives a proposal that is of no use another name, for people to read."""
    path = folder.llm_path(experiment) / PROPOSAL_FILE
    with suppress(OSError):
        path.replace(path.with_name(name))


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
