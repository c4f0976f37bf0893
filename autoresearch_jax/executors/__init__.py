"""Where trials run: the protocol between a run and what executes its trials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoresearch_jax.types import Candidate, LossLimit, Measurement, Scalar, Scrutiny


@dataclass(frozen=True)
class Work:
    """One trial as data, see `engine.task.Task.measure`."""

    candidate: Candidate
    seed: int
    log_dir: Path
    snapshot_dir: Path
    scrutiny: Scrutiny = Scrutiny.SEARCH
    stop_above: Sequence[LossLimit] = ()
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
        """Waits until a trial is over; returns its ticket and what it gave. Raises what the task raised."""
        ...
