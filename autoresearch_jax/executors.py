"""Where trials run: the protocol between a run and what executes its trials; and this machine, one trial at a time."""

from collections import deque
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


class Executor(Protocol):
    """Runs trials of one task."""

    @property
    def slots(self) -> int:
        """How many trials run at the same time."""
        ...

    def submit(self, work: Work) -> int:
        """Hands a trial over; returns its ticket."""
        ...

    def next_finished(self) -> tuple[int, Measurement]:
        """Waits until a trial is over; returns its ticket and what it gave.

        Raises:
          IndexError: nothing was submitted.
          Exception: what the task raised.
        """
        ...


class LocalExecutor:
    """Runs each trial in the thread that waits for it, so that a signal cuts it short.

    A trial that ends in an exception, such as KeyboardInterrupt, is over; to have it again, submit it again.
    """

    slots = 1

    def __init__(self, measure: Callable[..., Measurement]) -> None:
        """Takes `Task.measure` of the task whose trials it runs."""
        self._measure = measure
        self._waiting: deque[tuple[int, Work]] = deque()
        self._submitted = 0

    def submit(self, work: Work) -> int:
        self._submitted += 1
        self._waiting.append((self._submitted, work))
        return self._submitted

    def next_finished(self) -> tuple[int, Measurement]:
        ticket, work = self._waiting.popleft()
        measurement = self._measure(
            work.candidate,
            seed=work.seed,
            log_dir=work.log_dir,
            snapshot_dir=work.snapshot_dir,
            on_progress=work.on_progress,
            scrutiny=work.scrutiny,
            stop_above=work.stop_above,
            reference_log_dirs=work.reference_log_dirs,
            compile_cost=work.compile_cost,
        )
        return ticket, measurement
