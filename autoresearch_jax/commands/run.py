"""The loop: propose a change of the training file, train, judge, keep or discard, repeat.

    autoresearch run --tag=nov20 --budget_seconds=60 --experiments=20

Every keep is a commit on branch autoresearch/TAG; your checkout stays as it is. The same command again goes on
where the last one ended. Experiments, time and other ends of the run stand in program.md under "Stop when"; the
time counted there is what experiments took, over all the processes that worked on the run.
"""

import os
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.console import ConsoleObserver, say
from autoresearch_jax.commands.constants_flag import check_began_with, constants_of, define_constants_flag
from autoresearch_jax.commands.decision_flags import (
    GREEDY_WARNING,
    decision_settings,
    define_decision_flags,
    make_certification,
    make_pruning,
    make_rule,
)
from autoresearch_jax.commands.keeping_flags import define_keeping_flags, keeping_options, min_free_bytes
from autoresearch_jax.commands.proposer_flags import (
    ProposerOptions,
    check_proposer,
    define_proposer_flags,
    make_proposer,
    proposer_options,
)
from autoresearch_jax.commands.run_flags import define_run_flags, run_folder
from autoresearch_jax.commands.task_flags import TaskOptions, define_task_flags
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import LineageSettings
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import INTERRUPTED, Loop
from autoresearch_jax.engine.measuring import Parts
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import Task
from autoresearch_jax.engine.training_file import read_constants
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.executors.local import LocalExecutor
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import format_lines, print_experiments
from autoresearch_jax.snapshots.retention import Keeping, Retention
from autoresearch_jax.snapshots.store import SnapshotStore
from autoresearch_jax.types import Scalar


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
      constants: that the run starts with, where the file to edit has others.
      max_experiments: end after so many, whatever program.md says of experiments.
      decision: settings of the lineage rule; None for the greedy one.
      certification: what it may spend; None for nothing.
      keeping: whose snapshots are kept beside those of champions.
      min_free_bytes: free space on the disk that the run leaves.
      pruning: when hopeless trials are stopped; None for never.
    """

    tag: str
    folder: RunFolder
    proposer: ProposerOptions
    program: Path
    editable: Path
    seed: int
    max_experiments: int | None
    decision: LineageSettings | None
    keeping: Keeping = field(default_factory=Keeping)
    min_free_bytes: int = 0
    pruning: Pruning | None = None
    certification: CertificationSettings | None = None
    constants: Mapping[str, Scalar] = field(default_factory=dict)


def define_flags(flag_values: flags.FlagValues) -> None:
    define_task_flags(flag_values)
    define_run_flags(flag_values)
    define_decision_flags(flag_values)
    define_proposer_flags(flag_values)
    define_keeping_flags(flag_values)
    define_constants_flag(flag_values)
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
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts().installed())
        try:
            with interrupts.allowed():
                ground = _prepare_ground(options, TaskOptions.from_flags(flag_values), stack)
        except KeyboardInterrupt:
            print(format_lines({"ended": INTERRUPTED}))
            return 0
        return run_loop(options, ground, interrupts)


@dataclass(frozen=True)
class Ground:
    """What a run stands on, open and checked."""

    task: Task
    workspace: Workspace
    ledger: Ledger
    program: ProgramFile


def _prepare_ground(options: Options, task_options: TaskOptions, stack: ExitStack) -> Ground:
    """Opens all that a run needs, and refuses what cannot work; it is closed with the stack."""
    folder = options.folder
    workspace = Workspace.of(options.editable, options.tag, folder.workspace, os.environ, options.constants)
    program = ProgramFile(options.program)
    folder.require_ledger()
    is_new = not folder.ledger.exists()
    if is_new:  # before there is anything of it
        _check_start(None, workspace, program, options)
    if options.keeping.place is not None:
        SnapshotStore(options.keeping.place).check()
    folder.create()
    stack.enter_context(folder.lock())
    task = task_options.make_task(folder.path, options.editable)
    stack.callback(task.close)
    ledger = stack.enter_context(closing(Ledger.open(folder.ledger)))
    if not is_new:
        _check_start(ledger, workspace, program, options)
    return Ground(task, workspace, ledger, program)


def run_loop(options: Options, ground: Ground, interrupts: Interrupts) -> int:
    """Runs the loop on any task, and prints what came of it."""
    task, workspace, folder = ground.task, ground.workspace, options.folder
    ground.program.program.check_metric(task.metric.name)
    observer = ConsoleObserver()
    if options.decision is None:
        observer.notice(GREEDY_WARNING)
    precheck = Precheck(task, folder)
    parts = Parts(
        task=task,
        executor=LocalExecutor(task.measure),
        proposer=make_proposer(options.proposer, workspace, folder, os.environ, precheck.check, observer.notice),
        precheck=precheck,
        rule=make_rule(options.decision, task.metric),
        ledger=ground.ledger,
        workspace=workspace,
        folder=folder,
        program=ground.program,
        observer=observer,
        interrupts=interrupts,
        disk=DiskGuard(folder, options.min_free_bytes),
        retention=Retention(ground.ledger, folder, task.metric, options.keeping, interrupts, observer.notice),
        pruning=options.pruning,
        certification=options.certification,
    )
    with closing(observer):
        try:
            reason = Loop(parts, options.seed, options.max_experiments, options.proposer.asking).run()
        except sqlite3.Error as error:
            raise LedgerError(f"{folder.ledger}: {error}; the same command goes on from here") from error
    say("", sys.stdout)
    print_experiments(ground.ledger, task.metric, sys.stdout)
    print()
    figures: dict[str, Scalar] = {
        **summarize_run(ground.ledger, folder).lines(),
        "branch": workspace.branch,
        "ledger": str(folder.ledger),
        "results": str(folder.results),
        "ended": reason,
    }
    print(format_lines(figures))
    return 0


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
        keeping=keeping_options(flag_values),
        min_free_bytes=min_free_bytes(flag_values),
        pruning=make_pruning(flag_values),
        certification=make_certification(flag_values),
        constants=constants_of(flag_values),
    )


def _check_start(ledger: Ledger | None, workspace: Workspace, program: ProgramFile, options: Options) -> None:
    """Finds what would fail after minutes of work before any of it is done."""
    if ledger is not None:
        check_began_with(ledger.experiments(), options.constants)
    champion = None if ledger is None else summarize_run(ledger).champion
    if ledger is None or champion is None:
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
