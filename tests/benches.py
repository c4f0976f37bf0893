"""A git repository with a training file and a page, and a loop on a fake task in it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE, FakeTask, Silent
from repositories import make_repository

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import DecisionRule, GreedyRule
from autoresearch_jax.engine.briefs import Asking
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import Loop
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.records import ExperimentRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.executors.base import Executor, LocalExecutor
from autoresearch_jax.proposers.base import Proposer
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.snapshots.retention import Keeping, Retention


def git(folder: Path, *words: str) -> str:
    """Standard output of git, as the user would call it."""
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@dataclass
class Observed(Silent):
    """An observer that remembers."""

    notices: list[str] = field(default_factory=list)
    at_start: list[str] = field(default_factory=list)  # what ends the run
    ended: list[ExperimentRow] = field(default_factory=list)
    reports: int = 0

    def notice(self, text: str) -> None:
        (self.at_start if text.startswith("what ends the run: ") else self.notices).append(text)

    def progress(self, trial: int, report: object) -> None:
        self.reports += 1

    def ends(self, experiment: ExperimentRow) -> None:
        self.ended.append(experiment)


@dataclass
class Bench:
    """A repository, and loops that are made in it anew, as after a kill."""

    repo: Path
    ledgers: ExitStack
    recorder: Observed = field(default_factory=Observed)
    tag: str = "night"
    editable: str = "train_lib.py"
    asset: AssetKind = TRAINING_FILE

    def with_tag(self, tag: str) -> "Bench":
        """The same repository, and another run."""
        return replace(self, tag=tag)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.repo / "runs" / self.tag)

    @property
    def program(self) -> Path:
        return self.repo / "program.md"

    def ledger(self) -> Ledger:
        ledger = Ledger.open(self.folder.ledger)
        self.ledgers.callback(ledger.close)
        return ledger

    def workspace(self, tag: str | None = None) -> Workspace:
        place = self.repo / self.editable, tag or self.tag, self.folder.workspace
        return Workspace.of(*place, os.environ, asset=self.asset)

    def loop(
        self,
        task: FakeTask | None = None,
        proposer: Proposer | None = None,
        rule: DecisionRule | None = None,
        max_experiments: int | None = None,
        seed: int = 0,
        asking: Asking | None = None,
        first_wait_seconds: float = 0.0,
        precheck: Precheck | None = None,
        keeping: Keeping | None = None,
        disk: DiskGuard | None = None,
        pruning: Pruning | None = None,
        certification: CertificationSettings | None = None,
        executor: Executor | None = None,
    ) -> Loop:
        task = task or FakeTask(asset=self.asset)
        self.folder.create()
        ledger, interrupts = self.ledger(), Interrupts()
        parts = Parts(
            task=task,
            executor=executor or LocalExecutor(task.measure),
            proposer=proposer or ConstantsProposer(),
            precheck=precheck or Precheck(task, self.folder),
            rule=rule or GreedyRule(task.metric),
            ledger=ledger,
            workspace=self.workspace(),
            folder=self.folder,
            program=ProgramFile(self.program, settle_seconds=0),
            observer=self.recorder,
            interrupts=interrupts,
            disk=disk or DiskGuard(self.folder, 0),
            retention=Retention(
                ledger, self.folder, task.metric, keeping or Keeping(), interrupts, self.recorder.notice
            ),
            pruning=pruning,
            certification=certification,
        )
        return Loop(parts, seed, max_experiments, asking, first_wait_seconds)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A git repository with one commit, a local identity, and a file of the user's that is not committed."""
    folder = tmp_path / "repo"
    make_repository(folder, SOURCE, PROGRAM)
    git(folder, "config", "user.name", "Researcher")
    git(folder, "config", "user.email", "researcher@example.org")
    (folder / "notes.txt").write_text("mine\n")
    return folder


@pytest.fixture
def bench(repo: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(repo, stack)


@pytest.fixture
def twin(repo: Path, tmp_path: Path) -> Iterator[Bench]:
    """A bench in a copy of the repository."""
    with ExitStack() as stack:
        yield Bench(shutil.copytree(repo, tmp_path / "twin"), stack)


@pytest.fixture
def run_git() -> Callable[..., str]:
    return git
