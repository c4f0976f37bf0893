"""`autoresearch audit --certify`: takes doubtful edits of a run that is over out again, and certifies the others."""

import os
from contextlib import closing
from pathlib import Path

from autoresearch_jax.commands.console import ConsoleObserver
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import LineageRule, LineageSettings
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import Loop
from autoresearch_jax.engine.measuring import Parts
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import Task
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.errors import UsageError
from autoresearch_jax.executors.local import LocalExecutor
from autoresearch_jax.proposers.base import Brief, Proposal, SpaceExhausted


class _Nobody:
    """Proposes nothing."""

    name = "nobody"

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`."""
        return False

    def close(self) -> None:
        """See `Proposer.close`."""

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`."""
        raise SpaceExhausted("certification proposes nothing")


def certify(
    task: Task,
    ledger: Ledger,
    folder: RunFolder,
    editable: Path,
    program: Path,
    interrupts: Interrupts,
) -> str:
    """Certifies a run's champion; returns one line that says how it ended.

    Args:
      task: the run's, with its own budget.
      ledger: the run's.
      folder: the run's.
      editable: the training file, in its repository.
      program: program.md.
      interrupts: which cut a trial short.

    Raises:
      UsageError: the run decides greedily.
      UserError: it cannot be certified.
    """
    settings = ledger.settings()
    if settings.get("decision") != "lineage":
        raise UsageError(
            f"--certify: {folder.path} decides by --decision={settings.get('decision')}, which has no model of scores"
        )
    rule = LineageRule(task.metric, LineageSettings.of(settings))
    share = float(str(settings.get("certify_share") or CertificationSettings.share))
    with closing(ConsoleObserver()) as observer:
        parts = Parts(
            task=task,
            executor=LocalExecutor(task.measure),
            proposer=_Nobody(),
            precheck=Precheck(task, folder),
            rule=rule,
            ledger=ledger,
            workspace=Workspace.of(editable, folder.path.name, folder.workspace, os.environ),
            folder=folder,
            program=ProgramFile(program),
            observer=observer,
            interrupts=interrupts,
            disk=DiskGuard(folder, 0),
            certification=CertificationSettings(share=share),
        )
        return Loop(parts, int(settings["seed"] or 0)).certify()
