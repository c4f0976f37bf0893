"""`autoresearch swarm replay`: runs a peer's program again, in the sandbox; and the replays of a peer that is idle."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from autoresearch_jax.commands.console import notices_of
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import kept_flags, read_options
from autoresearch_jax.commands.run_flags import RunFlags
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.commands.trial import measure_once
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder, check_settings, find_runs
from autoresearch_jax.engine.state import REFERENCE_SECONDS
from autoresearch_jax.engine.task import CalibratedTask
from autoresearch_jax.errors import UserError
from autoresearch_jax.findings.format import status_of
from autoresearch_jax.report.tables import print_lines
from autoresearch_jax.sandbox.priority import lower_priority_of_this_thread
from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.sandbox.sandbox import Level, scratch_folder
from autoresearch_jax.swarm.contents import read_swarm
from autoresearch_jax.swarm.membership import SwarmFolder
from autoresearch_jax.swarm.peer import Peer
from autoresearch_jax.swarm.replays import (
    Claim,
    Result,
    Setting,
    find_claim,
    idle_claims,
    judge,
    read_program,
    replay_evidence,
)
from autoresearch_jax.types import Measurement, Scalar

_tell = notices_of("swarm")
LOOK_SECONDS = 5.0  # between two looks for something to do, and for runs that have begun
STOP_SECONDS = 0.1  # in which a replay is ended
MOST_SECONDS = 3600.0  # of an idle replay
LOG = "replay.log"  # of those


@dataclass(frozen=True)
class ReplayTask:
    """The task of a run, for programs of others."""

    run: RunFolder
    options: TaskOptions
    setting: Setting
    editable: Path
    reference_seconds: float | None

    @classmethod
    def of_run(cls, run: RunFolder) -> "ReplayTask":
        """That of a run that has begun, which need not be over.

        Raises:
          UserError: its flags are not known, or its trials take several hosts.
        """
        given = RunFlags.read(run)
        if given is None:
            raise UserError(f"{run.path}: its flags are not known: name a run that `autoresearch run` has begun")
        if secret := sorted(given.blanked & kept_flags(TaskOptions).keys()):
            raise UserError(f"{run.path}: --{secret[0]} had a secret in it, which is not kept: name another run")
        options = read_options(given.parse(TaskOptions), TaskOptions)
        if options.hosts.num_hosts > 1:
            raise UserError(f"{run.path}: its trials take {options.hosts.num_hosts} hosts, a replay one: name another")
        # a stranger's text, so that what `auto` falls back to is not enough
        choice = "require" if options.sandbox in ("auto", Level.LIMITS) else options.sandbox
        with closing(Ledger.open_to_read(run.ledger)) as ledger:
            settings = ledger.settings()
            setting = Setting.of_run(ledger, settings, counts_steps=not options.is_command)
        unit = settings.get(REFERENCE_SECONDS)
        editable = Path(str(settings.get("editable")))
        return cls(run, replace(options, sandbox=choice), setting, editable, float(unit) if unit is not None else None)

    def measure(self, source: str, claim: Claim, scratch: Path) -> Measurement:
        """Checks, traces and measures a text as any trial, in a folder that is not the run's.

        Raises:
          UserError: the task is another by now, the sandbox cannot be had, or the machine fails.
        """
        budget = self.setting.budget_of(claim)
        options = replace(self.options, budget_seconds=budget.seconds, budget_steps=budget.steps)
        options.require()
        folder = RunFolder(scratch)
        editable = options.task_file.parent / options.command.asset.file if options.is_command else self.editable
        with (
            closing(Ledger.open_to_read(self.run.ledger)) as ledger,
            closing(options.make_task(scratch, editable, one_trial=True)) as task,
        ):
            now, stored = {"fingerprint": task.fingerprint, **task.terms}, ledger.settings()
            now.pop("clock")  # of steps it is another
            now = {name: value for name, value in now.items() if name in stored}
            check_settings(stored, now, self.run.path, "nothing is replayed")
            if isinstance(task, CalibratedTask):
                task.calibrate(self.reference_seconds, folder.logs)
            seed = claim.evidence.seed
            assert seed is not None
            return measure_once(
                task, source, seed, folder.snapshots / "replay", folder.log_dir(0), on_progress=lambda report: None
            )


def replay(folder: SwarmFolder, where: FolderOptions, format: str, words: list[str]) -> int:
    """Replays a claim and has what came of it sent; exit status 0 if it was borne out.

    Args:
      folder: the peer's.
      where: the run whose task it is.
      format: of what is printed.
      words: the finding's id and the peer's name; without the name any peer's, without both one is drawn.
    """
    peer = Peer(folder, os.environ, _tell)
    task = ReplayTask.of_run(where.existing)
    setting = task.setting
    claim = find_claim(read_swarm(folder, os.environ), setting, *words)
    found, source = read_program(peer.store, claim)
    said = claim.evidence
    if said.device_class != setting.device_class:
        _tell(
            f"{claim.peer} measured on {said.device_class}, this is {setting.device_class}: another score says nothing"
        )
    began = time.monotonic()
    with scratch_folder(".replay-", folder.path.resolve()) as scratch:
        measurement = task.measure(source, claim, scratch)
    result, why = judge(claim, measurement, setting)
    if result is not Result.UNCLEAR:
        date = datetime.now(UTC).date().isoformat()
        evidence = replay_evidence(claim, measurement, setting, result, date, time.monotonic() - began)
        finding = replace(found.finding, status=status_of([evidence]), evidence=(evidence,))
        peer.outbox.put_finding(finding, found.base_text)
    figures: dict[str, Scalar] = {
        "finding": claim.finding.id,
        "peer": claim.peer,
        "commit": claim.commit.commit,
        "seed": said.seed,
        "budget": said.budget,
        "steps": setting.budget_of(claim).steps,
        "claimed": said.value,
        "value": measurement.value,
        "status": str(measurement.status),
        "result": str(result),
        "why": why,
        "sent": "no" if result is Result.UNCLEAR else "with the next round of run --swarm, serve or sync",
    }
    if format == "json":
        print(json.dumps(figures))
    else:
        print_lines(figures, sys.stdout)
    return 0 if result in (Result.EQUAL, Result.WITHIN) else 1


class IdleReplays:
    """Replays one in `ONE_IN` of what is read, one at a time and behind all else, while no run here is at work."""

    def __init__(self, folder: SwarmFolder, where: FolderOptions, tell: Callable[[str], None]) -> None:
        """Refuses a run whose task cannot be had, see `ReplayTask.of_run`; begins nothing yet."""
        self._folder, self._where, self._tell = folder, where, tell
        self._setting = ReplayTask.of_run(where.existing).setting
        self._store = Peer(folder, os.environ, lambda text: None).store
        self._tips: dict[str, str] = {}
        self._claims: list[Claim] = []
        self._tried: set[str] = set()

    def work(self, stopped: threading.Event, done: Callable[[], None]) -> None:
        """Looks for something to do until it is stopped; `done` is called after each replay."""
        lower_priority_of_this_thread()
        failure = ""
        while not stopped.is_set():
            try:
                claim = self._next()
                if claim is not None and self._replay(claim, stopped):
                    done()
                    continue
            except (UserError, OSError) as error:  # as of a disk that is full; what is shared goes on
                if str(error) != failure:
                    failure = str(error)
                    self._tell(f"swarm: {failure}: nothing is replayed")
            stopped.wait(LOOK_SECONDS)

    def _next(self) -> Claim | None:
        if self._is_busy():
            return None
        if (tips := self._store.refs()) != self._tips:
            self._tips = tips
            found = idle_claims(read_swarm(self._folder, os.environ), self._setting)
            self._claims = [claim for claim in found if claim.commit.commit not in self._tried]
        return self._claims[0] if self._claims else None

    def _is_busy(self) -> bool:
        """Whether a run in this folder has its driver at work."""
        return any(run.holder() is not None for run in find_runs(Path(self._where.run_dir)))

    def _replay(self, claim: Claim, stopped: threading.Event) -> bool:
        """One replay in a process of its own, which ends with this one; false if it was ended for something else."""
        words = ["replay", claim.finding.id, claim.peer, f"--tag={self._where.tag}", "--format=json"]
        command = [sys.executable, "-m", "autoresearch_jax.cli", "swarm", *words, f"--run_dir={self._where.run_dir}"]
        log = self._folder.path / LOG
        log.write_text("")
        worker = JsonWorker(command, environment=os.environ, cwd=Path.cwd(), log_path=log)
        what, began = f"{claim.finding.id} of {claim.peer}", time.monotonic()
        looked = began
        try:
            while not stopped.is_set():
                with suppress(ProcessTimeoutError):
                    given = worker.receive(STOP_SECONDS)
                    why = f" ({given['why']})" if given["why"] else ""
                    self._tell(f"swarm: replayed {what}: {given['result']}{why}")
                    break
                now = time.monotonic()
                if now - began > MOST_SECONDS:
                    self._tell(f"swarm: {what}: the replay took more than {MOST_SECONDS:g} s: given up")
                    break
                if now - looked > LOOK_SECONDS:
                    looked = now
                    if self._is_busy():
                        return False
            else:
                return False
        except WorkerDiedError:
            self._tell(f"swarm: {what}: not replayed: {worker.last_words()}")
        finally:
            worker.close()
        self._tried.add(claim.commit.commit)
        self._claims.remove(claim)
        return True
