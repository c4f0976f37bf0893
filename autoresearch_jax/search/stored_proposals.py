"""Proposals of agents on disk: what was paid for is not lost between its answer and the ledger."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.search.run_folder import RunFolder, write_whole

PROPOSAL_FILE = "proposal.json"


@dataclass(frozen=True)
class Made:
    """A proposal and what it was made for.

    Attributes:
      proposal: with its proposer's name.
      champion: number of the experiment that was champion when it was asked for.
    """

    proposal: Proposal
    champion: int


def store_proposal(folder: RunFolder, experiment: int, made: Made) -> None:
    """Writes a proposal down, in place of an older one of the same experiment."""
    proposal = made.proposal
    record = {
        "champion": made.champion,
        "proposer": proposal.proposer,
        "hypothesis": proposal.hypothesis,
        "category": proposal.category,
        "cost_dollars": proposal.cost_dollars,
        "constants": dict(proposal.constants),
        "source": proposal.source,
    }
    write_whole(_path(folder, experiment), json.dumps(record, indent=1) + "\n")


def stored_proposal(folder: RunFolder, experiment: int) -> Made | None:
    """The proposal that was made for an experiment; None if there is none, or nobody can make sense of it."""
    try:
        record: dict[str, Any] = json.loads(_path(folder, experiment).read_text(encoding="utf-8"))
        champion = int(record.pop("champion"))
        return Made(Proposal(**record), champion)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_proposal(folder: RunFolder, experiment: int) -> None:
    """Puts a proposal that no longer fits aside, for people to read."""
    path = _path(folder, experiment)
    if path.exists():
        path.replace(path.with_name("stale.json"))


def _path(folder: RunFolder, experiment: int) -> Path:
    return folder.llm_dir(experiment) / PROPOSAL_FILE
