"""A place in which agents with a command line are tried."""

import os
import shutil
from pathlib import Path

import pytest
from fakes import SOURCE

from autoresearch_jax.proposers.base import Brief, Examine, Proposal, ProposalFailed
from autoresearch_jax.proposers.briefing import DEFAULT_TOKENS
from autoresearch_jax.proposers.command import Agent, CommandProposer
from autoresearch_jax.types import Metric

BRIEF = Brief(3, 0, Metric("loss"), "# A page\n", (), SOURCE, {}, 1.98, ())
GOOD = "sed -i 's/^LR = 0.5/LR = 0.1/' train_lib.py"
CHANGED = SOURCE.replace("LR = 0.5", "LR = 0.1")


class Place:
    """Where agents are tried: a repository of two files, logs, and a folder for scratch copies."""

    def __init__(self, folder: Path) -> None:
        self.logs, self.scratch, self.repo = folder / "logs", folder / "scratch", folder / "repo"
        self.kept: list[tuple[str, list[Proposal]]] = []  # what was proposed first, and the others
        for path in (self.logs, self.scratch, self.repo / "tools"):
            path.mkdir(parents=True)
        (self.repo / "train_lib.py").write_text("an older text\n")
        (self.repo / "tools" / "notes.txt").write_text("notes\n")
        (self.repo / "other.py").write_text("x = 1\n")

    def proposer(
        self,
        command: str,
        seconds: float = 20,
        editable: str = "train_lib.py",
        examine: Examine | None = None,
        brief_tokens: int = DEFAULT_TOKENS,
        proposals: int = 1,
        **environment: str,
    ) -> CommandProposer:
        def copy_files(target: Path) -> None:
            shutil.copytree(self.repo, target, dirs_exist_ok=True, symlinks=True)

        return CommandProposer(
            Agent(command, seconds, brief_tokens, proposals=proposals),
            editable,
            copy_files,
            lambda number: self.logs,
            {**os.environ, **environment},
            self.scratch,
            examine,
            lambda brief, first, others: self.kept.append((first, others)),
        )

    def propose(self, command: str, seconds: float = 20, **environment: str) -> Proposal:
        proposal = self.proposer(command, seconds, **environment).propose(BRIEF)
        assert list(self.scratch.iterdir()) == []
        return proposal

    def failure(self, command: str, seconds: float = 20) -> str:
        with pytest.raises(ProposalFailed) as failure:
            self.propose(command, seconds)
        assert list(self.scratch.iterdir()) == []
        return str(failure.value)

    @property
    def log(self) -> str:
        return (self.logs / "agent.log").read_text()
