"""One trial as the driver sees it: its process is told what to do and watched; if the judge died, another one judges.

A snapshot is on disk before it is judged. So whatever ends the process after that costs the judging, not the training.
Loads no JAX.
"""

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import partial_folder
from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.sandbox.sandbox import remove_tree
from autoresearch_jax.tasks.lm.disk_faults import from_json, new_disk_error
from autoresearch_jax.tasks.lm.limits import TimeLimits
from autoresearch_jax.tasks.lm.messages import JUDGE_AGAIN, JUDGE_PHASES, MEASURE, SNAPSHOT, MeasureRequest
from autoresearch_jax.types import Measurement, Scalar, Status

MAX_JUDGINGS = 4  # of one snapshot: the first, and three more
SIGKILL_STATUS = -9  # what the kernel's out-of-memory killer leaves
JUDGINGS = "judgings"  # among the metrics, if there was more than one
# Of a trial that was trained by an earlier driver, what of its time is known
TRAINED_BEFORE = ("startup_seconds", "compile_seconds", "init_seconds", "wall_seconds")


class TaskError(UserError):
    """The harness, not the candidate, failed; the message names the log.

    If a disk did, its cause is the OSError that tells which, and why.
    """


class Trial:
    """A trial of one candidate with one seed."""

    def __init__(
        self,
        request: MeasureRequest,
        *,
        limits: TimeLimits,
        facts: Mapping[str, Scalar],
        log_path: Path,
        start_worker: Callable[[], JsonWorker],
        on_progress: Callable[[Mapping[str, Scalar]], None] | None,
    ) -> None:
        """Stores what the trial is.

        Args:
          request: what to train and judge.
          limits: when a phase is killed.
          facts: what is known of the candidate, for the metrics.
          log_path: where its processes print, for messages.
          start_worker: for judging again.
          on_progress: told how far the trial is.
        """
        self._request = request
        self._limits = limits
        self._facts = facts
        self._log_path = log_path
        self._start_worker = start_worker
        self._on_progress = on_progress
        self._snapshot_dir = Path(request.snapshot_dir)
        self._phase = "startup"
        self._judgings = 1

    def run(self, worker: JsonWorker) -> Measurement:
        """Runs the trial; a snapshot that is there already is judged if it is this trial's, else it is removed.

        Args:
          worker: to begin with; ended whatever happens, as are those that come after it.

        Raises:
          TaskError: the harness failed, which is no fault of the candidate.
        """
        started = worker.started
        found = self._snapshot_dir.exists()
        operation = JUDGE_AGAIN if found else MEASURE
        try:
            while True:
                try:
                    event = self._converse(worker, operation)
                except (WorkerDiedError, TaskError) as error:
                    if not self._may_judge_again(error):
                        if isinstance(error, TaskError):
                            raise
                        return self._died(error)
                    worker.close()
                    worker, operation = self._start_worker(), JUDGE_AGAIN
                    self._judgings += 1
                    continue
                if event["event"] == "result":
                    return self._measurement(event, time.monotonic() - started, found)
                self._remove_unfit(event["reason"])
                operation, found = MEASURE, False
        except ProcessTimeoutError:
            return self._timed_out()
        finally:
            worker.close()
            if (partial := partial_folder(self._snapshot_dir)).exists():  # it may be what filled the disk
                remove_tree(partial)

    def _converse(self, worker: JsonWorker, operation: str) -> dict[str, Any]:
        """Has a worker do one thing and returns its answer: a result, or that the snapshot is unfit.

        Raises:
          ProcessTimeoutError: a phase took too long.
          WorkerDiedError: there will be no answer.
          TaskError: the answer is that the harness failed.
        """
        self._phase = "startup"
        worker.send(self._request.to_json(operation))
        for event in self._events(worker):
            match event["event"]:
                case "phase" | "progress":
                    self._phase = event["phase"]
                    if self._on_progress is not None:
                        self._on_progress({name: value for name, value in event.items() if name != "event"})
                case "failed":
                    raise self._task_error(event)
                case "result" | "unfit":
                    return event
        raise AssertionError("events end only by an exception")

    def _task_error(self, event: Mapping[str, Any]) -> TaskError:
        error = TaskError(f"the trial process failed: {event['reason']}; see {self._log_path}")
        if "disk" in event:
            error.__cause__ = from_json(event["disk"], self._snapshot_dir.parent)
        return error

    def _events(self, worker: JsonWorker) -> Iterator[dict[str, Any]]:
        """Events of a trial, as long as each phase keeps within its limit."""
        limits, budget = self._limits, self._request.budget
        deadline = time.monotonic() + limits.startup
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:  # even if its answer came meanwhile: a limit does not depend on who is quicker
                raise ProcessTimeoutError(f"{-remaining:.1f} s late")
            event = worker.receive(remaining)
            reports_steps = event["event"] == "progress" and event["phase"] == "train" and budget.seconds is None
            if event["event"] == "phase" or reports_steps:
                deadline = time.monotonic() + limits.of(event["phase"], budget, self._request.scrutiny)
            yield event

    def _may_judge_again(self, error: WorkerDiedError | TaskError) -> bool:
        """Whether what was trained is on disk, and what failed is not known to fail each time."""
        if self._judgings == MAX_JUDGINGS or not self._snapshot_dir.exists():
            return False
        if isinstance(error, WorkerDiedError):
            return True
        return self._phase in JUDGE_PHASES and not isinstance(error.__cause__, OSError)  # a disk does not mend itself

    def _remove_unfit(self, reason: str) -> None:
        """Makes room for a snapshot, where there is one that cannot be judged as this trial's.

        Raises:
          TaskError: it cannot be removed; or it is the one that this trial has just written.
        """
        if self._judgings > 1:
            raise TaskError(f"the trial cannot be judged again: {reason}; see {self._log_path}")
        remove_tree(self._snapshot_dir)
        if self._snapshot_dir.exists():
            raise TaskError(f"{self._snapshot_dir}: in the way of a trial, and cannot be removed: remove it")

    def _measurement(self, event: Mapping[str, Any], seconds: float, trained_before: bool) -> Measurement:
        metrics = {**self._facts, **event["metrics"]}
        if trained_before:
            seconds += sum(float(metrics.get(name) or 0) for name in TRAINED_BEFORE)
        return Measurement(
            status=Status(event["status"]),
            value=event["value"],
            seed=self._request.seed,
            metrics={**metrics, "total_seconds": seconds, **self._count()},
            snapshot=None if event["snapshot"] is None else Path(event["snapshot"]),
            error=event["error"],
        )

    def _timed_out(self) -> Measurement:
        """What a phase that took too long means.

        Raises:
          TaskError: it was the disk that took it.
        """
        limit = self._limits.of(self._phase, self._request.budget, self._request.scrutiny)
        reason = f"{self._phase} took longer than {limit:g} s"
        if self._phase == SNAPSHOT:
            where = self._snapshot_dir.parent
            words = f"{reason}: the disk that holds {where} is slow: use another one, with --run_dir"
            raise TaskError(words) from new_disk_error(errno.ETIMEDOUT, where)
        return self._failed(Status.TIMEOUT, reason)

    def _died(self, error: WorkerDiedError) -> Measurement:
        status = Status.OOM if error.returncode == SIGKILL_STATUS else Status.CRASH
        times = f", judged {self._judgings} times from one snapshot" if self._judgings > 1 else ""
        return self._failed(status, f"{error} during {self._phase}{times}; see {self._log_path}")

    def _failed(self, status: Status, reason: str) -> Measurement:
        kept = self._snapshot_dir if self._snapshot_dir.exists() else None  # it is there whole or not at all
        return Measurement(status, None, self._request.seed, self._count(), snapshot=kept, error=reason)

    def _count(self) -> dict[str, Scalar]:
        return {JUDGINGS: self._judgings} if self._judgings > 1 else {}
