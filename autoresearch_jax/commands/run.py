"""The loop: propose a change of the training file, train, judge, keep or discard, repeat.

    autoresearch run --tag=nov20 --budget_seconds=60 --experiments=20

Every keep is a commit on branch autoresearch/TAG; your checkout stays as it is. The same command again goes on
where the last one ended. Experiments, time and other ends of the run stand in program.md under "Stop when"; the
time counted there is what experiments took, over all the processes that worked on the run.
"""

import os
import sqlite3
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.decision_flags import (
    GREEDY_WARNING,
    decision_settings,
    define_decision_flags,
    make_rule,
)
from autoresearch_jax.commands.progress import TrialProgress
from autoresearch_jax.commands.proposer_flags import (
    ProposerOptions,
    check_proposer,
    define_proposer_flags,
    make_proposer,
    proposer_options,
)
from autoresearch_jax.commands.run_flags import define_run_flags, run_folder
from autoresearch_jax.commands.task_flags import TaskOptions, define_task_flags
from autoresearch_jax.measurement import Scalar
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import format_experiment, format_lines, print_experiments
from autoresearch_jax.search.constants import read_constants
from autoresearch_jax.search.database import LedgerError
from autoresearch_jax.search.examiner import Examiner
from autoresearch_jax.search.interrupts import Interrupts
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.loop import Loop, Parts
from autoresearch_jax.search.program_file import ProgramFile
from autoresearch_jax.search.records import ExperimentRow, Kind, TrialRow, Verdict
from autoresearch_jax.search.run_folder import RunFolder
from autoresearch_jax.search.sequential import SequentialSettings
from autoresearch_jax.search.task import Task
from autoresearch_jax.search.workspace import Workspace


@dataclass(frozen=True)
class Options:
    """What `autoresearch run` was asked to do.

    Attributes:
      tag: name of the run and its branch.
      folder: of the run.
      proposer: who proposes.
      program: program.md.
      editable: the file to edit.
      seed: the source of every seed.
      max_experiments: end after so many, whatever program.md says of experiments.
      decision: what the sequential rule is asked for; None for the greedy one.
    """

    tag: str
    folder: RunFolder
    proposer: ProposerOptions
    program: Path
    editable: Path
    seed: int
    max_experiments: int | None
    decision: SequentialSettings | None


def define_flags(flag_values: flags.FlagValues) -> None:
    define_task_flags(flag_values)
    define_run_flags(flag_values)
    define_decision_flags(flag_values)
    define_proposer_flags(flag_values)
    flags.DEFINE_string("program", "./program.md", "the page of instructions", flag_values=flag_values)
    flags.DEFINE_string("editable", "./train_lib.py", "the file to edit", flag_values=flag_values)
    flags.DEFINE_integer("seed", 0, "the source of every seed", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_integer(
        "experiments",
        None,
        "end after so many, in place of what program.md says of experiments",
        lower_bound=0,
        flag_values=flag_values,
    )


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    options = _options(flag_values)
    folder = options.folder
    workspace = Workspace.of(options.editable, options.tag, folder.workspace, os.environ)
    program = ProgramFile(options.program)
    task_options = TaskOptions.from_flags(flag_values)
    folder.create()
    with folder.lock(), Interrupts().installed() as interrupts, closing(Ledger.open(folder.ledger)) as ledger:
        _check_start(ledger, workspace, program, options)
        task = task_options.make_task(folder.path, options.editable)
        try:
            return run_loop(options, task, workspace, folder, ledger, program, interrupts)
        finally:
            task.close()


def run_loop(
    options: Options,
    task: Task,
    workspace: Workspace,
    folder: RunFolder,
    ledger: Ledger,
    program: ProgramFile,
    interrupts: Interrupts,
) -> int:
    """Runs the loop on any task, and prints what came of it."""
    program.program.check_metric(task.metric.name)
    observer = ConsoleObserver()
    if options.decision is None:
        observer.notice(GREEDY_WARNING)
    examiner = Examiner(task, folder)
    parts = Parts(
        task=task,
        proposer=make_proposer(options.proposer, workspace, folder, os.environ, examiner.examine, observer.notice),
        examiner=examiner,
        rule=make_rule(options.decision, task.metric),
        ledger=ledger,
        workspace=workspace,
        folder=folder,
        program=program,
        observer=observer,
        interrupts=interrupts,
    )
    with closing(observer):
        try:
            reason = Loop(parts, options.seed, options.max_experiments, options.proposer.asking).run()
        except sqlite3.Error as error:
            raise LedgerError(f"{folder.ledger}: {error}; the same command goes on from here") from error
    print()
    print_experiments(ledger.experiments(), task.metric, sys.stdout)
    print()
    figures: dict[str, Scalar] = {
        **summarize_run(ledger, folder).lines(),
        "branch": workspace.branch,
        "ledger": str(folder.ledger),
        "results": str(folder.results),
        "ended": reason,
    }
    print(format_lines(figures))
    return 0


class ConsoleObserver:
    """Prints a line an experiment, and shows how far the current one is below."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._progress: TrialProgress | None = None

    def notice(self, text: str) -> None:
        """Prints what the user should know, on standard error; in whatever thread."""
        if threading.current_thread() is threading.main_thread():
            self.close()
        print(f"autoresearch run: {text}", file=sys.stderr, flush=True)

    def begins(self, experiment: ExperimentRow) -> None:
        """Names the experiment in the live line."""
        self._show(experiment, "")
        self.progress({"phase": "prepare"})

    def measures(self, experiment: ExperimentRow, trial: TrialRow, number: int) -> None:
        """Names the trial in the live line."""
        whose = "" if trial.experiment == experiment.id else "champion's "
        self._show(experiment, f"{whose}run {number}  ")

    def _show(self, experiment: ExperimentRow, words: str) -> None:
        self.close()
        prefix = f"{experiment.id:>4}  {experiment.hypothesis}  {words}"
        self._progress = self._stack.enter_context(TrialProgress(prefix))

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """Shows how far the trial is."""
        if self._progress is not None:
            self._progress(report)

    def ends(self, experiment: ExperimentRow) -> None:
        """Prints what came of an experiment."""
        self.close()
        print(format_experiment(experiment), flush=True)
        if experiment.kind is Kind.BASELINE and experiment.decision is Verdict.KEEP:
            print(f"      {experiment.reason}", flush=True)

    def close(self) -> None:
        """Takes the live line away."""
        self._stack.close()


def _options(flag_values: flags.FlagValues) -> Options:
    return Options(
        folder=run_folder(flag_values),
        tag=flag_values.tag,
        proposer=proposer_options(flag_values, os.environ),
        program=Path(flag_values.program),
        editable=Path(flag_values.editable),
        seed=flag_values.seed,
        max_experiments=flag_values.experiments,
        decision=decision_settings(flag_values),
    )


def _check_start(ledger: Ledger, workspace: Workspace, program: ProgramFile, options: Options) -> None:
    """Finds what would fail after minutes of work before any of it is done."""
    champion = summarize_run(ledger).champion
    if champion is None:
        workspace.require_unused_branch()
        source = workspace.baseline().source
    else:
        source = ledger.source(champion.id)
    check_proposer(options.proposer, options.editable, program.program, source, os.environ)
    try:
        constants = read_constants(source) if champion is None else champion.constants
    except SyntaxError:
        return  # the task says it better
    for warning in program.program.warnings(constants):
        print(f"autoresearch run: {warning}", file=sys.stderr)
