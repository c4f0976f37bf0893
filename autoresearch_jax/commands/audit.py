"""Is the gain of a run real? Trains its baseline and its champion on fresh seeds and scores both on the holdout.

    autoresearch audit --tag=nov20
    autoresearch audit --tag=nov20 --ablate
    autoresearch audit --tag=nov20 --transfer=8

Dataset, budget and the rest are the run's. `--ablate` measures the champion without each of its kept changes,
`--transfer=DEPTH` both at another depth with a longer budget; neither reads the holdout. `--certify` takes doubtful
edits out again: what does not earn its place is reverted by a commit on the run's branch. Each reading of the holdout
is counted. An audit that was cut short is taken up by the same command. How to read it: docs/guide/audit.md.
"""

import math
import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_jax.audit.audits import Audits, kept_experiments
from autoresearch_jax.audit.findings import FEWEST_PAIRS, AuditFindings
from autoresearch_jax.commands.console import AuditLine
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import InRun, format_option, option
from autoresearch_jax.commands.run_observer import RunObserver
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import LineageRule, LineageSettings
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import INTERRUPTED, Loop
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.run_folder import RunFolder, check_settings, task_settings
from autoresearch_jax.engine.state import calibrate
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import Task
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.executors.base import LocalExecutor
from autoresearch_jax.proposers.replay import ReplayProposer
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import format_findings, format_lines, print_experiments
from autoresearch_jax.types import Budget

TAKES_RUN_FLAGS = True
DEFAULT_RUNS = 6
DEFAULT_TRANSFER_BUDGET = 2.0  # times the run's


class AuditInterruptedError(UserError):
    """Ctrl-C or SIGTERM; what was measured so far is kept."""

    exit_status = 130  # 128 + SIGINT, as of any command that Ctrl-C ended


@dataclass(frozen=True)
class Options:
    """What `autoresearch audit` was asked to do."""

    task: TaskOptions
    where: FolderOptions
    editable: Path | None = option(None, "the training file (default: the run's)", in_run=InRun.BOUND)
    runs: int = option(
        DEFAULT_RUNS, "fresh seeds that each text is trained with", least=FEWEST_PAIRS, hint="or there is no spread"
    )
    ablate: bool = option(False, "measure the champion without each of its kept changes instead")
    certify: bool = option(
        False, "take doubtful edits out again instead: those that are no gain are reverted on the run's branch"
    )
    program: Path = option(Path("./program.md"), "the page of instructions, for --certify", in_run=InRun.FREE)
    transfer: int | None = option(
        None, "measure baseline and champion with this DEPTH and a longer budget instead", least=1
    )
    transfer_budget: float | None = option(
        None,
        f"what the run's budget is multiplied by for --transfer (default: {DEFAULT_TRANSFER_BUDGET:g})",
        above=1,
        hint="such as 2",
    )
    format: str = format_option()

    def __post_init__(self) -> None:
        if self.ablate + self.certify + (self.transfer is not None) > 1:
            raise UsageError("--ablate, --certify and --transfer ask different questions: one at a time")
        if self.transfer_budget is not None and self.transfer is None:
            raise UsageError("--transfer_budget is for --transfer: name a depth, such as --transfer=8")

    @property
    def transfer_factor(self) -> float:
        """What the run's budget is multiplied by for --transfer."""
        return DEFAULT_TRANSFER_BUDGET if self.transfer_budget is None else self.transfer_budget


def run(options: Options, arguments: list[str]) -> int:
    """Makes the audit, and prints what it found."""
    folder, task_options = options.where.existing, options.task
    with folder.lock(), Interrupts().installed() as interrupts, closing(Ledger.open(folder.ledger)) as ledger:
        editable = _editable(ledger, options)
        try:
            kept_experiments(ledger)
        except UserError as error:
            raise UserError(f"{folder.path}: {error}") from error
        if options.transfer is not None:
            budget = longer(task_options.budget, options.transfer_factor)
            task_options = replace(task_options, budget_seconds=budget.seconds, budget_steps=budget.steps)
        with closing(task_options.make_task(folder.path, editable)) as task:
            _check_settings(ledger, task, options.task.budget, folder)
            calibrate(ledger, folder, task)
            if options.certify:
                ended = certify(options, task, ledger, editable, interrupts)
                print_experiments(ledger, task.metric, sys.stdout)
                print(format_lines({**summarize_run(ledger, folder).lines(), "ended": ended}))
                return 130 if ended == INTERRUPTED else 0
            findings = audit(options, task, ledger, interrupts)
    print(format_findings(findings, options.format))
    return 0 if findings.is_measured else 1


def audit(options: Options, task: Task, ledger: Ledger, interrupts: Interrupts) -> AuditFindings:
    """Makes the audit that was asked for on any task.

    Raises:
      AuditInterruptedError: the process was asked to end.
      UserError: it cannot be made.
    """
    with closing(AuditLine()) as observer:
        audits = Audits(task, ledger, options.where.folder, interrupts, observer)
        try:
            if options.ablate:
                return audits.ablation(options.runs, Git(options.where.folder.path, os.environ).merge)
            if options.transfer is not None:
                return audits.transfer(options.runs, options.transfer, options.transfer_factor)
            return audits.holdout(options.runs)
        except KeyboardInterrupt as interrupt:
            raise AuditInterruptedError("interrupted; the same command goes on from here") from interrupt
        except sqlite3.Error as error:
            raise LedgerError(f"{options.where.folder.ledger}: {error}; the same command goes on from here") from error


def longer(budget: Budget, factor: float) -> Budget:
    """A budget multiplied by a factor; whole steps, rounded up."""
    if budget.seconds is not None:
        return Budget(seconds=budget.seconds * factor)
    assert budget.steps is not None
    return Budget(steps=math.ceil(budget.steps * factor))


def certify(options: Options, task: Task, ledger: Ledger, editable: Path, interrupts: Interrupts) -> str:
    """Takes doubtful edits of a run that is over out again, certifies the others; returns one line: how it ended.

    Raises:
      UsageError: the run decides greedily.
      UserError: it cannot be certified.
    """
    settings, folder = ledger.settings(), options.where.folder
    if settings.get("decision") != "lineage":
        raise UsageError(
            f"--certify: {folder.path} decides by --decision={settings.get('decision')}, which has no model of scores"
        )
    share = float(str(settings.get("certify_share") or CertificationSettings.share))
    named = options.editable or Path(editable.name)
    with closing(RunObserver(folder, ledger, task.metric)) as observer:
        parts = Parts(
            task=task,
            executor=LocalExecutor(task.measure),
            proposer=ReplayProposer((), lambda *words: None),  # certification proposes nothing
            precheck=Precheck(task, folder),
            rule=LineageRule(task.metric, LineageSettings.of(settings)),
            ledger=ledger,
            workspace=Workspace.of(named, folder.path.name, folder.workspace, os.environ),
            folder=folder,
            program=ProgramFile(options.program),
            observer=observer,
            interrupts=interrupts,
            disk=DiskGuard(folder, 0),
            certification=CertificationSettings(share=share),
        )
        return Loop(parts, int(settings["seed"] or 0)).certify()


def _editable(ledger: Ledger, options: Options) -> Path:
    """The training file, of which only the name is used: all texts are in the ledger.

    Raises:
      UserError: the ledger is of no run.
      UsageError: another file was named.
    """
    settings = ledger.settings()
    if "editable" not in settings:
        raise UserError(f"{options.where.folder.path}: holds single trials and no run; name one with --tag")
    own = Path(str(settings["editable"]))
    if options.editable is not None and options.editable.name != own.name:
        raise UsageError(f"--editable={options.editable}: the run's training file is {own}")
    return own


def _check_settings(ledger: Ledger, task: Task, own_budget: Budget, folder: RunFolder) -> None:
    """Refuses a task with another dataset or budget: its scores could not be compared with the run's."""
    now = {**task_settings(task), "budget_seconds": own_budget.seconds, "budget_steps": own_budget.steps}
    check_settings(
        ledger.settings(), now, folder.path, "an audit needs the run's own dataset, device and versions, as they were"
    )
