"""The loop: propose a change of one file, measure it, keep or discard, repeat.

    autoresearch run --tag=nov20 --budget_seconds=60 --experiments=20

Every keep is a commit on branch autoresearch/TAG; your checkout stays as it is. `autoresearch run --tag=TAG` goes on
where the last one ended, with the flags that it had, but for those that are typed. Experiments, time and other ends of
the run stand in program.md under "Stop when"; the time counted there is what experiments took, over all the processes
that worked on the run.
"""

import os
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError
from autoresearch_jax.commands.console import drop_output, print_notice
from autoresearch_jax.commands.executors import open_executor
from autoresearch_jax.commands.lineages import run_lineages
from autoresearch_jax.commands.proposer_options import BY_HAND, ProposerSettings
from autoresearch_jax.commands.proposers import (
    check_command,
    check_dollars,
    check_proposer,
    make_proposer,
    model_notice,
    try_agent,
)
from autoresearch_jax.commands.run_flags import flags_to_keep, require_began_with
from autoresearch_jax.commands.run_observer import RunObserver
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.commands.swarm_beside import open_background
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import INTERRUPTED, Loop
from autoresearch_jax.engine.observers import Observers
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.plan import SEED_BITS
from autoresearch_jax.engine.program import ProgramError, ProgramFile
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.run_findings import Adoption
from autoresearch_jax.engine.run_folder import Lineages
from autoresearch_jax.engine.state import settled_constants
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import Observer, Task
from autoresearch_jax.engine.workspace import Workspace, made_up_run
from autoresearch_jax.findings.format import device_class
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import format_lines, print_experiments, print_lines
from autoresearch_jax.report.tensorboard import TensorBoard, require_tensorboard
from autoresearch_jax.snapshots.retention import Retention
from autoresearch_jax.snapshots.store import SnapshotStore
from autoresearch_jax.swarm.membership import SwarmFolder
from autoresearch_jax.types import Scalar

GREEDY_WARNING = "--decision=greedy keeps each candidate that scores better in one run: part of its gain is luck"
TAKES_RUN_FLAGS = True
Options = RunOptions  # the name that every command's options have


def run(options: Options, arguments: list[str]) -> int:
    """Runs the loop until its end."""
    if options.tensorboard:
        require_tensorboard()
    if options.swarm:
        SwarmFolder(Path(options.where.run_dir)).read_settings()  # refuses a folder without `swarm join`
    proposer = options.proposer.settings(options.where, os.environ, swarm=options.swarm)
    if options.lineages > 1:
        return run_lineages(options, options.lineages, adopts=proposer.tries_findings)
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts().installed())
        try:
            with interrupts.allowed():
                opened = open_run(options, proposer, stack)
        except KeyboardInterrupt:
            print(format_lines({"ended": INTERRUPTED}))
            return 0
        return run_loop(options, proposer, opened, interrupts)


@dataclass(frozen=True)
class OpenRun:
    """Task, workspace, ledger and page of a run, opened and checked."""

    task: Task
    workspace: Workspace
    ledger: Ledger
    program: ProgramFile


def open_run(options: Options, proposer: ProposerSettings, stack: ExitStack) -> OpenRun:
    """Opens all that a run needs and refuses what cannot work; the stack closes it."""
    folder = options.where.folder
    options.task.require()
    asset = options.task.asset
    workspace = Workspace.of(
        *(options.editable, folder.path.name, folder.workspace, os.environ, options.start.constants), asset
    )
    program = ProgramFile(options.program, lambda page: check_dollars(proposer, page))
    folder.require_ledger()
    is_new = not folder.ledger.exists()
    if is_new:  # before there is anything of it
        Lineages.read(folder)  # a file of theirs that is damaged is not written beside
        _check_start(None, workspace, program, options, proposer)
    place = options.snapshots.keeping(folder.path.name).place
    if place is not None:
        SnapshotStore(place).check()
    folder.create()
    stack.enter_context(folder.lock())
    task = options.task.make_task(folder.path, options.editable)
    stack.callback(task.close)
    ledger = stack.enter_context(closing(Ledger.open(folder.ledger)))
    if not is_new:
        _check_start(ledger, workspace, program, options, proposer)
    return OpenRun(task, workspace, ledger, program)


def run_loop(options: Options, proposer: ProposerSettings, opened: OpenRun, interrupts: Interrupts) -> int:
    """Runs the loop on any task, and prints what came of it."""
    task, workspace, folder = opened.task, opened.workspace, options.where.folder
    console = RunObserver(folder, opened.ledger, task.metric)
    if options.decision.decision == "greedy":
        console.notice(GREEDY_WARNING)
    if (notice := model_notice(proposer, opened.program.program, os.environ)) is not None:
        console.notice(notice)
    with opened_loop(options, proposer, opened, interrupts, console) as loop:
        reason = loop.run()
    summary = summarize_run(opened.ledger, folder)
    figures: dict[str, Scalar] = {
        **summary.lines(),
        **({} if summary.champion is None else {"branch": workspace.branch}),
        "ledger": str(folder.ledger),
        "results": str(folder.results),
        "ended": reason,
    }
    try:
        print()
        print_experiments(opened.ledger, task.metric, sys.stdout)
        print()
        print_lines(figures, sys.stdout)
        sys.stdout.flush()
    except OSError:  # the terminal or the reader is gone
        drop_output(sys.stdout)
    return 0


@contextmanager
def opened_loop(
    options: Options, proposer: ProposerSettings, opened: OpenRun, interrupts: Interrupts, console: RunObserver
) -> Iterator[Loop]:
    """The loop of a run on any task; the console is closed at the end.

    Raises:
      LedgerError: the ledger fails.
      UserError: the page or the proposer does not fit the task.
    """
    task, workspace, folder = opened.task, opened.workspace, options.where.folder
    opened.program.program.check_metric(task.metric.name)
    watchers, further = dict[str, Observer](), ExitStack()
    if options.tensorboard:
        board = TensorBoard(folder.tensorboard, opened.ledger, task.metric)
        watchers[f"--tensorboard: {folder.tensorboard}"] = further.enter_context(closing(board))
    claimant: Callable[[str], str | None] | None = None
    if options.swarm:
        background, claims = open_background(options.where, options.proposer.findings, console.notice)
        further.enter_context(closing(background))
        claimant = partial(claims.holder, fingerprint=task.fingerprint, device_class=device_class(task.terms))
    adoption: Adoption | None = None
    if proposer.tries_findings and (lineages := Lineages.around(folder)) is not None:
        own = options.proposer.findings.folder(options.where)
        adoption = Adoption(lineages, folder, opened.ledger, own, proposer.peers, console.notice)
        watchers[f"--lineages: {lineages.findings}"] = adoption
    observer = Observers(console, watchers)
    precheck = Precheck(task, folder, options.max_literal_bytes, claimant)
    keeping = options.snapshots.keeping(folder.path.name)
    executor = open_executor(options.task, options.editable, task, opened.ledger)
    parts = Parts(
        task=task,
        executor=executor,
        proposer=make_proposer(
            *(proposer, workspace, folder, os.environ, precheck.check, observer, device_class(task.terms)),
            check=check_command(folder, options),
            slots=executor.slots,
            lineages=adoption,
        ),
        precheck=precheck,
        rule=options.decision.rule(task.metric),
        ledger=opened.ledger,
        workspace=workspace,
        folder=folder,
        program=opened.program,
        observer=observer,
        interrupts=interrupts,
        disk=DiskGuard(folder, options.snapshots.min_free_bytes),
        retention=Retention(opened.ledger, folder, task.metric, keeping, interrupts, observer.notice),
        pruning=options.decision.pruning(),
        certification=options.decision.certification(),
        flags=flags_to_keep(options, os.environ),
    )
    with closing(console), closing(executor), further:
        try:
            seed = run_seed(options.seed, opened.ledger.settings())
            yield Loop(parts, seed, options.experiments, proposer.asking)
        except sqlite3.Error as error:
            raise LedgerError(f"{folder.ledger}: {error}; the same command goes on from here") from error


def run_seed(given: int | None, settings: Mapping[str, Scalar]) -> int:
    """The source of a run's seeds: the given one, else that of its settings, else a random one.

    A trial's token ids follow from its seed, so a proposer must not be able to predict it.
    """
    if given is not None:
        return given
    recorded = settings.get("seed")
    return secrets.randbits(SEED_BITS) if recorded is None else int(recorded)


def _check_start(
    ledger: Ledger | None, workspace: Workspace, program: ProgramFile, options: Options, proposer: ProposerSettings
) -> None:
    """Refuses what would otherwise fail after minutes of work."""
    if ledger is not None:
        require_began_with(ledger.experiments(), options.start.constants)
    by_hand = proposer.name == BY_HAND
    champion = None if ledger is None else summarize_run(ledger).champion
    if ledger is None or champion is None:
        workspace.require_unused_branch()
        source = workspace.baseline(despite_changes=by_hand).source
    elif by_hand:
        return  # all was tried when the run began
    else:
        source = ledger.source(champion.id)
    warn = None if champion is None else print_notice
    check_proposer(proposer, workspace.asset, options.editable, program.program, source, os.environ, warn)
    _check_table(program, workspace.asset, source, None if champion is None else ledger)
    with made_up_run(options.editable, os.environ, whole=proposer.agent is not None) as made_up:
        if (notice := try_agent(proposer, made_up, source, os.environ)) is not None:
            print_notice(notice)


def _check_table(program: ProgramFile, asset: AssetKind, source: str, ledger: Ledger | None) -> None:
    """Tells which rows of the table do not fit; refuses them where a run begins, which has no `ledger` yet.

    Raises:
      ProgramError: a row of a run that begins does not fit.
    """
    try:
        constants = asset.constants(source)
    except AssetSyntaxError:
        return  # the task says it better
    if ledger is None and (misfits := program.program.usable(asset, source)[1]):
        raise ProgramError(misfits[0])
    space = program.fitting(asset, source, None if ledger is None else settled_constants(ledger), print_notice)
    for warning in program.program.warnings(space, constants):
        print_notice(warning)
