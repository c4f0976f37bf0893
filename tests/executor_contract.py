"""What every executor promises a run, see `executors.base.Executor`; called for each of them by its own test."""

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from marked_processes import MARK, comes_true, marked_processes

from autoresearch_jax.executors.base import Executor, Finished, Work
from autoresearch_jax.sandbox.process import JsonWorker, WorkerDiedError
from autoresearch_jax.types import Candidate, Measurement, Scalar, Status

SECONDS = 300.0  # within which what is waited for comes
# What the process of a trial does; each has a child in a session of its own.
WAYS = {
    "answer": "echo '{\"value\": 1.5}'; read line",
    "crash": "exit 3",
    "be killed": "kill -9 $$",
    "hang": "read line",
}
FULL = "fill the disk"


class ProcessMeasurer:
    """Measures with a real process, which does what the candidate's source names; stopped as a task is.

    It carries a mark, the folder where it leaves a file when it has begun: a node of a cluster has other logs.
    """

    def __init__(self) -> None:
        self._worker: JsonWorker | None = None

    def measure(
        self,
        candidate: Candidate,
        *,
        seed: int,
        log_dir: Path,
        snapshot_dir: Path,
        on_progress: Callable[[Mapping[str, Scalar]], None] | None = None,
        **more: Any,
    ) -> Measurement:
        """See `Task.measure`."""
        if candidate.source == FULL:
            raise OSError(errno.ENOSPC, "No space left on device", str(log_dir))
        words = f"setsid sleep 600 & echo '{{}}'; {WAYS[candidate.source]}"
        mark = Path(str(candidate.facts[MARK]))
        environment = {**os.environ, MARK: str(mark)}
        worker = JsonWorker(
            ["/bin/sh", "-c", words], environment=environment, cwd=log_dir, log_path=log_dir / f"{seed}.log"
        )
        self._worker = worker
        try:
            worker.receive(SECONDS)
            if on_progress is not None:
                on_progress({"phase": "train", "seed": seed})
            (mark / f"{seed}.begun").touch()
            return Measurement(Status.OK, worker.receive(10 * SECONDS)["value"] + seed, seed)
        except WorkerDiedError as error:
            status = Status.OOM if error.returncode == -9 else Status.CRASH
            return Measurement(status, None, seed, error=str(error))
        finally:
            self._worker = None
            worker.close()

    def close(self) -> None:
        """Ends the trial that runs."""
        if (worker := self._worker) is not None:
            worker.stop()


class Trials:
    """Work of `ProcessMeasurer` in a folder, and what an executor makes of it."""

    def __init__(self, executor: Executor, folder: Path, seed: int = 0) -> None:
        """`seed` is the one before the first trial's."""
        self.executor = executor
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.told: list[tuple[int, int]] = []  # seed of each report, and the thread in which it was told
        self._seed = seed

    def submit(self, way: str) -> int:
        """Hands a trial over whose process does this."""
        self._seed += 1
        seed = self._seed
        return self.executor.submit(
            Work(
                Candidate(way, "a hash", facts={MARK: str(self.logs)}),
                seed,
                self.logs,
                self.logs / f"snapshot-{seed}",
                on_progress=lambda report: self.told.append((int(str(report["seed"])), threading.get_ident())),
            )
        )

    def next(self) -> Finished:
        """The next answer, which must come."""
        finished = self.executor.next_finished(SECONDS)
        assert finished is not None
        return finished

    def has_begun(self, seed: int) -> bool:
        """Waits until a trial has begun."""
        return comes_true((self.logs / f"{seed}.begun").exists, SECONDS)

    def left(self) -> list[int]:
        """Processes of trials."""
        return marked_processes(f"{MARK}={self.logs}")


def check_answers(make: Callable[[], Executor], folder: Path) -> None:
    """Each ticket is answered once, with what its trial came to; waiting ones can be cancelled; closing forgets.

    Args:
      make: an executor of `ProcessMeasurer`.
      folder: an empty one.
    """
    trials = Trials(make(), folder / "answers")
    with pytest.raises(IndexError):
        trials.executor.next_finished()
    ways = ["answer", "crash", "be killed", FULL, "answer"]
    tickets = {trials.submit(way): number for number, way in enumerate(ways, start=1)}
    found = {finished.ticket: finished for finished in (trials.next() for _ in ways)}
    assert found.keys() == tickets.keys()
    with pytest.raises(IndexError):
        trials.executor.next_finished(0)
    full = next(finished for ticket, finished in found.items() if ways[tickets[ticket] - 1] == FULL)
    assert isinstance(full.error, OSError), repr(full)
    assert full.error.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space"):
        full.result()
    came = {tickets[ticket]: finished.measurement for ticket, finished in found.items() if finished is not full}
    assert {seed: (one.seed, one.status, one.value) for seed, one in came.items() if one is not None} == {
        1: (1, Status.OK, 2.5),
        2: (2, Status.CRASH, None),
        3: (3, Status.OOM, None),
        5: (5, Status.OK, 6.5),
    }
    assert sorted(trials.told) == [(seed, threading.get_ident()) for seed in (1, 2, 3, 5)]
    trials.executor.cancel(next(iter(tickets)))  # answered
    trials.executor.cancel(10**6)  # unknown
    trials.executor.close()
    assert comes_true(lambda: trials.left() == [], SECONDS)


def check_running(make: Callable[[], Executor], folder: Path) -> None:
    """Trials run beside the thread that waits: cancelled while they run or wait, closed, ended before asked for.

    Args:
      make: an executor of `ProcessMeasurer` with two slots.
      folder: an empty one.
    """
    trials = Trials(make(), folder / "running")
    executor = trials.executor
    assert executor.slots == 2
    hanging, beside = trials.submit("hang"), trials.submit("hang")
    waiting, last = trials.submit("hang"), trials.submit("answer")
    assert trials.has_begun(1)
    assert trials.has_begun(2)
    began = time.monotonic()
    assert comes_true(lambda: executor.next_finished(0.05) is None and len(trials.told) == 2, SECONDS)
    assert time.monotonic() - began < SECONDS
    assert sorted(trials.told) == [(seed, threading.get_ident()) for seed in (1, 2)]
    executor.cancel(waiting)
    executor.cancel(hanging)  # the slot goes on with the last
    assert trials.next() == Finished(last, Measurement(Status.OK, 5.5, 4))
    assert executor.next_finished(0) is None, "the other one is still at work"
    assert not (trials.logs / "3.begun").exists()
    unasked = trials.submit("answer")  # is answered, whether or not that is asked for
    assert trials.has_begun(5)
    executor.cancel(beside)
    assert trials.next().ticket == unasked
    dropped = trials.submit("answer")
    assert trials.has_begun(6)
    executor.cancel(dropped)  # over or not
    with pytest.raises(IndexError):
        executor.next_finished(0)
    for way in ("hang", "answer", "hang", "hang"):
        trials.submit(way)
    assert trials.has_begun(7)
    executor.close()
    assert comes_true(lambda: trials.left() == [], SECONDS)
    executor.close()
