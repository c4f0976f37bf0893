"""The protocol between a run and what executes its trials, and an executor that runs them one after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoresearch_jax.types import (
    UNKNOWN_COMPILE_COST,
    Candidate,
    CompileCost,
    LossLimit,
    Measurement,
    Scalar,
    Scrutiny,
)


@dataclass(frozen=True)
class Work:
    """One trial as data, see `engine.task.Task.measure`."""

    candidate: Candidate
    seed: int
    log_dir: Path
    snapshot_dir: Path
    scrutiny: Scrutiny = Scrutiny.SEARCH
    stop_above: Sequence[LossLimit] = ()
    reference_log_dirs: Sequence[Path] = ()
    compile_cost: CompileCost = UNKNOWN_COMPILE_COST
    on_progress: Callable[[Mapping[str, Scalar]], None] | None = None

    def measured_by(
        self,
        measure: Callable[..., Measurement],
        on_progress: Callable[[Mapping[str, Scalar]], None] | None,
    ) -> Measurement:
        """Calls `measure`, a task's, with this work; progress goes to `on_progress`."""
        return measure(
            self.candidate,
            seed=self.seed,
            log_dir=self.log_dir,
            snapshot_dir=self.snapshot_dir,
            on_progress=on_progress,
            scrutiny=self.scrutiny,
            stop_above=self.stop_above,
            reference_log_dirs=self.reference_log_dirs,
            compile_cost=self.compile_cost,
        )


@dataclass(frozen=True)
class Finished:
    """The answer to one ticket: a measurement, or what the task raised."""

    ticket: int
    measurement: Measurement | None = None
    error: Exception | None = None

    def result(self) -> Measurement:
        """The measurement; raises `error` if there is none."""
        if self.measurement is None:
            assert self.error is not None
            raise self.error
        return self.measurement


class Executor(Protocol):
    """Runs trials of one task; used by one thread.

    Each ticket that is not cancelled is answered exactly once. `Work.on_progress` is called in the thread that is in
    `next_finished`, and only there.
    """

    @property
    def slots(self) -> int:
        """How many trials run at the same time."""

    def submit(self, work: Work) -> int:
        """Hands a trial over; returns its ticket. With all slots taken it waits for its turn."""

    def next_finished(self, timeout: float | None = None) -> Finished | None:
        """Waits until a trial is over.

        A KeyboardInterrupt that arrives here leaves the trials running, until `cancel` or `close`; a trial that runs
        in this thread is over.

        Args:
          timeout: seconds to wait at most; None waits without a limit.

        Returns:
          One answer, or None if the time is over.

        Raises:
          IndexError: all that was submitted is answered or cancelled.
        """

    def cancel(self, ticket: int) -> None:
        """Ends a trial, which is not answered any more; ignores tickets that are unknown or answered."""

    def close(self) -> None:
        """Ends all trials and their processes; nothing is answered any more."""


class LocalExecutor:
    """Runs each trial in the thread that waits for it, so that a signal cuts it short.

    A trial that ends in KeyboardInterrupt is over; to have it again, submit it again.
    """

    slots = 1

    def __init__(self, measure: Callable[..., Measurement]) -> None:
        """Takes `Task.measure` of the task whose trials it runs."""
        self._measure = measure
        self._waiting: dict[int, Work] = {}
        self._submitted = 0

    def submit(self, work: Work) -> int:
        self._submitted += 1
        self._waiting[self._submitted] = work
        return self._submitted

    def next_finished(self, timeout: float | None = None) -> Finished | None:
        """As `Executor.next_finished`, without regard to `timeout`: it runs the trial, to its end."""
        if not self._waiting:
            raise IndexError("no trial is out")
        ticket = next(iter(self._waiting))
        work = self._waiting.pop(ticket)
        try:
            return Finished(ticket, work.measured_by(self._measure, work.on_progress))
        except Exception as error:
            return Finished(ticket, error=error)

    def cancel(self, ticket: int) -> None:
        self._waiting.pop(ticket, None)

    def close(self) -> None:
        """Forgets what was not begun; the task itself is closed by its owner."""
        self._waiting.clear()
