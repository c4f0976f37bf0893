"""Drivers of a fake task as processes of their own, for tests that kill them.

As a program it is a nursery: it has imported everything, and forks a driver for each order that it reads.
"""

import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from durable import Operations
from fakes import SNAPSHOT_BYTES, FakeTask

from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import option
from autoresearch_jax.commands.proposer_options import ProposerSettings
from autoresearch_jax.commands.run import OpenRun, run_loop
from autoresearch_jax.commands.run_options import GIB, DecisionOptions, RunOptions, SnapshotOptions
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.errors import UserError
from autoresearch_jax.snapshots.retention import Keeping

TAG = "night"
IMPORTED_LATE = (  # by a driver that proposes: two thirds of the work of a short run
    "libcst",
    "autoresearch_jax.proposers.constants",
    "autoresearch_jax.proposers.constants_model",
)


@dataclass(frozen=True)
class Order:
    """A driver to start.

    Attributes:
      repo: where its run is.
      experiments: when it ends.
      trial_seconds: how long a trial takes.
      has_worker: see `FakeTask`.
      min_free_bytes: see `RunOptions`.
      stubborn: its task takes a minute to end what it does.
      place: see `Keeping`.
      snapshot_bytes: size of a snapshot.
      prune_after: prunes trials once so many candidates have run to their end; None for never.
      die_before: number of the durable operation before which it dies as by `kill -9`; None for never.
      journal: file to which a line for each durable operation is added, if any.
      states: folder to which the repository is copied before each durable operation, if any.
      variables: added to its environment.
      log: file for what it prints; driver.log in the repository if empty.
    """

    repo: str
    experiments: int
    trial_seconds: float = 0.0
    has_worker: bool = False
    min_free_bytes: int = 0
    stubborn: bool = False
    place: str | None = None
    snapshot_bytes: int = SNAPSHOT_BYTES
    prune_after: int | None = None
    die_before: int | None = None
    journal: str = ""
    states: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    log: str = ""


@dataclass(frozen=True)
class _Decision(DecisionOptions):
    """Prunes sooner, or never."""

    least_finished: int | None = option(None, "experiments that are over before any is pruned")

    def pruning(self) -> Pruning | None:
        return None if self.least_finished is None else Pruning(least_finished=self.least_finished)


@dataclass(frozen=True)
class _Snapshots(SnapshotOptions):
    """The folder that is named is the run's."""

    def keeping(self, tag: str) -> Keeping:
        return Keeping(self.keep_last, self.keep_best, self.snapshot_dir)


def drive(order: Order) -> int:
    """Works on a run as the command would; returns the exit status."""
    repo = Path(order.repo)
    options = RunOptions(
        where=FolderOptions(TAG, str(repo / "runs")),
        seed=0,
        decision=_Decision(certify_every=2, least_finished=order.prune_after),
        snapshots=_Snapshots(1, 0, order.place, order.min_free_bytes / GIB),
        program=repo / "program.md",
        editable=repo / "train_lib.py",
        experiments=order.experiments,
    )
    folder = options.where.folder
    folder.create()
    workspace = Workspace.of(options.editable, TAG, folder.workspace, os.environ)
    task, program = (
        FakeTask(
            order.trial_seconds,
            has_worker=order.has_worker,
            snapshot_bytes=order.snapshot_bytes,
            has_curves=order.prune_after is not None,
        ),
        ProgramFile(options.program),
    )
    if order.stubborn:
        task.close = lambda: time.sleep(60)
    with folder.lock(), Interrupts().installed() as interrupts, closing(Ledger.open(folder.ledger)) as ledger:
        try:
            return run_loop(
                options, ProposerSettings("constants"), OpenRun(task, workspace, ledger, program), interrupts
            )
        finally:
            task.close()


def main() -> None:
    """Forks a driver for each line of standard input; prints its pid, and its exit status when it has ended."""
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become_driver(Order(**json.loads(line)))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become_driver(order: Order) -> None:
    status = 1
    try:
        os.environ.update(order.variables)
        with Path(order.log or f"{order.repo}/driver.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        with open(os.devnull) as null:
            os.dup2(null.fileno(), 0)
        if order.die_before is not None or order.journal:
            states = (Path(order.repo), Path(order.states)) if order.states else None
            Operations(order.die_before, Path(order.journal) if order.journal else None, states=states)
        status = drive(order)
    except UserError as error:  # as the command line does
        print(f"autoresearch run: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Nursery:
    """Starts drivers one after the other, without waiting for their imports."""

    def __init__(self, enter: Callable[[list[str]], list[str]] = list) -> None:
        """Starts the nursery; `enter` makes of its command one that runs it elsewhere, such as in a namespace."""
        self._process: subprocess.Popen[str] = subprocess.Popen(
            enter([sys.executable, __file__]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, order: Order) -> int:
        """Starts a driver; returns its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        return self._read()

    def wait(self) -> int:
        """The exit status of the driver that was started last, once it has ended; negative for a signal."""
        return self._read()

    def run(self, order: Order) -> int:
        """Starts a driver and waits for its end."""
        self.start(order)
        return self.wait()

    def close(self) -> None:
        """Ends the nursery; its driver must have ended."""
        self._process.communicate()

    def _read(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def log_of(repo: Path) -> str:
    """What the drivers of a run printed."""
    return (repo / "driver.log").read_text()


if __name__ == "__main__":
    main()
