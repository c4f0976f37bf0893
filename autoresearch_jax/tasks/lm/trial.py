"""A trial as the driver sees it: takes a pre-warmed process, sends it the request and watches it. Loads no JAX.

A snapshot is on disk before it is judged. If the process dies or fails while it judges, a new one judges the snapshot.
"""

import contextlib
import errno
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import disk_error_from_json, new_disk_error, partial_folder
from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.sandbox.sandbox import remove_tree
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.tasks.lm.channel import Gathering
from autoresearch_jax.tasks.lm.config import JUDGE_AGAIN, JUDGE_PHASES, MEASURE, SNAPSHOT, MeasureRequest
from autoresearch_jax.tasks.lm.hosts import FAULT_SECONDS, Hosts, silent_hosts
from autoresearch_jax.types import CandidateUntouched, Measurement, Scalar, Status

PATIENCE_SECONDS = 2.0  # for a standby to finish its imports: at idle priority it may starve, a new process does not
ANSWER_SECONDS = 10.0  # for a standby to wake up; it takes milliseconds
SIGKILL_STATUS = -9  # what the kernel's out-of-memory killer leaves
# Recorded durations of a trial that was trained under an earlier driver
TRAINED_BEFORE = ("startup_seconds", "compile_seconds", "init_seconds", "wall_seconds")

BEFORE_CANDIDATE = "start"  # the phase before the first that a process tells of: it has not read the programs
_STEERING_PREFIXES = ("JAX_", "XLA_")  # of variables that may end each process, or each program

StartWorker = Callable[[Path], JsonWorker]  # takes the log's path


class TaskError(UserError):
    """The harness, not the candidate, failed; the message names the log.

    If a disk failed, the cause is its OSError.
    """


@contextlib.contextmanager
def naming_variables(environment: Mapping[str, str]) -> Iterator[None]:
    """Adds to CandidateUntouched the user's variables that steer JAX, which may be the cause."""
    try:
        yield
    except CandidateUntouched as error:
        names = sorted(name for name in environment if name.startswith(_STEERING_PREFIXES))
        if not names:
            raise
        raise CandidateUntouched(f"{error}; it inherits {', '.join(names)}") from error


def untouched(error: WorkerDiedError | ProcessTimeoutError, worker: JsonWorker, log_path: Path) -> CandidateUntouched:
    """The error for a process of a trial that ended, or did not start in time, and had read nothing of a candidate."""
    words = worker.last_words()
    said = f": {words}" if words else ""
    return CandidateUntouched(f"starting the process of a trial: {error}{said}; see {log_path}")


@dataclass
class Workers:
    """Hands out processes for trials, a pre-warmed one if there is one.

    `start_standby` starts a process with --standby (see `worker.py`), which prints to `standby_log` until it is handed
    out; without that log there is no standby.
    """

    start: StartWorker
    start_standby: StartWorker
    standby_log: Path | None
    _standby: JsonWorker | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)  # of the standby

    def take(self, log_path: Path) -> JsonWorker:
        """A process that prints to `log_path`; a standby that has died or is not ready in time is replaced."""
        if (worker := self._take_standby()) is None:
            return self.start(log_path)
        try:
            worker.come_forward()
            worker.receive(PATIENCE_SECONDS)  # "waiting"
            worker.send({"log": str(log_path.absolute())})
            worker.receive(ANSWER_SECONDS)  # "logging"
        except (ProcessTimeoutError, WorkerDiedError):
            worker.close()
            return self.start(log_path)
        worker.started = time.monotonic()
        worker.prints_to(log_path)
        return worker

    def warm_up(self) -> None:
        """Starts the standby, unless there is one."""
        # A failure is reported when the process is needed
        with self._lock, contextlib.suppress(OSError, RuntimeError):
            if self.standby_log is not None and self._standby is None:
                self.standby_log.unlink(missing_ok=True)
                self._standby = self.start_standby(self.standby_log)

    def close(self) -> None:
        """Ends the standby, if there is one."""
        if (worker := self._take_standby()) is not None:
            worker.close()

    def _take_standby(self) -> JsonWorker | None:
        with self._lock:
            worker, self._standby = self._standby, None
            return worker


@dataclass
class TrialRun:
    """The run of one candidate with one seed; the candidate's `facts` go into the metrics.

    With `hosts` it ends where one of these fails; `gathering` is how its process meets theirs.
    """

    request: MeasureRequest
    facts: Mapping[str, Scalar]
    log_path: Path
    start_worker: Callable[[], JsonWorker]
    on_progress: Callable[[Mapping[str, Scalar]], None]
    hosts: Hosts | None = None
    gathering: Gathering | None = None
    _phase: str = BEFORE_CANDIDATE
    _overdue: str = ""  # what the process was waited for, and how long
    _judged_again: bool = False

    @property
    def _snapshot_dir(self) -> Path:
        return Path(self.request.snapshot_dir)

    def run(self, worker: JsonWorker) -> Measurement:
        """Runs the trial and closes its processes; an existing snapshot is judged if it is this trial's, else removed.

        Raises:
          CandidateUntouched: a process ended before it had read the candidate's programs.
          TaskError: the harness failed, which is no fault of the candidate.
        """
        started = worker.started
        found = self._snapshot_dir.exists()
        operation = JUDGE_AGAIN if found else MEASURE
        if self.hosts is not None:
            self.hosts.stop_by(worker.stop)
        try:
            while True:
                try:
                    event = self._converse(worker, operation)
                except (WorkerDiedError, TaskError) as error:
                    self._require_touched(worker, error)
                    if not self._may_judge_again(error):
                        if isinstance(error, TaskError):
                            raise
                        return self._died(error, worker)
                    worker.close()
                    worker, operation = self.start_worker(), JUDGE_AGAIN
                    self._judged_again = True
                    continue
                if event["event"] == "result":
                    return self._measurement(event, time.monotonic() - started, found)
                self._remove_unfit(event["reason"])
                operation, found = MEASURE, False
        except ProcessTimeoutError as error:
            self._require_touched(worker, error)
            return self._timed_out()
        finally:
            worker.close()
            if (partial := partial_folder(self._snapshot_dir)).exists():  # it may be what filled the disk
                remove_tree(partial)

    def _converse(self, worker: JsonWorker, operation: str) -> dict[str, Any]:
        """Sends a request and returns the answer: a "result" or "unfit" event.

        Raises:
          ProcessTimeoutError: a phase took too long.
          WorkerDiedError: the process ended.
          TaskError: the harness failed.
        """
        self._phase = BEFORE_CANDIDATE
        worker.send(replace(self.request, hosts=self.gathering).to_json(operation))
        for event in self._events(worker):
            match event["event"]:
                case "phase" | "progress":
                    self._phase = event["phase"]
                    told = {name: value for name, value in event.items() if name not in ("event", "limit_seconds")}
                    self.on_progress(told)
                case "failed":
                    error = TaskError(f"the trial process failed: {event['reason']}; see {self.log_path}")
                    if "disk" in event:
                        error.__cause__ = disk_error_from_json(event["disk"], self._snapshot_dir.parent)
                    raise error
                case "result" | "unfit":
                    return event
        raise AssertionError("events end only by an exception")

    def _events(self, worker: JsonWorker) -> Iterator[dict[str, Any]]:
        """Yields the events of a trial; raises ProcessTimeoutError when a phase, or a silence in it, is too long."""
        request, limits, budget = self.request, self.request.limits, self.request.budget
        limit, silence = limits.startup, math.inf
        began = heard = time.monotonic()
        while True:
            by_phase, by_silence = began + limit, heard + silence
            self._overdue = f"{self._phase} took longer than {limit:g} s"
            if by_silence < by_phase:
                program = "`step`" if self._phase == "train" else "`logits`"
                self._overdue = f"{self._phase} took too long: {program} did not end within {silence:.4g} s"
            remaining = min(by_phase, by_silence) - time.monotonic()
            if remaining <= 0:  # even if the answer has just come
                raise ProcessTimeoutError(f"{-remaining:.1f} s late")
            event = worker.receive(remaining)
            heard = time.monotonic()
            if event["event"] == "phase":
                phase, began = event["phase"], heard
                limit = limits.of(phase, budget, request.scrutiny)
                silence = limits.silence(phase, budget, request.min_steps, event.get("limit_seconds"))
            yield event

    def _require_touched(self, worker: JsonWorker, error: WorkerDiedError | ProcessTimeoutError | TaskError) -> None:
        """Raises CandidateUntouched for a process that failed before it read the programs."""
        if self._phase != BEFORE_CANDIDATE:
            return
        if (fault := self._fault()) is not None:
            raise CandidateUntouched(fault) from error
        if not isinstance(error, TaskError):
            raise untouched(error, worker, self.log_path) from error
        if not isinstance(error.__cause__, OSError):  # which is a disk's
            raise CandidateUntouched(clean_line(str(error))) from error

    def _may_judge_again(self, error: WorkerDiedError | TaskError) -> bool:
        """Whether there is a snapshot that was judged once only, and the failure may not repeat itself."""
        if self._judged_again or not self._snapshot_dir.exists() or self.hosts is not None:
            return False
        if isinstance(error, WorkerDiedError):
            return True
        return self._phase in JUDGE_PHASES and not isinstance(error.__cause__, OSError)

    def _remove_unfit(self, reason: str) -> None:
        """Removes a snapshot of another trial; raises TaskError if it is this trial's own or cannot be removed."""
        if self._judged_again:
            raise TaskError(f"the trial cannot be judged again: {reason}; see {self.log_path}")
        remove_tree(self._snapshot_dir)
        if self._snapshot_dir.exists():
            raise TaskError(f"{self._snapshot_dir}: in the way of a trial, and cannot be removed: remove it")

    def _measurement(self, event: Mapping[str, Any], seconds: float, trained_before: bool) -> Measurement:
        metrics = {**self.facts, **event["metrics"]}
        error = event["error"]
        if event["status"] == Status.CRASH and (fault := self._fault()) is not None:
            error = f"{fault}; {error}"
        if trained_before:
            seconds += sum(float(metrics.get(name) or 0) for name in TRAINED_BEFORE)
        return Measurement(
            status=Status(event["status"]),
            value=event["value"],
            seed=self.request.seed,
            metrics={**metrics, "total_seconds": seconds},
            snapshot=None if event["snapshot"] is None else self._snapshot_dir,  # never a path of the process's choice
            error=error,
        )

    def _timed_out(self) -> Measurement:
        """The result of a phase that took too long; raises TaskError if it was waiting for the disk."""
        if self._phase == SNAPSHOT:
            where = self._snapshot_dir.parent
            words = f"{self._overdue}: the disk that holds {where} is slow: use another one, with --run_dir"
            raise TaskError(words) from new_disk_error(errno.ETIMEDOUT, where)
        return self._failed(Status.TIMEOUT, self._overdue)

    def _fault(self) -> str | None:
        """Which other host ended the trial, and why."""
        return None if self.hosts is None else self.hosts.fault(FAULT_SECONDS)

    def _died(self, error: WorkerDiedError, worker: JsonWorker) -> Measurement:
        if (fault := self._fault()) is not None:
            return self._failed(Status.CRASH, f"{fault}, during {self._phase}; see {self.log_path}")
        status = Status.OOM if error.returncode == SIGKILL_STATUS else Status.CRASH
        again = ", judged again" if self._judged_again else ""
        if self.hosts is not None and (words := silent_hosts(worker.log_end())) is not None:
            return self._failed(status, f"{words} during {self._phase}; see {self.log_path}")
        return self._failed(status, f"{error} during {self._phase}{again}; see {self.log_path}")

    def _failed(self, status: Status, reason: str) -> Measurement:
        kept = self._snapshot_dir if self._snapshot_dir.exists() else None
        return Measurement(status, None, self.request.seed, {}, snapshot=kept, error=reason)
