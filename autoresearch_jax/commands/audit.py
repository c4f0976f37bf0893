"""Is the gain of a run real? Trains its baseline and its champion on fresh seeds and scores both on the holdout.

    autoresearch audit --tag=nov20 --budget_seconds=60
    autoresearch audit --tag=nov20 --budget_seconds=60 --ablate
    autoresearch audit --tag=nov20 --budget_seconds=60 --transfer=8

Give it the run's own flags. `--ablate` measures the champion without each of its kept changes, `--transfer=DEPTH` both
at another depth with a longer budget; neither reads the holdout. `--certify` takes doubtful edits out again: what does
not earn its place is reverted by a commit on the run's branch. Each reading of the holdout is counted. An audit that
was cut short is taken up by the same command. How to read it: docs/auditing.md.
"""

import math
import os
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from absl import flags

from autoresearch_jax.audit.audits import Audits, kept_experiments
from autoresearch_jax.audit.findings import AuditFindings
from autoresearch_jax.commands.certify import certify
from autoresearch_jax.commands.progress import TrialProgress
from autoresearch_jax.commands.run_flags import define_run_flags, run_folder
from autoresearch_jax.commands.task_flags import TaskOptions, define_task_flags
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import INTERRUPTED
from autoresearch_jax.engine.run_folder import RunFolder, check_settings, task_settings
from autoresearch_jax.engine.state import calibrate
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import Task
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.report.audits import format_findings
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import format_lines, print_experiments
from autoresearch_jax.types import Budget, Scalar

DEFAULT_RUNS = 6
FEWEST_RUNS = 2  # a difference that was measured once has no spread
DEFAULT_TRANSFER_BUDGET = 2.0  # times the run's


class AuditInterruptedError(UserError):
    """Ctrl-C or SIGTERM; what was measured so far is kept."""

    exit_status = 130  # 128 + SIGINT, as of any command that Ctrl-C ended


@dataclass(frozen=True)
class Options:
    """What `autoresearch audit` was asked to do.

    Attributes:
      folder: of the run.
      runs: fresh seeds for each text.
      ablate: measure the champion without each of its changes.
      certify: take doubtful edits out again.
      transfer: depth to measure at; None for the run's own.
      transfer_factor: what the run's budget is multiplied by there.
      editable: the training file as it was named; None for the run's.
      format: "text" or "json".
    """

    folder: RunFolder
    runs: int
    ablate: bool
    certify: bool
    transfer: int | None
    transfer_factor: float
    editable: str | None
    format: str


def define_flags(flag_values: flags.FlagValues) -> None:
    define_task_flags(flag_values)
    define_run_flags(flag_values)
    flags.DEFINE_string("editable", None, "the training file (default: the run's)", flag_values=flag_values)
    flags.DEFINE_integer("runs", DEFAULT_RUNS, "fresh seeds that each text is trained with", flag_values=flag_values)
    flags.DEFINE_boolean(
        "ablate", False, "measure the champion without each of its kept changes instead", flag_values=flag_values
    )
    flags.DEFINE_boolean(
        "certify",
        False,
        "take doubtful edits out again instead: those that are no gain are reverted on the run's branch",
        flag_values=flag_values,
    )
    flags.DEFINE_string("program", "./program.md", "the page of instructions, for --certify", flag_values=flag_values)
    flags.DEFINE_integer(
        "transfer",
        None,
        "measure baseline and champion with this DEPTH and a longer budget instead",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "transfer_budget",
        DEFAULT_TRANSFER_BUDGET,
        "what the run's budget is multiplied by for --transfer",
        flag_values=flag_values,
    )
    flags.DEFINE_enum("format", "text", ["text", "json"], "how to print it", flag_values=flag_values)


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    options = _options(flag_values)
    folder = options.folder
    if not folder.ledger.is_file():
        raise LedgerError(f"{folder.ledger}: no ledger there; check --tag and --run_dir")
    task_options = TaskOptions.from_flags(flag_values)
    with folder.lock(), Interrupts().installed() as interrupts, closing(Ledger.open(folder.ledger)) as ledger:
        editable = _editable(ledger, options)
        try:
            kept_experiments(ledger)
        except UserError as error:
            raise UserError(f"{folder.path}: {error}") from error
        own_budget = task_options.budget
        if options.transfer is not None:
            task_options = replace(task_options, budget=longer(own_budget, options.transfer_factor))
        with closing(task_options.make_task(folder.path, editable)) as task:
            _check_settings(ledger, task, own_budget, folder)
            calibrate(ledger, folder, task)
            if options.certify:
                named = Path(options.editable or f"./{editable.name}")
                ended = certify(task, ledger, folder, named, Path(flag_values.program), interrupts)
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
    with closing(ConsoleObserver()) as observer:
        audits = Audits(task, ledger, options.folder, interrupts, observer)
        try:
            if options.ablate:
                return audits.ablation(options.runs, Git(options.folder.path, os.environ).merge)
            if options.transfer is not None:
                return audits.transfer(options.runs, options.transfer, options.transfer_factor)
            return audits.holdout(options.runs)
        except KeyboardInterrupt as interrupt:
            raise AuditInterruptedError("interrupted; the same command goes on from here") from interrupt
        except sqlite3.Error as error:
            raise LedgerError(f"{options.folder.ledger}: {error}; the same command goes on from here") from error


def longer(budget: Budget, factor: float) -> Budget:
    """A budget so many times as long; whole steps, rounded up."""
    if budget.seconds is not None:
        return Budget(seconds=budget.seconds * factor)
    assert budget.steps is not None
    return Budget(steps=math.ceil(budget.steps * factor))


class ConsoleObserver:
    """Shows what is being measured, and how far it is, in one live line."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._progress: TrialProgress | None = None

    def prepares(self, subject: str) -> None:
        """Names the text in the live line."""
        self._show(f"{subject}  ")
        self.progress({"phase": "prepare"})

    def measures(self, subject: str, number: int, total: int) -> None:
        """Names the trial in the live line."""
        self._show(f"trial {number}/{total}  {subject}  ")

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """Shows how far the trial is."""
        if self._progress is not None:
            self._progress(report)

    def close(self) -> None:
        """Takes the live line away."""
        self._stack.close()

    def _show(self, prefix: str) -> None:
        self.close()
        self._progress = self._stack.enter_context(TrialProgress(prefix))


def _options(flag_values: flags.FlagValues) -> Options:
    factor = flag_values.transfer_budget
    if flag_values.runs < FEWEST_RUNS:
        raise UsageError(f"--runs={flag_values.runs}: at least {FEWEST_RUNS}, or no spread is to be seen")
    if flag_values.ablate + flag_values.certify + (flag_values.transfer is not None) > 1:
        raise UsageError("--ablate, --certify and --transfer ask different questions: one at a time")
    if flag_values["transfer_budget"].present and flag_values.transfer is None:
        raise UsageError("--transfer_budget is for --transfer: name a depth, such as --transfer=8")
    if not 1 < factor < math.inf:
        raise UsageError(f"--transfer_budget={factor:g}: a factor above 1, such as 2")
    return Options(
        folder=run_folder(flag_values),
        runs=flag_values.runs,
        ablate=flag_values.ablate,
        certify=flag_values.certify,
        transfer=flag_values.transfer,
        transfer_factor=factor,
        editable=flag_values.editable,
        format=flag_values.format,
    )


def _editable(ledger: Ledger, options: Options) -> Path:
    """The training file, of which only the name is used: all texts are in the ledger.

    Raises:
      UserError: the ledger is of no run.
      UsageError: another file was named.
    """
    settings = ledger.settings()
    if "editable" not in settings:
        raise UserError(f"{options.folder.path}: holds single trials and no run; name one with --tag")
    own = Path(str(settings["editable"]))
    if options.editable is not None and Path(options.editable).name != own.name:
        raise UsageError(f"--editable={options.editable}: the run's training file is {own}")
    return own


def _check_settings(ledger: Ledger, task: Task, own_budget: Budget, folder: RunFolder) -> None:
    """Refuses a task with another dataset or budget: its scores could not be compared with the run's."""
    now = {**task_settings(task), "budget_seconds": own_budget.seconds, "budget_steps": own_budget.steps}
    check_settings(ledger.settings(), now, folder.path)
